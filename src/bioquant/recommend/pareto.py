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
    noises = {"memory_mib": MEMORY_NOISE, "latency_ms": LATENCY_NOISE}
    axes = [axis for axis in noises if any(getattr(run, axis) is not None for run in runs)]
    complete = [run for run in runs if all(getattr(run, axis) is not None for axis in axes)]
    complete.sort(key=lambda run: (-examples.quality(run.run_id), *(getattr(run, axis) for axis in axes), run.run_id))
    no_dearer = np.ones((len(complete), len(complete)), dtype=bool)
    cheaper = np.zeros_like(no_dearer)
    for axis in axes:
        costs = np.array([getattr(run, axis) for run in complete], dtype=np.float64)
        ratios = costs[:, None] / costs
        no_dearer &= ratios < noises[axis]
        cheaper |= ratios * noises[axis] <= 1
    np.fill_diagonal(no_dearer, val=False)
    beaten: dict[str, LoggedRun] = {}
    for column, run in enumerate(complete):
        rivals = ((complete[row], bool(cheaper[row, column])) for row in np.flatnonzero(no_dearer[:, column]))
        found = (rival for rival, saves in rivals if _scores(rival, run, saves, examples, compared, confidence))
        if (rival := next(found, None)) is not None:
            beaten[run.run_id] = rival
    return beaten


def _scores(
    one: LoggedRun, other: LoggedRun, saves: bool, examples: ExampleSet, compared: Compared, confidence: float
) -> bool:
    """Whether one scores more beyond noise, or, where it saves something else, no less."""
    differences = compared.resampled[one.run_id] - compared.resampled[other.run_id]
    # The cheap look first: with so many below 0 the interval reaches below it too.
    if np.count_nonzero(differences < 0) > (1 - confidence) / 2 * len(differences):
        return False
    low, _ = paired_interval(differences, examples.num_changed(one.run_id, other.run_id), confidence)
    return low > 0 or (saves and low == 0)
