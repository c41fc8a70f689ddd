import pytest

from bioquant.engine.batching import Limits, batches, chunks, common_prefix, packs, row_width, shareable, unanswered


def test_batches_are_longest_first_ties_by_index() -> None:
    assert batches([3, 9, 3, 5], Limits(rows=2)) == [[1, 3], [0, 2]]


def test_a_batch_holds_whole_prompts_and_at_least_one() -> None:
    assert batches([1, 1, 1], Limits(rows=6), num_samples=3) == [[0, 1], [2]]
    assert batches([1, 1], Limits(rows=2), num_samples=5) == [[0], [1]]


def test_a_token_budget_is_rows_times_the_widest_rows_width() -> None:
    lengths = [500, 100, 100, 40, 40, 40]
    assert row_width(500 + 10) == 512
    assert batches(lengths, Limits(rows=8, tokens=1024), max_new_tokens=10) == [[0, 1], [2, 3, 4, 5]]
    assert batches(lengths, Limits(rows=8, tokens=512), max_new_tokens=10) == [[0], [1, 2, 3, 4], [5]]
    assert batches(lengths, Limits(rows=8, tokens=1), max_new_tokens=10) == [[place] for place in range(6)]


@pytest.mark.parametrize(
    ("tokens", "width"), [(1, 64), (64, 64), (65, 96), (96, 96), (97, 128), (129, 192), (193, 256), (1000, 1024)]
)
def test_rows_have_one_of_few_widths(tokens: int, width: int) -> None:
    assert row_width(tokens) == width


def test_packs_are_cut_where_they_would_be_too_long() -> None:
    assert packs([3, 3, 3, 9, 1], 6) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert packs([], 6) == []


def test_a_prefix_is_shared_where_it_pays_and_leaves_each_row_its_own() -> None:
    head = list(range(20))
    assert common_prefix([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert shareable([[*head, 1], [*head, 2]]) == 20
    assert shareable([head, head]) == 19
    assert shareable([[*head, 1], [*head, 2]], kept=3) == 18
    assert shareable([[*head[:15], 1], [*head[:15], 2]]) == 0
    assert shareable([[*head, 1]]) == 0


def test_chunks() -> None:
    assert chunks([1, 2, 3], 2) == [[1, 2], [3]]


def test_what_is_left_keeps_its_number_and_ends_where_it_is_stopped() -> None:
    rides = [[3, 1], [0], [2]]
    assert list(unanswered(rides, frozenset(), lambda: False)) == [(0, [3, 1]), (1, [0]), (2, [2])]
    assert list(unanswered(rides, frozenset({0, 1}), lambda: False)) == [(0, [3, 1]), (2, [2])]
    stops = iter([False, True])
    assert list(unanswered(rides, frozenset(), lambda: next(stops))) == [(0, [3, 1])]
