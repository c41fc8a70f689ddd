"""MLflow: the only module that logs to it. What a run holds is named here and nowhere else."""

import json
import logging
import os
import platform
import re
import socket
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from bioquant import places
from bioquant.config import RunConfig, TrackingConfig
from bioquant.errors import BioquantError, TrackingError
from bioquant.plan import RunPlan, versions
from bioquant.records import Footprint, Latency, Outcome, Percentiles, RunResult

Status = Literal["FINISHED", "FAILED", "KILLED"]

TABLE_ROWS = 500
"""Rows of the predictions table the UI shows; `predictions.parquet` holds them all."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the experiment in the UI on its runs, not on the pages for chat traces."""

NOT_IN_A_NAME = re.compile(r"[^\w ./:-]")
"""Characters that MLflow refuses in a metric's name."""

# A server that does not answer must be found out in seconds; MLflow's own defaults try for minutes.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@dataclass(frozen=True, slots=True)
class Store:
    """An open tracking store: known to answer and to hold the experiment."""

    client: MlflowClient
    experiment_id: str
    uri: str


# Its messages about creating tables are no news to a user.
logging.getLogger("mlflow").setLevel(logging.WARNING)


def open_store(config: TrackingConfig) -> Store:
    """Connect, make the experiment where it is missing. Raises TrackingError, within seconds, where that fails.

    The first use of a SQLite file creates its tables: call this once, before workers start.
    """
    uri = places.tracking_uri(config.uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        with _environment(IMPATIENT):
            client = MlflowClient(uri)
            return Store(client, _experiment(client, config.experiment, uri), uri)
    except MlflowException as error:
        unreachable = "Max retries exceeded" in str(error)
        reason = "no server answers there." if unreachable else " ".join(str(error).split())[:200]
        raise TrackingError(
            f"tracking store '{uri}' cannot be used: {reason} Start a server (bioquant ui), or set tracking.uri or "
            "MLFLOW_TRACKING_URI."
        ) from error


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    # A server chooses (and proxies) its own artifact location; a SQLite file keeps artifacts beside itself.
    local = uri.startswith("sqlite:///")
    location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts" / name).as_uri() if local else None
    return client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)


@contextmanager
def _environment(values: Mapping[str, str]) -> Generator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def start_run(store: Store, plan: RunPlan, folder: Path, *, sweep_id: str | None, parent_run_id: str | None) -> str:
    """Open the cell's run with its params, tags and dataset; returns the run id. The run is RUNNING until `end_run`."""
    tags = run_tags(plan, folder, sweep_id) | ({"mlflow.parentRunId": parent_run_id} if parent_run_id else {})
    run = store.client.create_run(store.experiment_id, run_name=plan.name, tags=tags)
    params = run_params(plan.config, sweep_id)
    store.client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
    store.client.log_inputs(run.info.run_id, [_dataset_input(plan)])
    return run.info.run_id


def start_sweep(store: Store, sweep_id: str, folder: Path, axes: Mapping[str, Sequence[str]]) -> str:
    """Open the parent run of a sweep; its params are the values each axis takes."""
    tags = {"sweep_id": sweep_id, "bioquant.kind": "sweep", "folder": str(folder)} | _owner()
    run = store.client.create_run(store.experiment_id, run_name=sweep_id, tags=tags)
    params = [Param(axis, ",".join(values)) for axis, values in axes.items()]
    store.client.log_batch(run.info.run_id, params=[*params, Param("sweep_id", sweep_id)])
    return run.info.run_id


def log_result(store: Store, run_id: str, result: RunResult, folder: Path) -> None:
    """Metrics in one batch, the tags that are known only now, and the files of the cell's folder."""
    now = get_current_time_millis()
    metrics = [Metric(key, value, now, 0) for key, value in metric_values(result).items()]
    tags = {"device": result.footprint.device, "input_ids_sha256": result.input_ids_sha256, "headline": result.headline}
    store.client.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
    for name in (
        "config.yaml",
        "environment.json",
        "predictions.parquet",
        "quantization.json",
        "scores.json",
        "labels.json",
        "labels.png",
    ):
        store.client.log_artifact(run_id, str(folder / name))
    table = pd.read_parquet(folder / "predictions.parquet").head(TABLE_ROWS)
    shown = table[["example_id", "prompt", "output", "answer", "target", "correct", "invalid"]]
    store.client.log_table(run_id, shown, "predictions.json")


def log_sweep_table(store: Store, run_id: str, rows: Sequence[Mapping[str, object]]) -> None:
    """The sweep's cells as a table on the parent run."""
    store.client.log_table(run_id, pd.DataFrame(list(rows)), "cells.json")


def end_run(store: Store, run_id: str, status: Status, error: BaseException | None = None) -> None:
    """Give the run its terminal status and, where it failed, the reason."""
    if error is not None:
        store.client.set_tag(
            run_id, "error.kind", error.kind if isinstance(error, BioquantError) else type(error).__name__
        )
        store.client.set_tag(run_id, "error.message", " ".join(str(error).split())[:1000])
    store.client.set_terminated(run_id, status)


@contextmanager
def closing(store: Store, run_id: str, folder: Path) -> Generator[None]:
    """End the run with what really happened inside: FINISHED, FAILED with its reason, or KILLED on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        end_run(store, run_id, "KILLED")
        raise
    except BaseException as error:
        log_failure(store, run_id, folder)
        end_run(store, run_id, "FAILED", error)
        raise
    end_run(store, run_id, "FINISHED")


def log_failure(store: Store, run_id: str, folder: Path) -> None:
    """What a failed cell left behind: its configuration, its log with the traceback, the predictions it had made."""
    for name in ("config.yaml", "run.log", "journal.jsonl"):
        if (folder / name).exists():
            store.client.log_artifact(run_id, str(folder / name))


def run_params(config: RunConfig, sweep_id: str | None) -> dict[str, str]:
    """The short whitelist of a run's params: what one filters and compares by. All else is in `config.yaml`."""
    model, quant, prompt, engine = config.model, config.quant, config.prompt, config.engine
    params: dict[str, object] = {
        "model": model.name,
        "quant": quant.name,
        "task": config.task.name,
        "prompt": prompt.name,
        "model.id": model.id,
        "model.source": model.source,
        "model.revision": model.revision or "",
        "model.dtype": model.dtype,
        "model.num_parameters": model.num_parameters or "",
        "quant.method": quant.method,
        "quant.weight_format": quant.weight_format,
        "quant.bits": quant.bits,
        "quant.double_quant": quant.double_quant,
        "quant.compute_dtype": quant.compute_dtype or model.dtype,
        "task.kind": config.task.kind,
        "task.max_new_tokens": config.task.max_new_tokens,
        "prompt.num_shots": prompt.num_shots,
        "prompt.selection": prompt.selection,
        "prompt.chain_of_thought": prompt.chain_of_thought,
        "prompt.num_samples": prompt.num_samples,
        "prompt.temperature": prompt.temperature,
        "engine.name": engine.name,
        "engine.device": engine.device,
        "engine.batch_size": engine.batch_size,
        "engine.scoring": engine.scoring,
        "limit": "all" if config.limit is None else config.limit,
        "seed": config.seed,
    }
    if sweep_id:
        params["sweep_id"] = sweep_id
    return {key: str(value) for key, value in params.items()}


def run_tags(plan: RunPlan, folder: Path, sweep_id: str | None) -> dict[str, str]:
    """What identifies a run and who owns it."""
    config = plan.config
    tags = {
        "bioquant.kind": "cell",
        "cell_id": plan.cell_id,
        "fingerprint": plan.fingerprint,
        "baseline_cell_id": plan.baseline_cell_id,
        "model": config.model.name,
        "quant": config.quant.name,
        "task": config.task.name,
        "prompt": config.prompt.name,
        "dataset_sha256": plan.dataset.digest,
        "folder": str(folder),
        "mlflow.note.content": _note(plan),
    }
    library_tags = {f"version.{library}": found for library, found in versions().items()}
    return tags | library_tags | _owner() | ({"sweep_id": sweep_id} if sweep_id else {})


def _note(plan: RunPlan) -> str:
    """The description shown at the top of a run's page."""
    config = plan.config
    return (
        f"**{config.task.name}** ({config.task.description}) answered by **{config.model.name}** at "
        f"**{config.quant.name}**, prompted **{config.prompt.name}**: {len(plan.examples)} of "
        f"{plan.dataset.num_test} test examples."
    )


def _owner() -> dict[str, str]:
    return {
        "mlflow.source.name": "bioquant run",
        "mlflow.source.type": "LOCAL",
        "owner.host": socket.gethostname(),
        "owner.pid": str(os.getpid()),
        "version.python": platform.python_version(),
    }


def _dataset_input(plan: RunPlan) -> DatasetInput:
    """The dataset as a logged input. MLflow allows 36 characters of digest; the whole is the tag `dataset_sha256`."""
    profile = {
        "num_test": plan.dataset.num_test,
        "num_evaluated": len(plan.examples),
        "num_pool": len(plan.dataset.pool),
    }
    dataset = MlflowDataset(
        name=plan.config.task.name,
        digest=plan.dataset.digest[:36],
        source_type=plan.dataset.origin,
        source=json.dumps({"get": plan.config.task.get}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])


def outcome(result: RunResult) -> Outcome:
    """A result in short, for the tables."""
    return Outcome(metrics=metric_values(result), input_ids_sha256=result.input_ids_sha256)


def metric_values(result: RunResult) -> dict[str, float]:
    """Every figure of a result under its MLflow name. What was not measured is absent."""
    headline = next(score for score in result.scores if score.name == result.headline)
    values = {"quality": headline.value, "quality_ci_low": headline.ci_low, "quality_ci_high": headline.ci_high}
    for score in result.scores:
        values |= {
            score.name: score.value,
            f"{score.name}_ci_low": score.ci_low,
            f"{score.name}_ci_high": score.ci_high,
        }
    rates = ("invalid_rate", "empty_rate", "truncated_input_rate", "truncated_output_rate")
    values |= {rate: getattr(result, rate) for rate in rates}
    values |= {f"trivial/{NOT_IN_A_NAME.sub('', name)}": value for name, value in result.trivial.items()}
    values |= {"num_examples": float(result.num_examples)}
    return values | _footprint_values(result.footprint)


def _footprint_values(footprint: Footprint) -> dict[str, float]:
    named: dict[str, float | None] = {
        "memory/weights_mib": footprint.weights_mib,
        "memory/load_peak_mib": footprint.load_peak_mib,
        "memory/peak_allocated_mib": footprint.peak_allocated_mib,
        "memory/peak_reserved_mib": footprint.peak_reserved_mib,
        "memory/peak_device_mib": footprint.peak_device_mib,
        "load/seconds": footprint.load_s,
        "throughput/examples_per_s": footprint.examples_per_s,
        "throughput/output_tokens_per_s": footprint.output_tokens_per_s,
        "throughput/prompt_tokens_per_s": footprint.prompt_tokens_per_s,
        "energy/joules_per_example": footprint.joules_per_example,
    }
    if footprint.latency is not None:
        named |= _latency_values(footprint.latency)
    return {key: value for key, value in named.items() if value is not None}


def _latency_values(latency: Latency) -> dict[str, float | None]:
    named = _percentile_values("ttft_ms", latency.ttft_ms) | _percentile_values("example_ms", latency.example_ms)
    if latency.tpot_ms is not None:
        named |= _percentile_values("tpot_ms", latency.tpot_ms)
    return named | {"latency/num_examples": float(latency.example_ms.count)}


def _percentile_values(name: str, percentiles: Percentiles) -> dict[str, float | None]:
    return {
        f"latency/{name}_p50": percentiles.p50,
        f"latency/{name}_p95": percentiles.p95,
        f"latency/{name}_p99": percentiles.p99,
    }


# ---- interface first: the functions below are agreed upon and stay as they are; their bodies follow ----
# Every `run_id` below is what start_run gave back: MLflow's run id, or, where the server was away, a local key that
# every function here takes in its place, in every process of the project, before and after the run's delivery.


@dataclass(frozen=True, slots=True)
class Reaped:
    """A run that was still RUNNING though its owner is gone, and what it was closed with.

    status: FINISHED where its whole result stands in the spool, else KILLED (with the tag `reaped` that says why).
    """

    run_id: str
    name: str
    owner: str
    status: Status


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a delivery came to: runs delivered whole, runs that still wait, and refused ones with the server's reason."""

    delivered: int
    waiting: int
    refused: Mapping[str, str]


def open_spool(config: TrackingConfig) -> Store:
    """A worker's view of a store that its parent has opened: writes go to the spool, the parent delivers them.

    Imports no mlflow and opens no connection. `log_result`, `log_failure` and `beat` are what a worker needs.
    """
    raise NotImplementedError


def finished(store: Store, fingerprints: Collection[str]) -> dict[str, Outcome]:
    """The FINISHED cells among these fingerprints, the latest run of each: one search (paged), and the spool.

    Where the server is away: the cells that this project has delivered before, and those that wait in the spool.
    """
    raise NotImplementedError


def beat(store: Store, run_id: str) -> None:
    """Tell that the run's owner is alive. Never waits and never fails; at most one call in HEARTBEAT_S reaches the server.

    A process that started or re-attached a run beats for it by itself; this is for one that works on another's run.
    """
    raise NotImplementedError


def reap(store: Store) -> list[Reaped]:
    """Close the runs still RUNNING whose owner is gone: on this host by pid and start time, elsewhere by heartbeat age."""
    raise NotImplementedError


def reattach(store: Store, run_id: str) -> None:
    """Go on in a run that another process began (a preempted cell): RUNNING again, owned by this process.

    Raises TrackingError where neither spool nor server knows the run.
    """
    raise NotImplementedError


def run_of(folder: Path) -> str | None:
    """The run id that start_run wrote into a cell's folder, for a requeued job that finds its folder taken."""
    raise NotImplementedError


def flush(store: Store) -> Delivery:
    """Wait until the spool is delivered; gives up once nothing has moved for FLUSH_S seconds.

    `closing` calls it at its end; a sweep that ends runs with `end_run` calls it once, at its end.
    """
    raise NotImplementedError


def sync(store: Store) -> Delivery:
    """Deliver what waits in the spool, in this thread, those refused before included. Raises TrackingError (away)."""
    raise NotImplementedError
