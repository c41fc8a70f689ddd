"""Cells put together from parts are the cells Hydra composes, one by one; and few steps make many."""

from collections import Counter
from itertools import product

import pytest

from bioquant import grid
from bioquant.config import RunConfig
from bioquant.errors import ConfigError
from test_compose import composed


class Steps:
    """What composes, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = Counter[tuple[str, ...]]()

    def __call__(self, overrides: list[str]) -> RunConfig:
        self.asked[tuple(sorted(overrides))] += 1
        return composed(*overrides)


def jobs(*axes: list[str]) -> list[tuple[str, ...]]:
    return list(product(*axes))


FOUR_AXES = jobs(
    ["model=tiny_random", "model=smollm2_135m"],
    ["quant=none", "quant=bnb_int8", "quant=bnb_nf4"],
    ["task=demo_qa", "task=demo_ner"],
    ["prompt=zero_shot", "prompt=five_shot"],
    ["limit=4"],
)


def test_cells_of_four_axes_are_the_ones_composed_one_by_one() -> None:
    steps = Steps()
    found = grid.compose(steps, FOUR_AXES)
    assert sum(steps.asked.values()) == 1 + (1 + 2 + 1 + 1) + 1
    assert found == [composed(*job) for job in FOUR_AXES]


def test_overrides_of_one_part_are_one_choice() -> None:
    given = jobs(
        ["model=tiny_random", "model=smollm2_135m"],
        ["model.dtype=float32", "model.dtype=bfloat16"],
        ["task=demo_qa", "task=demo_re", "task=demo_ner"],
        ["seed=0", "seed=1"],
    )
    steps = Steps()
    assert grid.compose(steps, given) == [composed(*job) for job in given]
    assert sum(steps.asked.values()) == 1 + (3 + 2 + 1) + 1


def test_what_changes_other_parts_is_composed_cell_by_cell() -> None:
    given = jobs(
        ["experiment=paper_grid", "experiment=quickstart"], ["task=demo_qa", "task=demo_re"], ["seed=0", "seed=1"]
    )
    steps = Steps()
    found = grid.compose(steps, given)
    assert found == [composed(*job) for job in given]
    assert {config.limit for config in found} == {None, 20}


def test_parts_that_depend_on_each_other_only_together_are_found_out() -> None:
    """Nothing shows as long as one of them is at its first choice; the last cell tells."""

    def one(overrides: list[str]) -> RunConfig:
        both = {"task=demo_re", "prompt=five_shot"} <= set(overrides)
        return composed(*overrides, *(["seed=7"] if both else []))

    given = jobs(["task=demo_qa", "task=demo_re"], ["prompt=zero_shot", "prompt=five_shot"], ["quant=none"] * 3)
    assert [config.seed for config in grid.compose(one, given)] == [0] * 9 + [7] * 3


def test_few_cells_are_composed_one_by_one() -> None:
    steps = Steps()
    grid.compose(steps, jobs(["task=demo_qa", "task=demo_re"]))
    assert steps.asked == {("task=demo_qa",): 1, ("task=demo_re",): 1}


def test_every_cell_is_checked_and_not_only_the_composed_ones() -> None:
    given = jobs(
        ["prompt.num_samples=1", "prompt.num_samples=5"],
        ["prompt.temperature=0.5", "prompt.temperature=0"],
        ["seed=0", "seed=1", "seed=2"],
        ["limit=1", "limit=2", "limit=3"],
    )
    with pytest.raises(ConfigError, match=r"prompt.num_samples=5 needs prompt.temperature above 0"):
        grid.compose(Steps(), given)
