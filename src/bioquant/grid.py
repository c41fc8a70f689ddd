"""Composing thousands of cells: what only its own part of the configuration depends on is composed once, not per cell.

Hydra takes a tenth of a second for one configuration. In a sweep over models, quants, tasks and prompts, `task=medqa`
gives the same `task` in every cell: it is composed with the first cell's other choices, and put together with the rest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace

from bioquant.config import RunConfig
from bioquant.validation import check

Overrides = tuple[str, ...]
Compose = Callable[[list[str]], RunConfig]

PARTS = frozenset(field.name for field in fields(RunConfig))


def compose(one: Compose, jobs: Sequence[Sequence[str]]) -> list[RunConfig]:
    """Each job's configuration, as `one` composes it. Raises ConfigError.

    An override that changes another part than the one it names (an experiment, an interpolation) is not separable:
    then, and where it would take no fewer steps, every job is composed by itself.
    """
    split = [_by_part(job) for job in jobs]
    steps = 2 + sum(len({job.get(part, ()) for job in split}) - 1 for part in _parts(split))
    if steps < len(jobs):
        found = _separated(one, jobs, split)
        if found is not None and found[-1] == one(list(jobs[-1])):
            for config in found:
                check(config)
            return found
    return [one(list(job)) for job in jobs]


def _separated(
    one: Compose, jobs: Sequence[Sequence[str]], split: Sequence[Mapping[str, Overrides]]
) -> list[RunConfig] | None:
    """The cells put together from parts; None where a part depends on another one's choice."""
    base = one(list(jobs[0]))
    composed: dict[tuple[str, Overrides], RunConfig] = {}
    for part in _parts(split):
        for overrides in dict.fromkeys(job.get(part, ()) for job in split):
            if overrides == split[0].get(part, ()):
                continue
            other = one([*_without(jobs[0], part), *overrides])
            if part not in PARTS or replace(other, **{part: getattr(base, part)}) != base:
                return None
            composed[part, overrides] = other
    return [
        replace(base, **{part: getattr(composed[part, o], part) for part, o in job.items() if (part, o) in composed})
        for job in split
    ]


def _by_part(job: Sequence[str]) -> dict[str, Overrides]:
    """The overrides by the part of the configuration they name: `model=x` and `model.dtype=y` are one choice."""
    found: dict[str, Overrides] = {}
    for override in job:
        part = _part(override)
        found[part] = (*found.get(part, ()), override)
    return found


def _without(job: Sequence[str], part: str) -> list[str]:
    return [override for override in job if _part(override) != part]


def _part(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition(".")[0]


def _parts(split: Iterable[Mapping[str, Overrides]]) -> list[str]:
    return list(dict.fromkeys(part for job in split for part in job))
