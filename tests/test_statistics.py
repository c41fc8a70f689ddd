import tracemalloc
from math import sqrt

import numpy as np
import pytest

from bioquant import statistics
from bioquant.statistics import (
    FloatArray,
    Verdict,
    bootstrap,
    holm,
    interval,
    mcnemar,
    paired_interval,
    permutation,
    resample_sums,
    unit_weights,
    units_needed,
    units_to_stand_out,
    verdict,
)


def share(sums: FloatArray) -> FloatArray:
    return sums[..., 0] / sums[..., 1]


def answers(num_right: int, num_examples: int) -> FloatArray:
    right = np.zeros((num_examples, 2))
    right[:num_right, 0] = 1
    right[:, 1] = 1
    return right


@pytest.mark.parametrize(("num_right", "num_examples"), [(276, 500), (4782, 5761), (100, 200)])
def test_a_share_has_the_binomial_interval(num_right: int, num_examples: int) -> None:
    low, high = bootstrap(answers(num_right, num_examples), share)
    rate = num_right / num_examples
    half_width = 1.96 * sqrt(rate * (1 - rate) / num_examples)
    assert (low, high) == pytest.approx(
        (rate - half_width, rate + half_width), abs=0.05 * half_width + 1 / num_examples
    )


def test_distinct_units_have_the_normal_interval_of_their_mean() -> None:
    values = np.random.default_rng(1).normal(2, 3, size=400)
    low, high = bootstrap(np.stack([values, np.ones(400)], axis=1), share)
    half_width = 1.96 * values.std() / sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half_width, values.mean() + half_width), abs=0.1 * half_width)


def test_repeated_rows_are_drawn_like_distinct_ones() -> None:
    """Counts that repeat are drawn by a binomial; a column of serial numbers makes them distinct, drawn by index."""
    together = answers(130, 300)
    apart = np.column_stack([together, np.arange(300.0)])
    one, other = (resample_sums(counts, resamples=4000, seed=0)[:, 0] for counts in (together, apart))
    assert one.mean() == pytest.approx(other.mean(), rel=0.01)
    assert one.std() == pytest.approx(other.std(), rel=0.05)


@pytest.mark.parametrize(("num_right", "num_examples"), [(15, 19), (15, 190)], ids=["by index", "by binomial"])
def test_a_row_is_drawn_as_often_as_it_occurs(num_right: int, num_examples: int) -> None:
    drawn = resample_sums(answers(num_right, num_examples), resamples=4000, seed=0)[:, 0]
    assert drawn.mean() == pytest.approx(num_right, rel=0.02)
    assert drawn.std() == pytest.approx(sqrt(num_right * (1 - num_right / num_examples)), rel=0.05)


def test_each_resample_holds_as_many_units_as_the_data() -> None:
    sums = resample_sums(answers(3, 7), resamples=50, seed=0)
    assert sums.shape == (50, 2)
    assert set(sums[:, 1]) == {7.0}


def test_units_without_spread_have_an_interval_of_no_width() -> None:
    assert bootstrap(answers(9, 9), share) == (1.0, 1.0)


@pytest.mark.parametrize("num_values", [2, 50], ids=["few distinct rows", "many distinct rows"])
def test_the_seed_alone_decides(num_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(2).integers(0, num_values, size=(60, 2)).astype(float) + 1
    first = bootstrap(counts, share, resamples=500, seed=3)
    assert bootstrap(counts[::-1], share, resamples=500, seed=3) == first
    assert bootstrap(counts, share, resamples=500, seed=4) != first
    monkeypatch.setattr(statistics, "WEIGHTS_PER_CHUNK", 7)
    assert bootstrap(counts, share, resamples=500, seed=3) == first


def test_memory_is_bounded() -> None:
    """All the weights of this bootstrap together would take 240 MB, twice."""
    counts = np.column_stack([np.random.default_rng(0).random(10_000), np.ones(10_000)])
    tracemalloc.start()
    bootstrap(counts, share, resamples=3_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_undefined_resamples_are_left_out() -> None:
    assert interval(np.array([np.nan, 1.0, 1.0, np.nan])) == (1.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth, trials = 0.7, 1000
    covered = 0
    for seed, num_right in enumerate(generator.binomial(200, truth, size=trials)):
        low, high = bootstrap(answers(int(num_right), 200), share, resamples=1000, seed=seed)
        covered += low <= truth <= high
    assert 0.92 <= covered / trials <= 0.97


def test_all_cells_see_the_same_draws_of_whole_samples() -> None:
    first = np.concatenate(list(unit_weights(300, resamples=50, seed=1)))
    again = np.concatenate(list(unit_weights(300, resamples=50, seed=1)))
    assert first.shape == (50, 300)
    assert (first == again).all()
    assert set(first.sum(axis=1)) == {300.0}
    assert first.var() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("lost", "gained", "p_value"), [(0, 0, 1.0), (5, 5, 1.0), (0, 1, 1.0), (1, 9, 22 / 1024), (10, 0, 2 / 1024)]
)
def test_mcnemar_is_the_two_sided_binomial_test(lost: int, gained: int, p_value: float) -> None:
    """By hand: 2 · Σ C(n, k) / 2^n up to the smaller count."""
    assert mcnemar(lost, gained) == pytest.approx(p_value)


def test_permuting_few_units_tries_every_swap() -> None:
    """Three units, all lost: of eight swaps only none and all are as extreme."""
    before = np.array([[1.0, 1]] * 3 + [[1.0, 1]] * 7)
    after = before.copy()
    after[:3, 0] = 0
    assert permutation(before, after, share) == 2 / 8
    assert permutation(before, before, share) == 1.0


def test_permuting_many_units_agrees_with_mcnemar() -> None:
    before, after = np.ones((200, 2)), np.ones((200, 2))
    before[:10, 0] = 0
    after[10:36, 0] = 0
    assert permutation(before, after, share, seed=1) == pytest.approx(mcnemar(26, 10), abs=0.004)


def test_a_permutation_p_can_stand_out_among_many() -> None:
    """What no swap equals has the smallest p there is: one in the draws, of which a large family gets more."""
    before, after = answers(200, 200), answers(100, 200)
    assert permutation(before, after, share) == 1 / 10_001
    assert permutation(before, after, share, num_tests=1000) == 1 / 25_001
    # Where swaps as extreme are common, a large family changes nothing.
    other = np.roll(answers(188, 200), 20, axis=0)
    alone = permutation(other, answers(190, 200), share)
    assert permutation(other, answers(190, 200), share, num_tests=1000) == alone > 0.1


def test_holm_by_hand() -> None:
    """Holm's own steps: 4 · 0.01, 3 · 0.02, then never below an earlier one, and at most 1."""
    assert holm([0.04, 0.01, 0.02, 0.9]) == pytest.approx([0.08, 0.04, 0.06, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_fewer_units_changed_the_wider_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    widths = [np.diff(paired_interval(values, changed))[0] for changed in (1, 5, 20, 100_000)]
    assert widths[0] == np.ptp(values)
    assert widths == sorted(widths, reverse=True)
    assert widths[3] == pytest.approx(np.diff(interval(values))[0], rel=1e-3)
    # Student's t with 19 degrees of freedom is 2.093 where the normal is 1.960; and √(20 / 19).
    assert widths[2] / widths[3] == pytest.approx(2.093 / 1.960 * sqrt(20 / 19), rel=0.03)


@pytest.mark.parametrize(
    ("delta", "bounds", "p_value", "num_units", "expected"),
    [
        (0.0, (-0.008, 0.008), 1.0, 1000, Verdict.within),
        (-0.003, (-0.009, 0.004), 0.3, 2000, Verdict.within),
        (0.0, (-0.015, 0.02), 1.0, 1000, Verdict.undecided),
        (-0.03, (-0.05, -0.012), 0.001, 1000, Verdict.worse),
        (-0.03, (-0.05, -0.012), 0.2, 1000, Verdict.undecided),
        (-0.02, (-0.04, -0.005), 0.001, 1000, Verdict.undecided),
        (0.0, (0.0, 0.0), 1.0, 20, Verdict.undecided),
        (0.0, (0.0, 0.0), 1.0, 380, Verdict.undecided),
        (0.0, (0.0, 0.0), 1.0, 381, Verdict.within),
    ],
    ids=[
        "narrow",
        "a little loss",
        "wide",
        "lost",
        "lost, but one of many",
        "across the limit",
        "20 units that agree prove nothing",
        "380 units are one too few",
        "z² (1 - m) / m = 380.3",
    ],
)
def test_verdict(delta: float, bounds: tuple[float, float], p_value: float, num_units: int, expected: Verdict) -> None:
    assert verdict(delta, bounds, p_value, margin=0.01, confidence=0.95, num_units=num_units) is expected


def test_units_needed_is_the_textbook_sample_size() -> None:
    """(1.960 + 0.842)² · 0.05 / 0.01² for no difference, a variance of 0.05 and a margin of 0.01."""
    assert units_needed(0.0, 0.05, margin=0.01, confidence=0.95) == pytest.approx(7.849 * 0.05 / 0.0001, rel=1e-3)
    assert units_needed(-0.01, 0.05, margin=0.01, confidence=0.95) is None
    # A sample in which nothing changed still needs what a loss of the margin would.
    assert units_needed(0.0, 0.0, margin=0.01, confidence=0.95) == pytest.approx(7.849 * 0.99 / 0.01, rel=2e-3)
    # Beyond the limit as much as before it.
    assert units_needed(-0.02, 0.05, margin=0.01, confidence=0.95) == units_needed(
        0.0, 0.05, margin=0.01, confidence=0.95
    )


def test_units_to_stand_out_grow_with_the_family() -> None:
    """p = 0.05 is 1.960 standard errors, and 1.960 + 0.842 are needed alone: (2.802 / 1.960)² = 2.04 times as many."""
    assert units_to_stand_out(100, 0.05, num_tests=1, confidence=0.95) == 205
    # Among ten: 0.025 / 10 has the quantile 2.807, and (3.649 / 1.960)² = 3.47.
    assert units_to_stand_out(100, 0.05, num_tests=10, confidence=0.95) == 347
    assert units_to_stand_out(100, 1.0, num_tests=1, confidence=0.95) is None
