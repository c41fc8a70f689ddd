"""A recipe: all that an answer depends on, in one JSON file. What a registered model version is made of."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bioquant import checkpoints, quantization
from bioquant.config import (
    EngineConfig,
    ModelConfig,
    PromptConfig,
    QuantConfig,
    RunConfig,
    ShotSelection,
    TaskConfig,
)
from bioquant.errors import RegistryError
from bioquant.journal import from_json, to_json
from bioquant.plan import EXTRAS, RunPlan, versions
from bioquant.prompts import TEMPLATE_VERSION, clean_pool, fixed_shots
from bioquant.records import Row

FORMAT = 2
"""Raised with every change of the file that an earlier version cannot read."""

RUNTIME = ("bioquant", "torch", "transformers", "accelerate")
"""Distributions that answering needs, whatever the recipe."""

PARTS: dict[str, type] = {
    "model": ModelConfig,
    "quant": QuantConfig,
    "task": TaskConfig,
    "prompt": PromptConfig,
    "engine": EngineConfig,
}
"""The parts of a run's configuration that answers depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a cell answers.

    shots: the few-shot examples themselves, where all requests get the same; their gold answers are their targets.
    dataset_sha256: of the dataset whose pool the examples come from: for kNN, and where no text may be kept; else None,
        for then nothing is read.
    libraries: the versions that it was evaluated with.
    """

    model: ModelConfig
    quant: QuantConfig
    task: TaskConfig
    prompt: PromptConfig
    engine: EngineConfig
    seed: int
    shots: tuple[Row, ...]
    dataset_sha256: str | None
    template_version: int
    libraries: Mapping[str, str]

    @property
    def config(self) -> RunConfig:
        """What the stages of a run are given."""
        return RunConfig(
            model=self.model, quant=self.quant, task=self.task, prompt=self.prompt, engine=self.engine, seed=self.seed
        )

    @property
    def label(self) -> str:
        """How the cell is called."""
        return f"{self.model.name} · {self.quant.name} · {self.task.name} · {self.prompt.name}"

    @property
    def sha256(self) -> str:
        """The same for the same recipe, whoever registers it, and when."""
        return hashlib.sha256(json.dumps(_values(self), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def of_plan(plan: RunPlan, installed: Mapping[str, str]) -> Recipe:
    """The recipe of a cell that was evaluated under these versions, of which those it needs are kept."""
    config, dataset = plan.config, plan.dataset
    needed = (*RUNTIME, quantization.library(config.quant), *(EXTRAS if config.engine.name == "vllm" else ()))
    pool = clean_pool(dataset.test, dataset.pool)
    shots = fixed_shots(pool, config.task, config.prompt, config.seed)
    kept = config.privacy.log_text
    return Recipe(
        model=config.model,
        quant=replace(config.quant, check=False),
        task=config.task,
        prompt=config.prompt,
        engine=config.engine,
        seed=config.seed,
        shots=tuple(_as_shown(row) for row in shots) if kept else (),
        dataset_sha256=dataset.digest if chooses_by_request(config.prompt) or (shots and not kept) else None,
        template_version=TEMPLATE_VERSION,
        libraries={name: version for name, version in installed.items() if name in needed},
    )


def _as_shown(row: Row) -> Row:
    """A few-shot example without what only scoring and error messages need: where it came from."""
    return replace(row, unit="", group="", source="")


def chooses_by_request(prompt: PromptConfig) -> bool:
    """Whether the few-shot examples depend on what is asked: then the pool is needed, not some of it."""
    return prompt.selection is ShotSelection.knn and prompt.num_shots > 0


def with_weights(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with weights that it has already quantized, in place of the model's own."""
    return replace(recipe, model=checkpoints.in_folder(recipe.model, folder))


def write(recipe: Recipe, path: Path) -> None:
    """One readable JSON file."""
    path.write_text(json.dumps(_values(recipe), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Recipe:
    """The opposite of `write`. Raises RegistryError for a file that this version does not read or could not follow."""
    values = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    if values["format"] != FORMAT or values["template_version"] != TEMPLATE_VERSION:
        made_by = values["libraries"]["bioquant"]
        raise RegistryError(
            f"the recipe was made by bioquant {made_by}, whose prompts this version ({versions()['bioquant']}) does "
            f"not write: its answers would not be those evaluated. Install bioquant=={made_by}, or register anew."
        )
    try:
        parts = {name: _part(schema, values[name]) for name, schema in PARTS.items()}
    except OmegaConfBaseException as error:
        raise RegistryError(f"the recipe {path} cannot be read: {str(error).splitlines()[0]}") from error
    return Recipe(
        **parts,
        seed=values["seed"],
        shots=tuple(_row(shot) for shot in values["shots"]),
        dataset_sha256=values["dataset_sha256"],
        template_version=values["template_version"],
        libraries=values["libraries"],
    )


def changed_libraries(recipe: Recipe, ours: Sequence[str]) -> list[str]:
    """`transformers 5.23.0, here 5.24.0` for each of these libraries that is not what the recipe was evaluated with."""
    here = versions()
    return [
        f"{name} {recipe.libraries[name]}, here {here[name]}"
        for name in ours
        if name in recipe.libraries and recipe.libraries[name] != here[name]
    ]


def _values(recipe: Recipe) -> dict[str, Any]:
    parts = {
        name: OmegaConf.to_container(OmegaConf.structured(getattr(recipe, name)), enum_to_str=True) for name in PARTS
    }
    return {
        "format": FORMAT,
        "template_version": recipe.template_version,
        **parts,
        "seed": recipe.seed,
        "shots": [_plain(shot) for shot in recipe.shots],
        "dataset_sha256": recipe.dataset_sha256,
        "libraries": dict(recipe.libraries),
    }


def _part(schema: type, values: Mapping[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))


def _plain(row: Row) -> dict[str, Any]:
    """A few-shot example as JSON: what its prompt shows, and its gold answer."""
    shown = {key: value for key, value in asdict(row).items() if key in ("id", "inputs", "choices", "options")}
    return {**shown, "target": json.loads(to_json(row.target))}


def _row(values: Mapping[str, Any]) -> Row:
    target = from_json(json.dumps(values["target"]))
    assert target is not None
    return Row(
        id=values["id"],
        inputs=values["inputs"],
        target=target,
        choices=tuple(values["choices"]),
        options=tuple(values["options"]),
    )
