"""Which figures a report holds, from its records."""

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from bioquant.compare import Compared
from bioquant.evidence import LoggedRun
from bioquant.recommend import Candidate, Recommendation, TaskChoice
from bioquant.report import figures
from bioquant.report.page import state
from bioquant.statistics import interval
from bioquant.study import TOLERATED, Finding

MIB_PER_GIB = 1024
MS_PER_S = 1000

NUM_LABELLED = 8
"""Points with their row's number beside them: more would cover one another."""

CHANGES = {
    "quality": "change of the score, points",
    "prompting": "change of a prompting method's gain, points",
    "domain": "change of the biomedical models' advantage, points",
    "size": "larger quantized above smaller full model, points",
}
"""The study's questions that a plot of changes answers, and its axis."""


def pareto(choice: TaskChoice, place: int) -> tuple[Markup, ...]:
    """Quality over memory and over latency, all cells of a task; the numbers are those of its table."""
    on_gpu = any(one.run.on_gpu for one in choice.candidates)
    memory = "peak GPU memory, GiB" if on_gpu else "weights, GiB"
    drawn = (
        _scatter(choice, f"memory-{place}", memory, lambda run: _over(run.memory_mib, MIB_PER_GIB)),
        _scatter(
            choice, f"latency-{place}", "median latency of an example, s", lambda run: _over(run.latency_ms, MS_PER_S)
        ),
    )
    return tuple(figure for figure in drawn if figure)


def _over(figure: float | None, unit: int) -> float | None:
    return None if figure is None else figure / unit


def _scatter(choice: TaskChoice, name: str, label: str, cost: Callable[[LoggedRun], float | None]) -> Markup:
    """Empty where no cell has that cost."""
    points = [
        _point(one, number, found, choice)
        for number, one in enumerate(choice.candidates, start=1)
        if (found := cost(one.run)) is not None
    ]
    if not points:
        return Markup("")
    described = f"{choice.metric} of every cell of {choice.task} over {label}"
    return Markup(figures.scatter(name, points, cost=label, quality=choice.metric, described=described))


def _point(one: Candidate, number: int, cost: float, choice: TaskChoice) -> figures.Point:
    return figures.Point(
        cost=cost,
        quality=one.quality,
        low=one.ci_low,
        high=one.ci_high,
        series=one.run.model,
        state=state(one, choice.chosen),
        beaten=bool(one.beaten_by),
        label=str(number) if number <= NUM_LABELLED and not one.beaten_by else "",
    )


def sizes(recommendation: Recommendation, compared: Compared, confidence: float) -> Markup:
    """Mean quality over memory, a line for each model through its precisions; empty unless a model has several."""
    points: list[figures.Point] = []
    for deployment in recommendation.deployments:
        best = _best_cells(recommendation, deployment.model, deployment.quant)
        memory = [run.memory_mib for run in best if run.memory_mib is not None]
        if len(best) == len(recommendation.tasks) and memory:
            points.append(_mean_point(best, max(memory), deployment.quant, recommendation, compared, confidence))
    if len(points) <= len({point.series for point in points}):
        return Markup("")
    described = "mean quality over the tasks against memory, a line for each model"
    return Markup(figures.ladders("sizes", points, cost="memory, GiB", quality="mean quality", described=described))


def _best_cells(recommendation: Recommendation, model: str, quant: str) -> list[LoggedRun]:
    """Of each task the model's best prompt at this precision."""
    best: list[LoggedRun] = []
    for choice in recommendation.tasks:
        cells = [one for one in choice.candidates if (one.run.model, one.run.recipe) == (model, quant)]
        if cells:
            best.append(max(cells, key=lambda one: (one.quality, one.name)).run)
    return best


def _mean_point(
    runs: Sequence[LoggedRun],
    memory_mib: float,
    quant: str,
    recommendation: Recommendation,
    compared: Compared,
    confidence: float,
) -> figures.Point:
    weights = recommendation.weights
    drawn = np.sum([weights[run.task] * compared.resampled[run.run_id] for run in runs], axis=0)
    low, high = interval(drawn, confidence)
    size = runs[0].facts.num_parameters
    billions = "" if size is None else f" ({size / 1e9:.2g}B)"
    return figures.Point(
        cost=memory_mib / MIB_PER_GIB,
        quality=sum(weights[run.task] * compared.set_of(run).quality(run.run_id) for run in runs),
        low=low,
        high=high,
        series=f"{runs[0].model}{billions}",
        state="acceptable",
        label=quant,
    )


def changes(found: Sequence[Finding], margin: float | None) -> tuple[tuple[str, Markup], ...]:
    """A plot for each of the study's questions that is about points, with the question's claim."""
    drawn: list[tuple[str, Markup]] = []
    for question, axis in CHANGES.items():
        rows = [one for one in found if one.question == question and one.value is not None]
        if rows:
            described = f"{rows[0].claim}: {axis}"
            svg = figures.forest(
                question, [_change(one) for one in rows], margin=margin or TOLERATED, axis=axis, described=described
            )
            drawn.append((rows[0].claim, Markup(svg)))
    return tuple(drawn)


def _change(finding: Finding) -> figures.Change:
    return figures.Change(
        label=finding.subject,
        value=100 * (finding.value or 0.0),
        low=100 * (finding.low or 0.0),
        high=100 * (finding.high or 0.0),
    )
