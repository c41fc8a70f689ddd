"""The cells of a sweep: which can run, which need not, in which order; and the plan that is shown before any does."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

from bioquant import calibration, datasets, places, prompts, recipe_checks
from bioquant.config import RunConfig
from bioquant.engine import offers
from bioquant.hardware import Gpu, capability_of, device_of, with_budget
from bioquant.plan import RunPlan, plan
from bioquant.records import Dataset, Outcome
from bioquant.shown import masked, one_line

AXES = ("model", "quant", "task", "prompt")


@dataclass(frozen=True, slots=True)
class Cell:
    """A planned cell, the folder it writes to, and the command that runs it alone.

    group: cells that agree in it share a loaded model.
    """

    plan: RunPlan
    folder: Path
    command: str
    group: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        config = self.plan.config
        loaded = config.quant, offers.what_is_loaded(config.engine)
        object.__setattr__(self, "group", (repr(config.model), repr(loaded)))


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a sweep comes to: cells to run in their order, finished ones, and those that cannot run, each with why."""

    cells: Sequence[Cell]
    finished: Sequence[tuple[Cell, Outcome]] = ()
    pruned: Sequence[tuple[Cell, str]] = ()

    @property
    def legal(self) -> list[Cell]:
        """All but the pruned ones."""
        return [*self.cells, *(cell for cell, _ in self.finished)]

    def axes(self) -> dict[str, list[str]]:
        """The values each axis takes."""
        configs = [cell.plan.config for cell in self.legal]
        return {axis: list(dict.fromkeys(getattr(config, axis).name for config in configs)) for axis in AXES}

    def without(self, finished: Mapping[str, Outcome]) -> "SweepPlan":
        """The plan once the cells with these fingerprints need not be run again."""
        left = [cell for cell in self.cells if cell.plan.fingerprint not in finished]
        found = [(cell, finished[cell.plan.fingerprint]) for cell in self.cells if cell.plan.fingerprint in finished]
        return replace(self, cells=left, finished=found)


def plan_sweep(configs: Sequence[RunConfig], commands: Sequence[str], folder: Path, gpus: Sequence[Gpu]) -> SweepPlan:
    """Give each cell its identity, and leave out what cannot run. Reads each task's files once; loads no model.

    Raises ConfigError, DataError, QuantError for what is wrong in the request itself.
    """
    read: dict[str, tuple[Dataset, int]] = {}
    cells: list[Cell] = []
    pruned: list[tuple[Cell, str]] = []
    seen: dict[str, Cell] = {}
    for config in configs:
        offers.check_engine(config.engine)
    for number, (config, command) in enumerate(zip(configs, commands, strict=True)):
        key = repr((config.task, config.data))
        if key not in read:
            dataset = datasets.load(config.task, places.data_root(config.data.root))
            read[key] = dataset, len(prompts.clean_pool(dataset.test, dataset.pool))
        dataset, num_pool = read[key]
        planned = calibration.decided(with_budget(config, gpus))
        cell = Cell(plan(planned, dataset), folder / str(number), command)
        reason = unmet(config, num_pool, gpus) or calibration.unmet(config, dataset) or _again(cell, seen)
        if reason is None:
            cells.append(cell)
        else:
            pruned.append((cell, reason))
    return SweepPlan(order(told_apart(cells)), pruned=pruned)


def told_apart(cells: Sequence[Cell]) -> list[Cell]:
    """Each with the settings in which it differs from those of the same model, quant, task and prompt by name.

    A sweep over `quant.group_size=32,64` has two of each four names.
    """
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[cell.plan.name].append(cell)
    found = {key: setting for some in alike.values() if len(some) > 1 for key, setting in _settings(some).items()}
    return [
        replace(cell, plan=replace(cell.plan, setting=found[cell.plan.fingerprint]))
        if cell.plan.fingerprint in found
        else cell
        for cell in cells
    ]


def _settings(alike: Sequence[Cell]) -> dict[str, str]:
    """By fingerprint: what varies among these cells, as overrides; cut, since some trackers' names have 250 places."""
    leaves = [dict(_leaves("", asdict(cell.plan.config))) for cell in alike]
    keys = dict.fromkeys(chain.from_iterable(leaves))
    varied = [key for key in keys if any(other.get(key) != leaves[0].get(key) for other in leaves)]
    return {
        cell.plan.fingerprint: _cut(" · ".join(f"{key}={_shown(own[key])}" for key in varied if key in own), 120)
        for cell, own in zip(alike, leaves, strict=True)
    }


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Each setting by its dotted key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}".lstrip("."), inner)
    else:
        yield path, value


def _shown(value: object) -> str:
    """As it is written in an override; text without quotes, the beginning of a long one."""
    return _cut(masked(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":")), 40)


def _cut(text: str, most: int) -> str:
    return one_line(text if len(text) <= most else f"{text[: most - 1]}…")


def unmet(config: RunConfig, num_pool: int, gpus: Sequence[Gpu]) -> str | None:
    """Why this cell cannot run, by the rules its parts declare; None where it can. Raises QuantError."""
    recipe_checks.check_recipe(config.quant, by_vllm=config.engine.name == "vllm")
    device = device_of(config, gpus)
    return (
        offers.unmet(config)
        or recipe_checks.unmet(config.quant, config.model, device, capability_of(device, gpus))
        or prompts.unmet(config.task, config.prompt, num_pool)
    )


def _again(cell: Cell, seen: dict[str, Cell]) -> str | None:
    """Two choices that come to the same cell are run once."""
    first = seen.setdefault(cell.plan.fingerprint, cell)
    return None if first is cell else f"the same cell as {first.plan.name}"


def order(cells: Sequence[Cell]) -> list[Cell]:
    """By model and quant, the baseline first, otherwise in the order the axes were given."""
    rank = {name: index for index, name in enumerate(dict.fromkeys(name for cell in cells for name in cell.group))}
    return sorted(cells, key=lambda cell: (rank[cell.group[0]], not cell.plan.is_baseline, rank[cell.group[1]]))


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Neighbours that share a loaded model."""
    return [list(group) for _, group in groupby(cells, key=lambda cell: cell.group)]
