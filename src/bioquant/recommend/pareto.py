"""Which cells nobody beats on quality, memory and latency together, as far as measurement can tell. Pure."""

from collections.abc import Sequence

import numpy as np

from bioquant.compare import Compared
from bioquant.evidence import ExampleSet, LoggedRun
from bioquant.statistics import paired_interval

MEMORY_NOISE = 1.02
LATENCY_NOISE = 1.10
"""Two figures whose ratio is below this count as equal: a choice, for a run logs no interval of either."""


def dominators(
    examples: ExampleSet, runs: Sequence[LoggedRun], compared: Compared, confidence: float
) -> dict[str, LoggedRun]:
    """Of the runs over these examples, those that another one beats, each by run id with the one that beats it.

    A cell is dominated by one that is no worse on every axis and better on one, beyond noise each time: of quality the
    whole interval of the paired difference counts, of memory and latency more than the noise between two runs. A cell
    that lacks a figure others have neither beats nor is beaten.
    """
    axes = [name for name in ("memory_mib", "latency_ms") if any(getattr(run, name) is not None for run in runs)]
    complete = [run for run in runs if all(getattr(run, name) is not None for name in axes)]
    strongest = sorted(complete, key=lambda run: (-examples.quality(run.run_id), run.run_id))
    beaten: dict[str, LoggedRun] = {}
    for run in complete:
        rivals = (rival for rival in strongest if rival is not run)
        found = next((rival for rival in rivals if _beats(rival, run, axes, examples, compared, confidence)), None)
        if found is not None:
            beaten[run.run_id] = found
    return beaten


def _beats(
    one: LoggedRun,
    other: LoggedRun,
    axes: Sequence[str],
    examples: ExampleSet,
    compared: Compared,
    confidence: float,
) -> bool:
    noise = {"memory_mib": MEMORY_NOISE, "latency_ms": LATENCY_NOISE}
    ratios = {axis: getattr(one, axis) / getattr(other, axis) for axis in axes}
    if any(ratio >= noise[axis] for axis, ratio in ratios.items()):
        return False
    cheaper = any(ratio * noise[axis] <= 1 for axis, ratio in ratios.items())
    differences = compared.resampled[one.run_id] - compared.resampled[other.run_id]
    # The cheap look first: a mean below 0 cannot have its whole interval above it.
    if float(np.nanmean(differences)) < 0:
        return False
    low, _ = paired_interval(differences, examples.num_changed(one.run_id, other.run_id), confidence)
    return low > 0 or (low == 0 and cheaper)
