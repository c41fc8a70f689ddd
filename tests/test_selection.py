"""Which runs a verb is about, told by key=value."""

import pytest

from bioquant.errors import ConfigError
from bioquant.evidence import LoggedRun
from bioquant.selection import parse, select
from generated import Cell, answered

RUNS: list[LoggedRun] = [
    answered(Cell(targets=["yes"], answers=["yes"], model=model, task=task, machine=machine)).run
    for model, task, machine in (
        ("small", "pubmedqa", "NVIDIA H100 80GB HBM3"),
        ("small", "hoc", "NVIDIA H100 80GB HBM3"),
        ("large", "hoc", "NVIDIA A100"),
    )
]


def test_filters_and_settings_are_told_apart() -> None:
    found = parse(["model=a,b", "policy=gpu_24gb", "policy.max_quality_loss=0.02", "tracking.experiment=x"])
    assert found.filters == {"model": ("a", "b")}
    assert found.overrides == ("policy=gpu_24gb", "policy.max_quality_loss=0.02", "tracking.experiment=x")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model", "'model' cannot be read: write key=value, for example task=pubmedqa,hoc."),
        ("model=", "'model=' cannot be read: write key=value, for example task=pubmedqa,hoc."),
        (
            "modle=a",
            "key 'modle' is not known; did you mean 'model'? Runs are chosen by model, quant, task, prompt, sweep_id, "
            "limit, seed, device; settings are policy=… and policy.KEY=…, tracking=… and tracking.KEY=….",
        ),
        (
            "engine.batch=4",
            "key 'engine.batch' is not known. Runs are chosen by model, quant, task, prompt, sweep_id, "
            "limit, seed, device; settings are policy=… and policy.KEY=…, tracking=… and tracking.KEY=….",
        ),
    ],
)
def test_what_cannot_be_understood_is_named(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([argument])
    assert str(caught.value) == message


def test_runs_are_chosen_by_all_filters_and_machines_by_a_part_of_the_name() -> None:
    assert len(select(RUNS, {})) == 3
    assert [run.model for run in select(RUNS, {"task": ("hoc",), "model": ("small", "large")})] == ["small", "large"]
    assert [run.model for run in select(RUNS, {"device": ("h100",)})] == ["small", "small"]


def test_a_value_that_no_run_has_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError) as caught:
        select(RUNS, {"task": ("pubmedq",)})
    assert str(caught.value) == (
        "no finished run has task=pubmedq; did you mean 'pubmedqa'? The runs have: hoc, pubmedqa."
    )


def test_filters_that_exclude_each_other_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        select(RUNS, {"model": ("large",), "task": ("pubmedqa",)})
    assert str(caught.value) == "no finished run has all of model=large task=pubmedqa: leave a filter out."
