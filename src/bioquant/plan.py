"""A cell's identity, decided before anything is loaded: what it is, and what it is compared with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from bioquant import quantization
from bioquant.config import (
    ModelConfig,
    ModelSource,
    PromptConfig,
    QuantConfig,
    QuantMethod,
    RunConfig,
    TaskConfig,
    WeightFormat,
)
from bioquant.prompts import TEMPLATE_VERSION
from bioquant.records import Dataset, Example

LIBRARIES = ("bioquant", "torch", "transformers", "bitsandbytes", "optimum-quanto", "accelerate")
"""Whose versions a fingerprint holds."""

EXTRAS = ("vllm", "vllm-bnb-plugin", "hqq", "torchao", "gptqmodel", "compressed-tensors")
"""As those, where they are installed."""

BASELINE = QuantConfig(name="none", method=QuantMethod.none, weight_format=WeightFormat.none, bits=0)
"""The recipe every candidate is compared with: the model in its own dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A cell that is decided and not started.

    examples: none until the cell is prepared: its identity needs no written prompts.
    cell_id: SHA-256 of all that decides the predictions. baseline_cell_id: the same cell's at quant=none.
    fingerprint: the cell, how it is measured and the library versions: what a resumed sweep looks for.
    setting: what tells it from cells of a sweep that are named alike, as overrides.
    """

    config: RunConfig
    dataset: Dataset
    examples: tuple[Example, ...]
    cell_id: str
    baseline_cell_id: str
    fingerprint: str
    setting: str = ""

    @property
    def num_examples(self) -> int:
        """How many test examples the cell takes."""
        limit, number = self.config.limit, self.dataset.num_test
        return number if limit is None else min(limit, number)

    @property
    def is_baseline(self) -> bool:
        """Whether the model is unquantized."""
        return self.cell_id == self.baseline_cell_id

    @property
    def name(self) -> str:
        """How the run reads in a list."""
        config = self.config
        names = (config.model.name, config.quant.name, config.task.name, config.prompt.name, self.setting)
        return " · ".join(filter(None, names))


def plan(config: RunConfig, dataset: Dataset, examples: tuple[Example, ...] = ()) -> RunPlan:
    """Give a cell its identity. Pure."""
    cell_id = _digest(_identity(config, dataset))
    baseline = _digest(_identity(replace(config, quant=BASELINE), dataset))
    measured = {
        "cell": cell_id,
        "measure": asdict(config.measure),
        "device": config.engine.device,
        "versions": versions(),
        **({"check": True} if config.quant.check else {}),
        **({} if config.privacy.log_text else {"log_text": False}),
    }
    return RunPlan(
        config=config,
        dataset=dataset,
        examples=examples,
        cell_id=cell_id,
        baseline_cell_id=baseline,
        fingerprint=_digest(measured),
    )


@cache
def versions() -> dict[str, str]:
    """The installed versions of the libraries that can change a prediction or a figure."""
    found = {library: library_version(library) for library in LIBRARIES + EXTRAS}
    return {library: known or "absent" for library, known in found.items() if known or library in LIBRARIES}


def library_version(library: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _identity(config: RunConfig, dataset: Dataset) -> dict[str, object]:
    """What decides a cell's predictions, and nothing else: names, paths and places are left out."""
    return {
        "model": _model(config.model),
        "quant": _quant(config.quant, config.model),
        "dataset": dataset.digest,
        "task": _task(config.task),
        "prompt": _prompt(config.prompt),
        "template_version": TEMPLATE_VERSION,
        "engine": {
            "name": config.engine.name,
            "batch": config.engine.batch,
            "batch_memory_gib": config.engine.batch_memory_gib,
            "batch_tokens": config.engine.batch_tokens,
            "prefill_tokens": config.engine.prefill_tokens,
            "share_prefix": config.engine.share_prefix,
            "compile": config.engine.compile,
            "scoring": config.engine.scoring,
            "max_new_tokens": config.engine.max_new_tokens,
        },
        "limit": config.limit,
        "seed": config.seed,
    }


def _model(model: ModelConfig) -> dict[str, object]:
    """A checkpoint brings its architecture along; what `conf/model` says of it decides random weights only."""
    described = ("name", "family", "domain", "general_counterpart", "num_parameters", "licence", "gated", "calibrated")
    shaped = () if model.source is ModelSource.random else ("architecture",)
    return _without(asdict(model), described + shaped)


def _quant(quant: QuantConfig, model: ModelConfig) -> dict[str, object]:
    """The unquantized recipe has no settings: its bits and formats must not make two baselines of one.

    Settings that only some recipes have are named with those alone; a calibration text is known by its digest.
    """
    if quant.method is QuantMethod.none:
        return {"method": "none"}
    some: dict[str, object] = {}
    if quantization.is_published(quant):
        some |= {"checkpoint": model.calibrated.get(quant.name)}
    if quantization.calibrates(quant):
        some |= {"desc_act": quant.desc_act, "calibration": _without(asdict(quant.calibration), ("task", "file"))}
    if quantization.grouped(quant):
        some["group_size"] = quant.group_size
    unset = [key for key in ("block_size", "overrides") if not getattr(quant, key)]
    left_out = ("name", "bits", "requires", "check", "group_size", "desc_act", "calibration", *unset)
    return {**_without(asdict(quant), left_out), **some}


def _task(task: TaskConfig) -> dict[str, object]:
    """The wording and the labels; the data themselves are in the dataset's digest."""
    return {
        "kind": task.kind,
        "instruction": task.instruction,
        "labels": [asdict(label) for label in task.labels],
        "negative_label": task.negative_label,
        "max_new_tokens": task.max_new_tokens,
    }


def _prompt(prompt: PromptConfig) -> dict[str, object]:
    return _without(asdict(prompt), ("name", "kinds"))


def _without(mapping: Mapping[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if key not in keys}


def _digest(value: object) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
