"""Logged answers put together by the examples they share, and scored as the runs were."""

from dataclasses import replace

import numpy as np
import pytest

from bioquant.evidence import Answered, ExampleSet, LoggedRun, gather, plain, told_apart
from bioquant.metrics import entity_scores, label_scores, labelset_scores
from bioquant.records import Span
from generated import Cell, answered

GENE, DRUG = (Span(start=0, end=5, label="Gene", text="BRCA1"), Span(start=9, end=16, label="Drug", text="aspirin"))
TARGETS = ["yes", "no", "maybe", "yes"]


def one_set(*cells: Cell) -> ExampleSet:
    [examples] = gather(answered(cell) for cell in cells)
    return examples


def run_id(examples: ExampleSet, quant: str) -> str:
    return next(run.run_id for run in examples.runs if run.quant == quant)


def test_cells_over_the_same_examples_are_together_and_others_apart() -> None:
    cells = [
        Cell(targets=TARGETS, answers=TARGETS),
        Cell(targets=TARGETS, answers=["no"] * 4, quant="nf4"),
        Cell(targets=TARGETS[:3], answers=["no"] * 3, quant="nf4"),
        Cell(targets=["no", "no", "no", "no"], answers=["no"] * 4, quant="nf4"),
        Cell(targets=TARGETS, answers=TARGETS, task="other"),
    ]
    found = gather(answered(cell) for cell in cells)
    assert sorted((one.task, len(one.example_ids), len(one.runs)) for one in found) == [
        ("demo", 3, 1),
        ("demo", 4, 1),
        ("demo", 4, 2),
        ("other", 4, 1),
    ]


@pytest.mark.parametrize(
    ("kind", "targets", "answers"),
    [
        ("qa", ["yes", "no", "maybe", "yes"], ["yes", None, "no", "yes"]),
        ("re", ["yes", "no", "maybe", "yes"], ["yes", None, "no", "yes"]),
        ("mlc", [("a",), ("a", "b"), (), ("c",)], [("a",), ("b",), None, ("b", "c")]),
        ("ner", [(GENE,), (GENE, DRUG), (), (DRUG,)], [(GENE,), (DRUG,), (GENE,), None]),
    ],
)
def test_the_headline_is_the_one_the_run_was_scored_with(kind: str, targets: list, answers: list) -> None:
    """Labels that no cell names do not matter: the run was scored with the task's whole label set."""
    scored = {
        "qa": lambda: label_scores(targets, answers, ["yes", "no", "maybe", "never"], resamples=10),
        "re": lambda: label_scores(
            targets, answers, ["yes", "no", "maybe", "never"], headline="macro_f1", resamples=10
        ),
        "mlc": lambda: labelset_scores(targets, answers, ["a", "b", "c", "never"], resamples=10),
        "ner": lambda: entity_scores(targets, answers, resamples=10),
    }[kind]()
    examples = one_set(Cell(targets=targets, answers=answers, kind=kind))
    assert examples.headline == scored[0].name
    assert examples.quality(run_id(examples, "none")) == pytest.approx(scored[0].value, abs=1e-12)


def test_resampled_qualities_are_paired_and_do_not_depend_on_who_else_is_there() -> None:
    generator = np.random.default_rng(0)
    targets = [str(label) for label in generator.choice(["a", "b", "c"], size=200)]
    answers = [target if generator.random() < 0.7 else "a" for target in targets]
    cells = [
        Cell(targets=targets, answers=answers, kind="re"),
        Cell(targets=targets, answers=answers, kind="re", quant="nf4"),
    ]
    other = Cell(targets=targets, answers=["a"] * 200, kind="re", quant="int8")
    alone, more = one_set(*cells), one_set(other, *reversed(cells))
    first, second = alone.resampled(500), more.resampled(500)
    assert (first[run_id(alone, "none")] == first[run_id(alone, "nf4")]).all()
    assert (first[run_id(alone, "none")] == second[run_id(more, "none")]).all()
    quality = alone.quality(run_id(alone, "none"))
    assert float(first[run_id(alone, "none")].mean()) == pytest.approx(quality, abs=0.01)


def test_examples_of_one_document_are_drawn_together() -> None:
    """Ten documents of ten examples, each right or wrong as a whole: as uncertain as ten examples."""
    targets = ["yes"] * 100
    answers = ["yes" if place // 10 < 6 else "no" for place in range(100)]
    units = [f"d{place // 10}" for place in range(100)]
    by_document = one_set(Cell(targets=targets, answers=answers, units=units))
    by_example = one_set(Cell(targets=targets, answers=answers))
    spread = [float(one.resampled(2000)[run_id(one, "none")].std()) for one in (by_document, by_example)]
    assert by_document.num_units == 10
    assert spread[0] == pytest.approx(np.sqrt(0.6 * 0.4 / 10), rel=0.1)
    assert spread[1] == pytest.approx(np.sqrt(0.6 * 0.4 / 100), rel=0.1)


def test_units_that_changed_are_those_that_move_the_headline() -> None:
    targets = ["yes", "yes", "no", "no"]
    before, after = ["yes", "no", "no", "yes"], ["yes", "maybe", "yes", "yes"]
    for kind, expected in (("qa", 1), ("re", 2)):
        examples = one_set(
            Cell(targets=targets, answers=before, kind=kind),
            Cell(targets=targets, answers=after, kind=kind, quant="nf4"),
        )
        assert examples.num_changed(run_id(examples, "none"), run_id(examples, "nf4")) == expected


def test_an_answer_is_found_by_its_example() -> None:
    examples = one_set(Cell(targets=[("a", "b"), ()], answers=[None, ("b",)], kind="mlc"))
    [run] = examples.runs
    assert examples.answer(run, "e0") == ("a; b", "(invalid)")
    assert examples.answer(run, "e1") == ("none", "b")


def logged(quant: str = "nf4", **more: object) -> LoggedRun:
    params = {"quant.method": "bnb_4bit", **more.pop("params", {})}
    return answered(Cell(targets=TARGETS, answers=TARGETS, quant=quant, params=params, **more)).run


def test_a_recipe_is_called_alike_in_every_task_and_model_by_what_it_was_given() -> None:
    runs = [
        logged("none"),
        logged(params={"quant.group_size": ""}),
        logged(params={"quant.group_size": "128"}),
        logged(params={"quant.group_size": "128"}, task="another", model="large"),
        logged("hqq", params={"quant.method": "hqq", "quant.group_size": "64", "quant.compute_dtype": "bfloat16"}),
        logged("hqq", params={"quant.method": "hqq", "quant.group_size": "32", "quant.compute_dtype": "bfloat16"}),
    ]
    assert [run.recipe for run in told_apart(runs)] == [
        "none",
        "nf4 · quant.block_size=null",
        "nf4 · quant.block_size=128",
        "nf4 · quant.block_size=128",
        "hqq · quant.group_size=64",
        "hqq · quant.group_size=32",
    ]
    assert [run.settings for run in told_apart(runs[2:5])] == [(), (), ()]


def test_two_prompts_of_a_name_are_told_apart_in_the_label_and_not_in_the_recipe() -> None:
    few, more = told_apart([logged(params={"prompt.num_shots": number}) for number in ("3", "5")])
    assert (few.label, few.recipe) == ("small · nf4 · zero_shot · prompt.num_shots=3", "nf4")
    assert more.label == "small · nf4 · zero_shot · prompt.num_shots=5"


def test_memory_is_the_peak_on_a_gpu_and_the_weights_on_a_cpu() -> None:
    on_gpu = answered(Cell(targets=TARGETS, answers=TARGETS)).run
    on_cpu = answered(Cell(targets=TARGETS, answers=TARGETS, machine="some CPU")).run
    assert (on_gpu.peak_mib, on_gpu.memory_mib) == (1200.0, 1200.0)
    assert (on_cpu.peak_mib, on_cpu.memory_mib) == (1200.0, 500.0)
    assert replace(on_gpu, metrics={}).memory_mib is None


def test_results_become_plain_json() -> None:
    found: Answered = answered(Cell(targets=TARGETS, answers=TARGETS))
    assert plain({"run": found.run, "many": (1, None)}) == {
        "run": {"run_id": found.run.run_id, "model": "small", "quant": "none", "task": "demo", "prompt": "zero_shot"},
        "many": [1, None],
    }
