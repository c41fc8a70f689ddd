"""The cells of a sweep: their order, what is pruned and why, what need not be run again."""

from pathlib import Path

import pytest

from bioquant.config import RunConfig
from bioquant.engine import offers
from bioquant.errors import QuantError
from bioquant.hardware import Gpu
from bioquant.plan import plan
from bioquant.records import Outcome
from bioquant.sweep.cells import Cell, SweepPlan, groups, order, plan_sweep
from test_compose import composed
from test_plan import DATASET

OUTCOME = Outcome(metrics={"quality": 0.5}, input_ids_sha256="a")


def cell(*overrides: str) -> Cell:
    return Cell(plan(composed(*overrides), DATASET), Path("x"), "bioquant run")


def planned(*jobs: tuple[str, ...], gpus: list[Gpu] | None = None) -> SweepPlan:
    configs: list[RunConfig] = [composed("model=tiny_random", *job) for job in jobs]
    return plan_sweep(configs, [f"run {number}" for number in range(len(jobs))], Path("sweep"), gpus or [])


def reasons(found: SweepPlan) -> list[str]:
    return [reason for _, reason in found.pruned]


def test_cells_are_grouped_by_loaded_model_and_the_baseline_comes_first() -> None:
    given = [
        cell(f"quant={quant}", f"task={task}")
        for quant in ("bnb_nf4", "none", "bnb_int8")
        for task in ("demo_qa", "demo_re")
    ]
    arranged = order(given)
    assert [(c.plan.config.quant.name, c.plan.config.task.name) for c in arranged] == [
        ("none", "demo_qa"),
        ("none", "demo_re"),
        ("bnb_nf4", "demo_qa"),
        ("bnb_nf4", "demo_re"),
        ("bnb_int8", "demo_qa"),
        ("bnb_int8", "demo_re"),
    ]
    assert [len(group) for group in groups(arranged)] == [2, 2, 2]


def test_a_model_that_differs_only_in_a_setting_is_a_group_of_its_own() -> None:
    arranged = order([cell("model.dtype=float32"), cell("model.dtype=bfloat16")])
    assert len(groups(arranged)) == 2


def test_another_engine_loads_the_model_anew_and_another_batch_does_not(vllm_installed: None) -> None:
    local = ("model.source=local", "model.id=checkpoint")
    found = planned(
        local, (*local, "engine=vllm"), (*local, "engine.batch=2"), (*local, "engine=vllm", "engine.batch=auto")
    )
    assert [[c.command for c in group] for group in groups(found.cells)] == [["run 0", "run 2"], ["run 1", "run 3"]]


def test_recipes_that_the_engine_has_not_are_left_out(vllm_installed: None) -> None:
    found = planned(("engine=vllm", "quant=bnb_int8"), ("engine=vllm", "quant=none"))
    assert [c.command for c in found.cells] == ["run 1"]
    [reason] = reasons(found)
    assert reason == offers.unmet(composed("engine=vllm", "quant=bnb_int8"))
    assert "choose quant=bnb_nf4_dq" in reason


def test_a_planned_cell_knows_its_folder_its_command_and_its_size() -> None:
    first, second = planned(("limit=3",), ("task=demo_re",)).cells
    assert (first.folder, first.command, first.plan.num_examples) == (Path("sweep/0"), "run 0", 3)
    assert (second.folder, second.command, second.plan.num_examples) == (Path("sweep/1"), "run 1", 36)
    assert first.plan.examples == ()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ("quant=bnb_nf4", "quant.requires.devices=[cuda]"),
            "quant 'bnb_nf4' does not run on cpu (quant.requires.devices: cuda)",
        ),
        (
            ("quant=bnb_nf4", "quant.requires.calibrated=true"),
            "quant 'bnb_nf4' needs a published checkpoint, of which model 'tiny_random' names none "
            "(++model.calibrated.bnb_nf4=org/name@commit adds one)",
        ),
        (
            ("quant=bnb_nf4", "quant.requires.min_parameters=1000000"),
            "quant 'bnb_nf4' is for models of at least 1,000,000 parameters ('tiny_random': 363,136)",
        ),
        (
            ("quant=bnb_nf4", "quant.requires.max_parameters=1000"),
            "quant 'bnb_nf4' is for models of at most 1,000 parameters ('tiny_random': 363,136)",
        ),
        (
            ("task=demo_ner", "prompt.kinds=[re,qa]"),
            "prompt 'zero_shot' makes no sense for ner tasks (prompt.kinds: re, qa)",
        ),
        (
            ("prompt.num_shots=50",),
            "prompt.num_shots=50 but the few-shot pool of task 'demo_qa' holds only 12 examples",
        ),
        (("task.pool=null", "prompt=one_shot"), "prompt.num_shots=1 but task 'demo_qa' has no few-shot pool"),
    ],
)
def test_a_cell_that_cannot_run_is_pruned_and_the_reason_is_given(overrides: tuple[str, ...], reason: str) -> None:
    found = planned((), overrides)
    assert len(found.cells) == 1
    assert reasons(found) == [reason]


def test_a_gpu_too_old_for_a_recipe_prunes_and_a_new_one_does_not() -> None:
    job = ("quant=bnb_nf4", "quant.requires.compute_capability=8.9")
    found = planned(job, gpus=[Gpu("0", 8.0)])
    assert reasons(found) == [
        "quant 'bnb_nf4' needs a newer GPU (quant.requires.compute_capability=8.9, this one has 8.0)"
    ]
    for gpus in ([Gpu("0", 9.0)], [Gpu("0")], []):
        assert len(planned(job, gpus=gpus).cells) == 1


def test_a_published_checkpoint_is_one_cell_of_its_model_whose_baseline_stays_the_models_own() -> None:
    named = ("++model.calibrated.fp8=org/name@main", "++model.calibrated.gguf=org/name/a.gguf")
    found = planned((*named, "quant=fp8"), (*named, "quant=gguf"), named, (), ("quant=fp8",))
    assert [cell.plan.config.quant.name for cell in found.cells] == ["none", "fp8", "gguf"]
    assert len({cell.plan.cell_id for cell in found.cells}) == 3
    assert {cell.plan.baseline_cell_id for cell in found.cells} == {found.cells[0].plan.cell_id}
    assert reasons(found) == [
        "the same cell as tiny_random · none · demo_qa · zero_shot",
        "quant 'fp8' needs a published checkpoint, of which model 'tiny_random' names none "
        "(++model.calibrated.fp8=org/name@commit adds one)",
    ]
    other = planned(("++model.calibrated.fp8=org/name@v2", "quant=fp8")).cells[0].plan
    assert other.cell_id != found.cells[1].plan.cell_id
    assert other.baseline_cell_id == found.cells[0].plan.cell_id


def test_the_same_cell_twice_is_run_once() -> None:
    found = planned((), ("quant.int8_threshold=3",), ("seed=1",))
    assert len(found.cells) == 2
    assert reasons(found) == ["the same cell as tiny_random · none · demo_qa · zero_shot"]


def test_a_recipe_that_makes_no_sense_is_refused_and_not_pruned() -> None:
    with pytest.raises(QuantError, match="with method 'bnb_4bit' the weight_format 'int4' is not known"):
        planned((), ("quant=bnb_nf4", "quant.weight_format=int4"))


def test_what_is_finished_is_not_run_again() -> None:
    whole = planned((), ("seed=1",), ("seed=2",))
    done = whole.cells[1].plan.fingerprint
    left = whole.without({done: OUTCOME, "another": OUTCOME})
    assert [c.plan.config.seed for c in left.cells] == [0, 2]
    assert [(c.plan.config.seed, outcome) for c, outcome in left.finished] == [(1, OUTCOME)]
    assert len(left.legal) == 3


def test_axes_are_the_values_that_run() -> None:
    found = planned(
        ("task=demo_ner",), ("task=demo_qa", "quant=bnb_nf4"), ("task=demo_ner", "prompt=cot", "prompt.kinds=[qa]")
    )
    assert found.axes() == {
        "model": ["tiny_random"],
        "quant": ["none", "bnb_nf4"],
        "task": ["demo_ner", "demo_qa"],
        "prompt": ["zero_shot"],
    }


def test_cells_that_are_named_alike_are_told_apart_by_what_they_were_given() -> None:
    found = planned(
        ("quant=none", "quant.group_size=32"),
        ("quant=none", "quant.group_size=64"),
        ("quant=bnb_nf4", "engine.batch=1"),
        ("quant=bnb_nf4", "engine.batch=2", "quant.block_size=128"),
        ("quant=bnb_nf4", "engine.batch=2", "quant.skip_modules=[lm_head,down_proj]"),
    )
    assert [cell.plan.name.partition(" · zero_shot")[2] for cell in found.cells] == [
        "",  # the baseline has no groups: it is one cell
        ' · quant.block_size=null · quant.skip_modules=["lm_head"] · engine.batch=1',
        ' · quant.block_size=128 · quant.skip_modules=["lm_head"] · engine.batch=2',
        ' · quant.block_size=null · quant.skip_modules=["lm_head","down_proj"] · engine.batch=2',
    ]


def test_a_setting_that_comes_with_a_named_choice_tells_nothing_apart() -> None:
    found = planned(("task=demo_qa",), ("task=demo_re", "engine.max_new_tokens=5"))
    assert [cell.plan.setting for cell in found.cells] == ["", ""]


def test_a_long_setting_is_cut_in_a_name() -> None:
    found = planned(("model.system_prompt=" + "a" * 300,), ("model.system_prompt=" + "b" * 300,))
    assert [cell.plan.setting for cell in found.cells] == [f"model.system_prompt={letter * 39}…" for letter in "ab"]
