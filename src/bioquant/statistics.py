"""Uncertainty: how far a corpus score would move had other examples been drawn, and whether two scores differ.

A corpus metric (an F1, a macro average) is no mean of per-example scores, so it has no simple standard error. But it
is a function of counts summed over the examples, and drawing examples anew only changes how often each is summed.
Two cells that answered the same examples are compared on the same draws: what both find hard cancels out.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

Statistic = Callable[[FloatArray], FloatArray]
"""Summed counts (… × k) to values (…); NaN where the sums leave the value undefined."""

LEVEL = 0.95
WEIGHTS_PER_CHUNK = 2**21  # 16 MiB as drawn and 16 MiB as floats


def bootstrap(
    counts: FloatArray, statistic: Statistic, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of `statistic` over units (Efron and Tibshirani 1993, chapter 13).

    counts: (n_units × k), n_units at least 1. The same seed, counts and numpy version give the same interval, whatever
    the order of the units.
    """
    return interval(statistic(resample_sums(counts, resamples=resamples, seed=seed)))


def resample_sums(counts: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """The column sums of `resamples` samples of n units drawn with replacement, (resamples × k).

    Units with equal counts are interchangeable, so it is enough to know how often each distinct row occurs. Memory
    beside the result stays below about 50 MiB.
    """
    rows, multiplicity = np.unique(counts, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, counts.shape[1]))
    step = max(1, WEIGHTS_PER_CHUNK // len(rows))
    for start in range(0, resamples, step):
        chunk = sums[start : start + step]
        np.matmul(_weights(generator, multiplicity, len(chunk)), rows, out=chunk)
    return sums


def _weights(generator: np.random.Generator, multiplicity: NDArray[np.int64], num_samples: int) -> FloatArray:
    """How often each distinct row occurs in each of `num_samples` samples of all units, (num_samples × rows).

    The same distribution is drawn in the cheaper of two ways: one binomial a distinct row, or one index a unit, which
    is about ten times as fast.
    """
    num_units, num_rows = int(multiplicity.sum()), len(multiplicity)
    if 10 * num_rows < num_units:
        return generator.multinomial(num_units, multiplicity / num_units, size=num_samples).astype(np.float64)
    row_of = np.repeat(np.arange(num_rows), multiplicity)
    weights = np.empty((num_samples, num_rows))
    for sample in weights:
        sample[:] = np.bincount(row_of[generator.integers(num_units, size=num_units)], minlength=num_rows)
    return weights


def interval(values: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """The central `level` of resampled values (resamples). Undefined ones (NaN) say nothing and are left out."""
    tail = (1 - level) / 2
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1 - tail])
    return float(low), float(high)


def paired_interval(values: FloatArray, num_changed: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a resampled difference (or ratio) of two cells that differ in `num_changed` of their units.

    The expanded percentile interval (Hesterberg 2015, The American Statistician 69:371): percentiles further out, as
    far as Student's t with m - 1 degrees of freedom is wider than the normal. m is the units that changed, for it is
    they alone that carry information: two cells that agree on 190 of 200 units are compared on the other ten. With
    fewer than two, the extremes of all resamples.
    """
    from scipy.special import ndtr, stdtrit

    tail = 0.0
    if num_changed > 1:
        stretch = sqrt(num_changed / (num_changed - 1))
        tail = float(ndtr(stretch * stdtrit(num_changed - 1, (1 - level) / 2)))
    return interval(values, 1 - 2 * tail)


def unit_weights(num_units: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """How often each unit occurs in each of `resamples` samples of all units, in chunks of (… × num_units).

    For many cells over the same units: all are to see the same draws. Products with whole counts are exact in float32.
    """
    generator = np.random.default_rng(seed)
    step = max(1, WEIGHTS_PER_CHUNK // num_units)
    for start in range(0, resamples, step):
        drawn = generator.integers(num_units, size=(min(step, resamples - start), num_units))
        weights = np.empty(drawn.shape, dtype=np.float32)
        for row, places in zip(weights, drawn, strict=True):
            row[:] = np.bincount(places, minlength=num_units)
        yield weights


def mcnemar(num_lost: int, num_gained: int) -> float:
    """Exact two-sided p-value that losing and gaining an example are equally likely (McNemar 1947, binomial form).

    num_lost: examples right before and wrong after; num_gained: the other way round. 1 where no example changed.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(num_lost, num_gained), num_lost + num_gained, 0.5)))


PERMUTATIONS = 10_000
FEW_EXTREME = 10

DRAWS_A_TEST = 25
"""Draws for each test of a family: p can then be a 25th of 1 / num_tests, below what Holm asks at 95 %."""

TRY_ALL = 13
"""Units of which every subset is tried: 2^13 are fewer than 10,000."""


def permutation(
    baseline: FloatArray, candidate: FloatArray, statistic: Statistic, *, seed: int = 0, num_tests: int = 1
) -> float:
    """Two-sided p-value that it does not matter which of the two cells gave which of a unit's two answers.

    The paired permutation test for a corpus metric (Noreen 1989; Yeh 2000, arXiv:cs/0008005): under the hypothesis a
    unit's two outcomes may be swapped. baseline, candidate: counts (units × k). All swaps are tried where there are
    no more than 10,000; else as many random ones, and p = (1 + as extreme) / (1 + drawn), which is valid and never 0
    (Phipson and Smyth 2010). num_tests: how many p-values are adjusted together; where hardly any swap was as
    extreme, more are drawn, so that p can become small enough to stand out among them.
    """
    change = candidate - baseline
    moved = change[change.any(axis=1)].astype(np.float32)  # whole counts, exact in float32 and faster to multiply
    before, after = baseline.sum(axis=0), candidate.sum(axis=0)
    observed = abs(float(statistic(after) - statistic(before)))
    extreme = drawn = 0
    for swaps in _swaps(len(moved), max(PERMUTATIONS, DRAWS_A_TEST * num_tests), seed):
        if drawn >= PERMUTATIONS and extreme >= FEW_EXTREME:
            break
        swapped = (swaps.astype(np.float32) @ moved).astype(np.float64)
        difference = np.abs(statistic(after - swapped) - statistic(before + swapped))
        extreme += int(np.sum(difference >= observed - 1e-12))
        drawn += len(swaps)
    if drawn == 2 ** len(moved):
        return extreme / drawn
    return (1 + extreme) / (1 + drawn)


def _swaps(num_units: int, permutations: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Which units are swapped, in chunks of (… × num_units): every subset where they are few, else random ones."""
    if num_units <= TRY_ALL:
        numbers = np.arange(2**num_units)[:, None]
        yield ((numbers >> np.arange(num_units)) & 1).astype(np.uint8)
        return
    generator = np.random.default_rng(seed)
    step = min(PERMUTATIONS, max(1, WEIGHTS_PER_CHUNK // num_units))
    for start in range(0, permutations, step):
        yield generator.integers(2, size=(min(step, permutations - start), num_units), dtype=np.uint8)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false rejection among all stays at the level asked (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


class Verdict(StrEnum):
    """Whether a candidate keeps to the tolerated loss."""

    within = "within"
    worse = "worse"
    undecided = "undecided"


def verdict(
    delta: float, bounds: tuple[float, float], p_value: float, *, margin: float, confidence: float, num_units: int
) -> Verdict:
    """Non-inferiority of a candidate whose metric is `delta` above its baseline's (below, where negative).

    within: the interval's lower end is no lower than -margin, and the units are enough to have shown such a loss.
    worse: the whole interval lies below -margin, and the difference is significant: p_value, adjusted for all
    comparisons made, is at most 1 - confidence. Everything else is undecided.

    The second condition of `within` is the score test of Tango (1998, Statistics in Medicine 17:891) where no unit
    improved: the variance is what a loss of `margin` has at the least, not what was seen. A bootstrap of units that
    all agree has no width, which would otherwise prove anything from twenty of them.
    """
    low, high = bounds
    enough = delta + margin >= _z(confidence) * sqrt(margin * (1 - margin) / num_units)
    if low >= -margin and enough:
        return Verdict.within
    return Verdict.worse if high < -margin and p_value <= 1 - confidence else Verdict.undecided


POWER = 0.8
"""The chance of a decision that `units_needed` plans for."""


def units_needed(delta: float, unit_variance: float, *, margin: float, confidence: float) -> int | None:
    """Units with which the loss would be told from `margin` four times in five, if `delta` is what it seems.

    n = (z_{1-α/2} + z_{power})² σ² / (delta + margin)² (Julious 2004, Statistics in Medicine 23:1921, for a paired
    difference); σ²: the variance of one unit's share in the difference, at the least that of a loss of `margin`.
    None where delta is so close to -margin that a million would not do.
    """
    variance = max(unit_variance, margin * (1 - margin))
    distance = (delta + margin) / ((_z(confidence) + NormalDist().inv_cdf(POWER)) * sqrt(variance))
    return None if abs(distance) < 1e-3 else ceil(distance**-2)


def units_to_stand_out(num_units: int, p_value: float, *, num_tests: int, confidence: float) -> int | None:
    """Units with which a difference would be significant among `num_tests`, four times in five.

    As p_value's normal quantile grows with the root of the units, were the difference what it seems. None where a
    p_value of 1 says nothing of that.
    """
    found = NormalDist().inv_cdf(1 - p_value / 2)
    needed = NormalDist().inv_cdf(1 - (1 - confidence) / (2 * num_tests)) + NormalDist().inv_cdf(POWER)
    return None if found < 1e-3 else ceil(num_units * (needed / found) ** 2)


def _z(confidence: float) -> float:
    """The standard normal quantile of a two-sided interval."""
    return NormalDist().inv_cdf((1 + confidence) / 2)
