"""Logged cells with answers made up by a seed: in memory, and in a real tracking store."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.utils.time import get_current_time_millis

from bioquant.evidence import Answered, LoggedRun, ModelFacts, gather
from bioquant.journal import shown, to_json
from bioquant.records import Answer

FACTS = ModelFacts(licence="Apache-2.0", num_parameters=135_000_000, domain="general", general_counterpart=None)
METRICS = {
    "memory/weights_mib": 500.0,
    "memory/peak_allocated_mib": 1000.0,
    "memory/peak_device_mib": 1200.0,
    "latency/example_ms_p50": 100.0,
    "latency/example_ms_p95": 200.0,
    "energy/joules_per_example": 10.0,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished cell to be: what it is called, what it answered to which targets, what it cost."""

    targets: Sequence[Answer]
    answers: Sequence[Answer | None]
    kind: str = "qa"
    model: str = "small"
    quant: str = "none"
    task: str = "demo"
    prompt: str = "zero_shot"
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Mapping[str, float] = field(default_factory=lambda: METRICS)
    facts: ModelFacts = FACTS
    machine: str = "NVIDIA H100"
    ids: Sequence[str] = ()
    units: Sequence[str] = ()
    num_test: int = 0
    start_ms: int = 1_000

    @property
    def example_ids(self) -> list[str]:
        return list(self.ids) or [f"e{place}" for place in range(len(self.targets))]


def digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def all_params(cell: Cell) -> dict[str, str]:
    size = "" if cell.facts.num_parameters is None else str(cell.facts.num_parameters)
    named = {"model": cell.model, "quant": cell.quant, "task": cell.task, "prompt": cell.prompt}
    others = {
        "model.num_parameters": size,
        "task.kind": cell.kind,
        "prompt.num_shots": "5" if "five" in cell.prompt else "0",
        "prompt.chain_of_thought": str("cot" in cell.prompt),
        "prompt.num_samples": "1",
        "limit": "all",
        "seed": "0",
    }
    return {**named, **others, **cell.params}


def all_tags(cell: Cell) -> dict[str, str]:
    base = (cell.model, cell.task, cell.prompt, *cell.params.values())
    cell_id, baseline = digest(*base, cell.quant), digest(*base, "none")
    device = "cpu" if "CPU" in cell.machine else "cuda:0"
    headline = {"ner": "entity_f1", "qa": "accuracy"}.get(cell.kind, "macro_f1")
    ours = {"cell_id": cell_id, "baseline_cell_id": baseline, "device": device, "owner.host": "here"}
    return {**ours, "headline": headline, "version.bioquant": "0.1.0", "dataset_sha256": "d" * 64, **cell.tags}


def answered(cell: Cell) -> Answered:
    """The cell as it would be read back, its `quality` computed from its answers."""
    run = LoggedRun(
        run_id=digest(*all_tags(cell).values(), cell.machine, str(cell.start_ms))[:32],
        start_ms=cell.start_ms,
        artifact_uri="file:///nowhere",
        params=all_params(cell),
        tags=all_tags(cell),
        metrics=cell.metrics,
        num_test=cell.num_test or len(cell.targets),
        machine=cell.machine,
        facts=cell.facts,
    )
    found = Answered(
        run=run,
        example_ids=tuple(cell.example_ids),
        units=tuple(cell.units or cell.example_ids),
        targets=tuple(to_json(target) for target in cell.targets),
        answers=tuple(to_json(answer) for answer in cell.answers),
        asked=tuple(digest(cell.model, cell.prompt, name) for name in cell.example_ids),
    )
    quality = gather([found])[0].quality(run.run_id)
    return replace(found, run=replace(run, metrics={"quality": quality, **run.metrics}))


def log(client: MlflowClient, experiment_id: str, cell: Cell, quality: float | None = None) -> str:
    """The cell as a finished run of a real store, with the files a comparison reads; returns its run id."""
    found = answered(cell) if quality is None else None
    tags = {**all_tags(cell), "bioquant.kind": "cell", "model": cell.model, "fingerprint": digest(str(cell))}
    run = client.create_run(experiment_id, run_name=cell.model, tags=tags, start_time=cell.start_ms)
    now = get_current_time_millis()
    values = {**cell.metrics, "quality": quality if found is None else found.run.metrics["quality"]}
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in values.items()],
        params=[Param(name, value) for name, value in all_params(cell).items()],
    )
    profile = json.dumps({"num_test": cell.num_test or len(cell.targets)})
    dataset = Dataset(name=cell.task, digest="d", source_type="local", source="{}", profile=profile)
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])])
    write_files(cell, Path(run.info.artifact_uri.removeprefix("file://")))
    client.set_terminated(run.info.run_id, "FINISHED")
    return run.info.run_id


def write_files(cell: Cell, folder: Path) -> None:
    """The artifacts, straight into the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model: dict[str, Any] = {
        "name": cell.model,
        "licence": cell.facts.licence,
        "num_parameters": cell.facts.num_parameters,
        "domain": cell.facts.domain,
        "general_counterpart": cell.facts.general_counterpart,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    machine = {"gpu": cell.machine, "cpu": cell.machine, "python": "3.11"}
    (folder / "environment.json").write_text(json.dumps(machine), encoding="utf-8")
    table = pd.DataFrame(
        {
            "example_id": cell.example_ids,
            "prompt": [f"Prompt of {name}" for name in cell.example_ids],
            "output": ["" if answer is None else shown(answer) for answer in cell.answers],
            "unit": list(cell.units) or cell.example_ids,
            "target_json": [to_json(target) for target in cell.targets],
            "answer_json": [to_json(answer) for answer in cell.answers],
            "input_ids_sha256": [digest(cell.model, cell.prompt, name) for name in cell.example_ids],
        }
    )
    table.to_parquet(folder / "predictions.parquet", index=False)
