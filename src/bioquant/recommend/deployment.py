"""One model at one precision for all tasks. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bioquant.compare import Compared
from bioquant.config import PolicyConfig
from bioquant.evidence import LoggedRun
from bioquant.recommend.choices import Candidate, Deployment, TaskChoice
from bioquant.recommend.rivalry import Option, choose
from bioquant.recommend.task import distance
from bioquant.statistics import FloatArray, interval


def for_all(
    tasks: Sequence[TaskChoice], weights: Mapping[str, float], compared: Compared, policy: PolicyConfig
) -> tuple[tuple[Deployment, ...], Deployment | None, str]:
    """Every model and quant, the one to run for all tasks (None where no one serves all), and why."""
    found = [
        _deployment(model, quant, tasks, weights, compared, policy)
        for model, quant in sorted({(one.run.model, one.run.recipe) for choice in tasks for one in choice.candidates})
    ]
    complete = [one for one in found if not one.missing]
    if not complete:
        far = {one.label: _distance(one, tasks) for one in found}
        found.sort(key=lambda one: (far[one.label], one.label))
        return tuple(found), None, _nothing(found[0], len(tasks))
    options = [_option(one, weights, compared) for one in complete]
    choice = choose(options, policy, sum(task.examples.num_units for task in tasks))
    told = [replace(one, why_not=choice.why_not.get(one.label, "")) for one in found]
    told.sort(key=lambda one: (one.label != choice.name, *_rank(one)))
    return tuple(told), told[0], choice.why


def _deployment(
    model: str,
    quant: str,
    tasks: Sequence[TaskChoice],
    weights: Mapping[str, float],
    compared: Compared,
    policy: PolicyConfig,
) -> Deployment:
    best: dict[str, Candidate] = {}
    missing: dict[str, str] = {}
    for choice in tasks:
        cells = [one for one in choice.candidates if (one.run.model, one.run.recipe) == (model, quant)]
        acceptable = [one for one in cells if one.acceptable]
        if acceptable:
            best[choice.task] = max(acceptable, key=lambda one: (one.quality, one.run.prompt))
        elif cells:
            nearest = min(cells, key=distance)
            missing[choice.task] = (*nearest.unmet, *nearest.unknown)[0].text
        else:
            missing[choice.task] = "no finished run"
    cells = {task: one.run for task, one in best.items()}
    low, high = (None, None) if missing else interval(_pooled(cells, weights, compared), policy.confidence)
    return Deployment(
        model=model,
        quant=quant,
        quality=None if missing else sum(weights[task] * one.quality for task, one in best.items()),
        ci_low=low,
        ci_high=high,
        memory_mib=_largest(run.memory_mib for run in cells.values()),
        latency_ms=_largest(run.latency_ms for run in cells.values()),
        cells=cells,
        missing=missing,
    )


def _largest(figures: Iterable[float | None]) -> float | None:
    return max((figure for figure in figures if figure is not None), default=None)


def _pooled(cells: Mapping[str, LoggedRun], weights: Mapping[str, float], compared: Compared) -> FloatArray:
    """The weighted mean of the tasks' resampled qualities; tasks are drawn apart from one another."""
    return np.sum([weights[task] * compared.resampled[run.run_id] for task, run in cells.items()], axis=0)


def _option(deployment: Deployment, weights: Mapping[str, float], compared: Compared) -> Option:
    return Option(
        name=deployment.label,
        quality=deployment.quality or 0.0,
        resampled=_pooled(deployment.cells, weights, compared),
        memory_mib=deployment.memory_mib,
        latency_ms=deployment.latency_ms,
    )


def _rank(deployment: Deployment) -> tuple[int, float, str]:
    """Those that serve most tasks first, then the better."""
    return len(deployment.missing), -(deployment.quality or 0.0), deployment.label


def _distance(deployment: Deployment, tasks: Sequence[TaskChoice]) -> tuple[float, ...]:
    """How far a deployment is from the policy: tasks it does not serve, then how far it is from it on those."""
    far: list[tuple[float, ...]] = []
    for choice in tasks:
        cells = [
            one for one in choice.candidates if (one.run.model, one.run.recipe) == (deployment.model, deployment.quant)
        ]
        if choice.task in deployment.missing and cells:
            far.append(distance(min(cells, key=distance))[:3])
    return len(deployment.missing), *(sum(part) for part in zip(*far, strict=True))


def _nothing(nearest: Deployment, num_tasks: int) -> str:
    task, reason = next(iter(nearest.missing.items()))
    served = num_tasks - len(nearest.missing)
    return (
        f"no model at one precision is shown to meet the policy for every task; the nearest is {nearest.label}, with "
        f"{served} of {num_tasks}; on {task}: {reason}"
    )
