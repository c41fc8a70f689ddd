"""The report's evidence as tables of text: retention, comparisons, footprints, environment, data, runs. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bioquant.compare import Comparison
from bioquant.evidence import LoggedRun
from bioquant.recommend import Recommendation
from bioquant.report.page import Heat, Table
from bioquant.wording import gib, p_value, points, ratio, seconds, verdict_text

HEAT_STEPS = (0.95, 0.99, 1.01)
"""Where the retention map changes its colour."""

Form = Callable[[float | None], str]


def _loading(value: float | None) -> str:
    return seconds(None if value is None else 1000 * value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


FOOTPRINT: tuple[tuple[str, str, Form], ...] = (
    ("weights", "memory/weights_mib", gib),
    ("peak while loading", "memory/load_peak_mib", gib),
    ("peak", "", gib),
    ("load", "load/seconds", _loading),
    ("first token p50", "latency/ttft_ms_p50", seconds),
    ("a token p50", "latency/tpot_ms_p50", seconds),
    ("example p50", "latency/example_ms_p50", seconds),
    ("example p95", "latency/example_ms_p95", seconds),
    ("output tokens/s", "throughput/output_tokens_per_s", _number),
    ("J/example", "energy/joules_per_example", _number),
)
"""Columns of the footprint table: heading, metric (peak: of what was measured, the first) and form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Retention by model and quant (rows) and task (columns), the mean over the prompts."""

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def heat_map(comparisons: Sequence[Comparison]) -> HeatMap:
    """What of the baseline's score is kept."""
    kept: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in comparisons:
        if one.retention is not None:
            kept[f"{one.candidate.model} · {one.candidate.recipe}"][one.candidate.task].append(one.retention)
    tasks = tuple(sorted({one.candidate.task for one in comparisons}))
    return HeatMap(
        tasks=tasks,
        rows=tuple((name, tuple(_heat(by_task[task]) for task in tasks)) for name, by_task in sorted(kept.items())),
    )


def _heat(retentions: Sequence[float]) -> Heat:
    if not retentions:
        return Heat(text="-", band=0)
    mean = sum(retentions) / len(retentions)
    return Heat(text=f"{mean:.1%}", band=sum(mean >= step for step in HEAT_STEPS) - 2)


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """Every pair, with its tests and ratios."""
    headings = (
        "task", "cell", "metric", "n", "full → quantized", "delta [CI]", "kept [CI]", "p", "Holm", "lost/gained",
        "weights", "peak", "p50", "J", "verdict",
    )  # fmt: skip
    return Table(headings=headings, rows=tuple(_comparison_row(one) for one in comparisons))


def _comparison_row(one: Comparison) -> tuple[str, ...]:
    return (
        one.candidate.task,
        one.candidate.label,
        one.metric,
        str(one.num_examples),
        f"{one.baseline_quality:.3f} → {one.candidate_quality:.3f}",
        points(one.delta, one.ci_low, one.ci_high),
        _kept(one),
        p_value(one.p_value),
        p_value(one.p_holm),
        f"{len(one.lost)}/{len(one.gained)}",
        *(ratio(found) for found in (one.weights_ratio, one.memory_ratio, one.latency_ratio, one.energy_ratio)),
        verdict_text(one),
    )


def _kept(one: Comparison) -> str:
    if one.retention is None:
        return "-"
    if one.retention_low is None or one.retention_high is None:
        return f"{one.retention:.1%}"
    return f"{one.retention:.1%} [{one.retention_low:.1%}, {one.retention_high:.1%}]"


def footprint_table(runs: Iterable[LoggedRun]) -> Table:
    """What each model and quant costs: the median of its cells, of the peaks the largest."""
    by_name: dict[str, list[LoggedRun]] = defaultdict(list)
    for run in runs:
        by_name[f"{run.model} · {run.recipe}"].append(run)
    columns = [column for column in FOOTPRINT if any(_figure(some, column[1]) is not None for some in by_name.values())]
    rows = tuple(
        (name, str(len(some)), *(form(_figure(some, metric)) for _, metric, form in columns))
        for name, some in sorted(by_name.items())
    )
    return Table(headings=("model · quant", "cells", *(heading for heading, _, _ in columns)), rows=rows)


def _figure(runs: Sequence[LoggedRun], metric: str) -> float | None:
    if not metric:
        return max((run.peak_mib for run in runs if run.peak_mib is not None), default=None)
    found = [run.metrics[metric] for run in runs if metric in run.metrics]
    return median(found) if found else None


def environment_table(environment: Mapping[str, str], runs: Iterable[LoggedRun]) -> Table:
    """The machine of one run, and every library version that occurs among all of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, value in environment.items():
        found[name].add(value)
    for run in runs:
        for tag, value in run.tags.items():
            if tag.startswith("version."):
                found[tag.removeprefix("version.")].add(value)
    rows = tuple((name, ", ".join(sorted(values))) for name, values in found.items())
    return Table(headings=("what", "found"), rows=rows, wide=(1,))


def data_table(recommendation: Recommendation) -> Table:
    """Which examples each task was decided on."""
    rows: list[tuple[str, ...]] = []
    for choice in recommendation.tasks:
        runs = choice.examples.runs
        digests = ", ".join(sorted({run.tags["dataset_sha256"] for run in runs}))
        number, whole = len(choice.examples.example_ids), choice.examples.num_test
        rows.append((choice.task, choice.metric, f"{number} of {whole}", str(choice.examples.num_units), digests))
    return Table(headings=("task", "metric", "examples", "units", "dataset SHA-256"), rows=tuple(rows), wide=(4,))


def runs_table(recommendation: Recommendation) -> Table:
    """The evidence, run by run."""
    rows = tuple((run.run_id, run.task, run.label) for choice in recommendation.tasks for run in choice.examples.runs)
    return Table(headings=("run id", "task", "cell"), rows=rows)
