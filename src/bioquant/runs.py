"""MLflow, read back: finished cells with their predictions, and the runs that hold what was concluded from them."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse
from urllib.request import url2pathname

import pandas as pd
import yaml
from mlflow.entities import Metric, Param, Run, RunInputs
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis
from pyarrow import ArrowException, parquet

from bioquant import places, progress
from bioquant.compare import Compared, Comparison, Refusal
from bioquant.config import TrackingConfig
from bioquant.errors import TrackingError
from bioquant.evidence import Answered, ExampleSet, LoggedRun, ModelFacts, gather, told_apart
from bioquant.journal import from_json
from bioquant.records import Span
from bioquant.shown import masked
from bioquant.tracking import Store, closing, open_store

# MLflow prints a run's address to stdout when it ends: in the midst of what --json prints.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

PAGE = 1000
"""Runs a search gives at once."""

READERS = 8
"""Predictions files read at once: they wait for the network or the disk."""

COLUMNS = ("example_id", "unit", "target_json", "answer_json", "input_ids_sha256")
"""What a comparison needs of `predictions.parquet`."""

FLIP = ("flip", "example_id", "prompt", "right", "baseline", "candidate", "baseline_output", "candidate_output")
"""Columns of a table of flips: right is the gold answer, baseline and candidate are theirs."""

FINISHED_CELLS = "attributes.status = 'FINISHED' and tags.`bioquant.kind` = 'cell'"

IDS_PER_TAG = 150
"""Run ids, with the commas between them, that fit a tag's 5,000 characters."""


def open_existing(config: TrackingConfig) -> Store:
    """The store that runs were logged to. Raises TrackingError where it is away, or none: reading must not make one."""
    uri = places.tracking_uri(config.uri)
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).exists():
        raise TrackingError(
            f"tracking store '{path}' does not exist yet: log runs first, for example: bioquant run "
            "experiment=quickstart, or name another store with --uri"
        )
    return open_store(config, to_read=True)


def read(store: Store) -> list[LoggedRun]:
    """The finished cells; of those with the same cell, device and host the latest. Raises TrackingError for none."""
    latest: dict[tuple[str, ...], Run] = {}
    for run in _finished(store):
        latest.setdefault((run.data.tags["cell_id"], *_host(run)), run)
    if not latest:
        raise TrackingError(
            f"tracking store '{store.uri}' holds no finished cell: log some with bioquant run -m …, or name another "
            "store with --uri and another experiment with tracking.experiment="
        )
    return told_apart(described(store, list(latest.values())))


def described(store: Store, found: Sequence[Run]) -> list[LoggedRun]:
    """Finished cells with what their models and machines are, which is looked up once each. Raises TrackingError."""
    models = {run.data.params["model"]: run for run in reversed(found)}
    facts = {name: _facts(store, run) for name, run in models.items()}
    machines = {_host(run): run for run in reversed(found)}
    named = {host: _machine(store, run) for host, run in machines.items()}
    return [_logged(run, facts[run.data.params["model"]], named[_host(run)]) for run in found]


def of_cell(store: Store, cell_id: str) -> list[Run]:
    """The finished runs of one cell, the latest first."""
    return list(_finished(store, f"{FINISHED_CELLS} and tags.cell_id = '{cell_id}'"))


def _finished(store: Store, condition: str = FINISHED_CELLS) -> Iterator[Run]:
    """Page by page, the latest first."""
    token: str | None = None
    while True:
        page = store.client.search_runs(
            [store.experiment_id],
            condition,
            max_results=PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _host(run: Run) -> tuple[str, str]:
    return run.data.tags["device"], run.data.tags["owner.host"]


def _uri(run: Run) -> str:
    return cast(str, run.info.artifact_uri)


def _logged(run: Run, facts: ModelFacts, machine: str) -> LoggedRun:
    dataset = cast(RunInputs, run.inputs).dataset_inputs[0].dataset
    profile = json.loads(cast(str, dataset.profile))
    return LoggedRun(
        run_id=run.info.run_id,
        start_ms=run.info.start_time,
        artifact_uri=_uri(run),
        params=run.data.params,
        tags={tag: value for tag, value in run.data.tags.items() if not tag.startswith("mlflow.")},
        metrics=run.data.metrics,
        num_test=int(profile["num_test"]),
        machine=machine,
        facts=facts,
    )


def _facts(store: Store, run: Run) -> ModelFacts:
    """What the run's own configuration says of its model; runs logged before a key was known lack it."""
    path = artifact(store, run.info.run_id, _uri(run), "config.yaml")
    model = cast(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8"))["model"])
    return ModelFacts(
        licence=model["licence"],
        num_parameters=model["num_parameters"],
        domain=model.get("domain", "general"),
        general_counterpart=model.get("general_counterpart"),
    )


def _machine(store: Store, run: Run) -> str:
    """The name of the GPU, or of the processor where it ran on that."""
    environment = read_environment(store, run.info.run_id, _uri(run))
    device = run.data.tags["device"]
    return environment.get("gpu" if device.startswith("cuda") else "cpu", device)


def read_environment(store: Store, run_id: str, artifact_uri: str) -> dict[str, str]:
    """Where a run was measured: machine, libraries, commit."""
    return json.loads(artifact(store, run_id, artifact_uri, "environment.json").read_text(encoding="utf-8"))


def artifact(store: Store, run_id: str, artifact_uri: str, name: str) -> Path:
    """A run's file: where it lies, if that is on this machine, else fetched once into the cache.

    A finished run does not change, so what is in the cache stays right. Raises TrackingError.
    """
    if urlparse(artifact_uri).scheme == "file":
        path = Path(url2pathname(urlparse(artifact_uri).path)) / name
        if path.exists():
            return path
        raise TrackingError(
            f"run {run_id}: its artifact {path} is not there: was the folder moved, or is it elsewhere?"
        )
    cached = places.cache_dir() / "runs" / run_id / name
    if not cached.exists():
        _fetch(store, run_id, name, cached)
    return cached


def _fetch(store: Store, run_id: str, name: str, cached: Path) -> None:
    """Fetch beside its place and move it there whole: two processes may want the same file."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cached.parent))
    try:
        Path(store.client.download_artifacts(run_id, name, str(folder))).replace(cached)
    except (MlflowException, OSError) as error:
        reason = masked(" ".join(str(error).split()))[:200]
        raise TrackingError(
            f"run {run_id}: its artifact {name} cannot be fetched from {store.uri}: {reason}"
        ) from error
    finally:
        shutil.rmtree(folder)


def evidence(store: Store, runs: Sequence[LoggedRun]) -> tuple[list[ExampleSet], list[Refusal]]:
    """What the runs answered, by the examples they share; and the runs that do not say enough."""
    refusals: list[Refusal] = []

    def sound() -> Iterator[Answered]:
        with progress.examples("reading predictions", len(runs)) as advance:
            for found in _in_parallel(store, runs):
                if isinstance(found, Refusal):
                    refusals.append(found)
                else:
                    yield found
                advance(1)

    return gather(sound()), refusals


def _in_parallel(store: Store, runs: Sequence[LoggedRun]) -> Iterator[Answered | Refusal]:
    """In the runs' order, a few at a time: no more are held than are being read."""
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(runs), READERS):
            yield from readers.map(partial(answers, store), runs[start : start + READERS])


def answers(store: Store, run: LoggedRun) -> Answered | Refusal:
    """What one run answered, or why that cannot be compared."""
    path = artifact(store, run.run_id, run.artifact_uri, "predictions.parquet")
    try:
        file = parquet.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            logged = run.tags.get("version.bioquant", "an earlier version")
            return Refusal(
                run=run,
                reason=f"its predictions.parquet has no column {', '.join(missing)} (logged by bioquant {logged}): "
                "run it again",
            )
        table = file.read(columns=list(COLUMNS), use_threads=False)
    except (ArrowException, OSError) as error:
        return Refusal(run=run, reason=f"its predictions.parquet cannot be read: {' '.join(str(error).split())[:200]}")
    columns = [tuple(cast(list[str], table.column(name).to_pylist())) for name in COLUMNS]
    ids, units, targets, answered, asked = columns
    return Answered(run=run, example_ids=ids, units=units, targets=targets, answers=answered, asked=asked)


def texts(store: Store, run: LoggedRun, example_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The prompt and the output of some of a run's examples, by id."""
    path = artifact(store, run.run_id, run.artifact_uri, "predictions.parquet")
    table = parquet.read_table(path, columns=["example_id", "prompt", "output"])
    wanted = set(example_ids)
    return {
        row["example_id"]: (row["prompt"], row["output"]) for row in table.to_pylist() if row["example_id"] in wanted
    }


def table(found: Sequence[LoggedRun]) -> pd.DataFrame:
    """A row a cell, in the order of task, model, prompt and falling memory: the axes, and every metric by its name."""
    axes = ("task", "model", "prompt", "quant")
    rows = [{axis: run.params[axis] for axis in axes} | {"run_id": run.run_id, **run.metrics} for run in found]
    return pd.DataFrame(rows).sort_values(
        ["task", "model", "prompt", "memory/weights_mib"], ascending=[True, True, True, False], ignore_index=True
    )


def predictions(store: Store, run: LoggedRun) -> pd.DataFrame:
    """A row an example: prompt, output, answer, target, whether it is invalid or correct, tokens and times."""
    return pd.read_parquet(artifact(store, run.run_id, run.artifact_uri, "predictions.parquet"))


def flips(store: Store, compared: Compared, one: Comparison) -> pd.DataFrame:
    """The examples that only one of a pair has right, the two answers and outputs side by side."""
    examples = compared.set_of(one.candidate)
    ids = [*one.lost, *one.gained]
    before, after = texts(store, one.baseline, ids), texts(store, one.candidate, ids)
    rows = [
        (
            "lost" if example_id in one.lost else "gained",
            example_id,
            after[example_id][0],
            *examples.answers(one.baseline, one.candidate, example_id),
            before[example_id][1],
            after[example_id][1],
        )
        for example_id in ids
    ]
    return pd.DataFrame(rows, columns=list(FLIP))


def hallucinated(store: Store, run: LoggedRun) -> pd.DataFrame:
    """NER: the mentions a cell named that stand nowhere in the text (the parser gives them the offsets -1)."""
    rows = [
        {"example_id": example["example_id"], "type": span.label, "mention": span.text, "output": example["output"]}
        for example in predictions(store, run).to_dict("records")
        for span in from_json(example["answer_json"]) or ()
        if isinstance(span, Span) and span.start < 0
    ]
    return pd.DataFrame(rows, columns=["example_id", "type", "mention", "output"])


def log_conclusion(
    store: Store,
    kind: str,
    name: str,
    folder: Path,
    *,
    evidence_ids: Sequence[str],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    note: str,
) -> str:
    """A run of `kind` that holds what was concluded: the folder's files, and the ids of the runs it rests on.

    Returns its run id.
    """
    ids = sorted(evidence_ids)
    pieces = [ids[start : start + IDS_PER_TAG] for start in range(0, len(ids), IDS_PER_TAG)]
    own = {
        **{f"evidence.{number}": ",".join(piece) for number, piece in enumerate(pieces)},
        "evidence.num_runs": str(len(ids)),
        "bioquant.kind": kind,
        "version.bioquant": version("bioquant"),
        "mlflow.source.name": "bioquant",
        "mlflow.note.content": note,
    }
    run_id = store.client.create_run(store.experiment_id, run_name=name, tags={**tags, **own}).info.run_id
    with closing(store, run_id, folder):
        now = get_current_time_millis()
        store.client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
            params=[Param(key, value) for key, value in params.items()],
        )
        store.client.log_artifacts(run_id, str(folder))
    return run_id
