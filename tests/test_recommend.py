"""The choice under a policy: what is shown to meet it, the cheapest as good as the best, and why not the others."""

from dataclasses import replace

import pytest

from bioquant.compare import compare
from bioquant.config import PolicyConfig
from bioquant.errors import ConfigError
from bioquant.evidence import gather, told_apart
from bioquant.recommend import Candidate, Recommendation, TaskChoice, recommend
from generated import FACTS, METRICS, Cell, answered

POLICY = PolicyConfig(name="test", max_quality_loss=0.01)
NUM = 1000
TARGETS = ["yes", "no"] * (NUM // 2)


def cell(number: int, quant: str = "none", *, memory: float = 1000.0, latency: float = 100.0, **more: object) -> Cell:
    """A cell with so many right answers, the first ones, and these costs (MiB, ms)."""
    costs = {
        "memory/weights_mib": memory / 2,
        "memory/peak_device_mib": memory,
        "latency/example_ms_p50": latency,
        "latency/example_ms_p95": 2 * latency,
        "energy/joules_per_example": 10.0,
    }
    answers = [target if place < number else "maybe" for place, target in enumerate(TARGETS)]
    metrics = {**METRICS, **costs, **more.pop("metrics", {})}
    return replace(Cell(targets=TARGETS, answers=answers, quant=quant, metrics=metrics), **more)


def recommended(*cells: Cell, policy: PolicyConfig = POLICY) -> Recommendation:
    return recommend(compare(gather(answered(one) for one in cells), policy, resamples=500), policy)


def only_task(*cells: Cell, policy: PolicyConfig = POLICY) -> TaskChoice:
    [choice] = recommended(*cells, policy=policy).tasks
    return choice


def named(choice: TaskChoice, quant: str) -> Candidate:
    return next(one for one in choice.candidates if one.run.quant == quant)


def test_the_smallest_as_good_as_the_best_is_chosen() -> None:
    choice = only_task(cell(900), cell(899, "nf4", memory=300), cell(899, "int8", memory=600))
    assert choice.chosen is not None
    assert choice.chosen.name == "small · nf4 · zero_shot"
    assert choice.why == (
        "of the 3 that meet the policy small · none · zero_shot scores highest (0.900); this is within 1 point of it, "
        "with 30% of its memory"
    )
    assert named(choice, "int8").why_not == "as good, but needs 2 times the memory of small · nf4 · zero_shot"


def test_a_quant_that_loses_too_much_is_rejected_with_the_figure() -> None:
    choice = only_task(cell(900), cell(850, "nf4", memory=300))
    assert choice.chosen is not None
    assert choice.chosen.run.quant == "none"
    [shortfall] = named(choice, "nf4").unmet
    assert shortfall.text.startswith("it loses 5.0 points of accuracy [")
    assert shortfall.text.endswith("], more than the 1 tolerated")
    assert choice.next_steps == ()


def test_an_open_quant_is_not_chosen_and_the_command_that_decides_it_is_given() -> None:
    """One of twenty lost: nobody knows yet."""
    few = {"targets": TARGETS[:20], "num_test": 5000, "params": {"limit": "20"}}
    full = replace(cell(20), answers=TARGETS[:20], **few)
    quantized = replace(cell(20, "nf4", memory=300), answers=["maybe", *TARGETS[1:20]], **few)
    choice = only_task(full, quantized)
    assert choice.chosen is not None
    assert choice.chosen.run.quant == "none"
    [shortfall] = named(choice, "nf4").unknown
    assert "is not decided against the 1 tolerated: needs about" in shortfall.text
    [step] = choice.next_steps
    assert step.startswith("bioquant run -m model=small quant=none,nf4 task=demo prompt=zero_shot limit=")


def test_a_task_with_too_few_examples_to_tell_is_a_caution() -> None:
    full = replace(cell(20), targets=TARGETS[:20], answers=TARGETS[:20])
    choice = only_task(full, replace(full, quant="nf4"))
    assert choice.next_steps == ()
    assert choice.cautions == ("cells undecided for want of examples, of which the task has too few: 1",)


def test_what_cannot_win_is_not_worth_measuring() -> None:
    """The small model's quant is open, but the small model itself is far below the large one."""
    choice = only_task(cell(900), cell(500, model="tiny", memory=100), cell(490, "nf4", model="tiny", memory=50))
    assert named(choice, "nf4").unknown
    assert choice.next_steps == ()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({"gpu_memory_gib": 0.5}, "it peaks at 1.0 GiB, over the 0.5 GiB of GPU memory allowed"),
        ({"latency_p95_ms": 150.0}, "its p95 latency is 200 ms, over the 150 ms allowed"),
        ({"joules_per_example": 5.0}, "its energy is 10 J an example, over the 5 J an example allowed"),
        ({"licences": ["MIT"]}, "its licence 'Apache-2.0' is not among those allowed: MIT"),
    ],
)
def test_nothing_meets_the_policy_is_an_answer(policy: dict[str, object], text: str) -> None:
    found = recommended(cell(900, memory=1024), policy=replace(POLICY, **policy))
    [choice] = found.tasks
    assert choice.chosen is None
    assert choice.nearest is choice.candidates[0]
    assert choice.why == f"nothing meets the policy; the nearest is small · none · zero_shot: {text}"
    assert found.overall is None
    assert found.why == (
        "no model at one precision is shown to meet the policy for every task; the nearest is small · none, with 0 of "
        f"1; on demo: {text}"
    )


def test_the_nearest_misses_least() -> None:
    cells = [cell(900, memory=4096), cell(900, model="other", memory=3000, facts=replace(FACTS, licence="closed"))]
    choice = only_task(*cells, policy=replace(POLICY, gpu_memory_gib=2, licences=["Apache-2.0"]))
    assert choice.nearest is not None
    assert choice.nearest.run.model == "small"


def test_a_cpu_does_not_say_what_a_gpu_needs() -> None:
    on_cpu = cell(900, machine="a CPU")
    choice = only_task(on_cpu, policy=replace(POLICY, gpu_memory_gib=24))
    assert choice.why == (
        "nothing is shown to meet the policy yet; the nearest is small · none · zero_shot: its GPU memory is not "
        "known: it ran on a CPU"
    )
    assert choice.next_steps == ("bioquant run model=small quant=none task=demo prompt=zero_shot engine.device=cuda",)
    too_large = only_task(
        replace(on_cpu, metrics={**METRICS, "memory/weights_mib": 3072.0}), policy=replace(POLICY, gpu_memory_gib=2)
    )
    assert too_large.candidates[0].unmet[0].text == "its weights take 3.0 GiB, over the 2 GiB of GPU memory allowed"


def test_what_was_not_measured_is_not_taken_for_granted() -> None:
    bare = replace(cell(900), metrics={"memory/peak_device_mib": 1000.0})
    choice = only_task(bare, policy=replace(POLICY, latency_p95_ms=100, joules_per_example=1))
    assert [one.text for one in choice.candidates[0].unknown] == [
        "its p95 latency was not measured",
        "its energy was not measured",
    ]
    assert choice.next_steps == (
        "bioquant run model=small quant=none task=demo prompt=zero_shot measure.latency_examples=20",
    )


def test_a_median_over_the_limit_needs_no_p95() -> None:
    timed = replace(cell(900), metrics={"memory/peak_device_mib": 1000.0, "latency/example_ms_p50": 150.0})
    [shortfall] = only_task(timed, policy=replace(POLICY, latency_p95_ms=100)).candidates[0].unmet
    assert shortfall.text == "its median latency is 150 ms, over the 100 ms allowed"


def test_a_quant_without_a_baseline_is_open_unless_any_loss_is_tolerated() -> None:
    alone = cell(900, "nf4")
    choice = only_task(alone)
    assert choice.chosen is None
    assert choice.next_steps == ("bioquant run -m model=small quant=none,nf4 task=demo prompt=zero_shot",)
    assert only_task(alone, policy=replace(POLICY, max_quality_loss=None)).chosen is not None


def test_a_cell_is_beaten_only_beyond_noise() -> None:
    near = cell(900, "near", memory=2000)
    answers = ["maybe"] * 5 + list(near.answers[5:900]) + TARGETS[900:904] + ["maybe"] * 96
    choice = only_task(
        cell(900),
        cell(800, "less and dearer", memory=2000),
        replace(near, answers=answers),
        cell(800, "less and quicker", memory=2000, latency=50),
        cell(900, "same and dearer", memory=1500),
        cell(900, "same within noise", memory=1001, latency=105),
    )
    best = "small · none · zero_shot"
    assert {one.run.quant: one.beaten_by for one in choice.candidates} == {
        "none": "",
        "less and dearer": best,
        "near": "",
        "less and quicker": "",
        "same and dearer": best,
        "same within noise": "",
    }


def test_a_cell_without_a_figure_neither_beats_nor_is_beaten() -> None:
    metrics = {"memory/peak_device_mib": 5000.0}
    blind = replace(cell(500, "nf4"), metrics=metrics)
    assert named(only_task(cell(900), blind), "nf4").beaten_by == ""


def test_one_model_for_all_tasks_takes_the_best_prompt_of_each() -> None:
    cells = [
        cell(number, task=task, prompt=prompt, model=model, memory=memory)
        for task, prompt, model, number, memory in (
            ("a", "zero_shot", "small", 900, 500),
            ("a", "five_shot", "small", 800, 500),
            ("b", "zero_shot", "small", 700, 500),
            ("b", "five_shot", "small", 800, 500),
            ("a", "zero_shot", "large", 950, 2000),
            ("b", "zero_shot", "large", 650, 2000),
        )
    ]
    found = recommended(*cells)
    assert found.overall is not None
    assert found.overall.label == "small · none"
    assert found.overall.quality == pytest.approx(0.85)
    assert {task: run.prompt for task, run in found.overall.cells.items()} == {"a": "zero_shot", "b": "five_shot"}
    assert found.deployments[1].why_not.startswith("scores less than small · none: -5.0 points [")
    weighted = recommended(*cells, policy=replace(POLICY, tasks={"a": 9, "b": 1}))
    assert weighted.overall is not None
    assert (weighted.overall.label, weighted.weights) == ("large · none", {"a": 0.9, "b": 0.1})


def test_two_settings_of_a_recipe_are_two_models_and_none_takes_its_tasks_from_both() -> None:
    cells = [
        cell(number, "nf4", task=task, params={"quant.method": "bnb_4bit", "quant.group_size": size})
        for task, size, number in (("a", "", 900), ("b", "", 700), ("a", "128", 800), ("b", "128", 850))
    ]
    found = [answered(one) for one in cells]
    runs = told_apart([one.run for one in found])
    policy = replace(POLICY, max_quality_loss=None)
    examples = gather(replace(one, run=run) for one, run in zip(found, runs, strict=True))
    chosen = recommend(compare(examples, policy, resamples=500), policy)
    assert {one.label: one.quality for one in chosen.deployments} == {
        "small · nf4 · quant.block_size=128": pytest.approx(0.825),
        "small · nf4 · quant.block_size=null": pytest.approx(0.8),
    }
    assert chosen.overall is not None
    assert chosen.overall.quant == "nf4 · quant.block_size=128"


def test_a_model_that_fails_one_task_is_not_for_all() -> None:
    cells = [cell(900, task="a"), cell(900, task="b"), cell(950, task="a", model="other")]
    found = recommended(*cells)
    assert found.overall is not None
    assert found.overall.label == "small · none"
    assert found.deployments[1].missing == {"b": "no finished run"}


def test_a_policy_may_name_its_tasks_and_they_must_be_there() -> None:
    cells = [cell(900, task="a"), cell(900, task="b")]
    assert [choice.task for choice in recommended(*cells, policy=replace(POLICY, tasks={"a": 1})).tasks] == ["a"]
    with pytest.raises(ConfigError) as caught:
        recommended(*cells, policy=replace(POLICY, tasks={"pubmedqa": 1}))
    assert str(caught.value) == "policy.tasks.pubmedqa: no finished run has that task. The runs have: a, b."


def test_runs_of_two_machines_must_be_told_apart() -> None:
    with pytest.raises(ConfigError) as caught:
        recommended(cell(900), cell(900, model="other", machine="NVIDIA A100"))
    assert str(caught.value) == (
        "the runs come from 2 machines, whose memory and latency do not compare: 'NVIDIA A100' (1 runs), "
        "'NVIDIA H100' (1 runs). Choose one with device=, any part of its name."
    )


def test_a_task_is_decided_on_the_examples_with_the_most_predictions() -> None:
    few = [replace(cell(20, quant), targets=TARGETS[:20], answers=TARGETS[:20]) for quant in ("none", "nf4", "int8")]
    found = recommended(*few, cell(900, model="other"))
    assert len(found.tasks[0].examples.example_ids) == NUM
    assert found.left_out == (
        "demo: decided on 1000 examples (cells: 1), not on 20 others (cells: 3); "
        "a filter (limit=, seed=) would take those",
    )


def test_cautions_say_what_the_figures_hide() -> None:
    metrics = {"trivial/majority (yes)": 0.9, "trivial/always no": 0.5, "invalid_rate": 0.2}
    choice = only_task(cell(900, metrics=metrics), cell(950, model="large"), cell(920, "nf4", model="large"))
    rejected = next(one for one in choice.candidates if one.run.model == "large" and one.run.quant == "nf4")
    assert rejected.unmet
    assert choice.cautions == ()
    [alone] = recommended(cell(900, metrics=metrics)).tasks
    assert alone.cautions == (
        "it is not shown to beat an answer that reads no text ('majority (yes)' scores 0.900)",
        "20% of its outputs could not be read as an answer",
    )


def test_a_harmed_model_that_still_scores_most_is_named() -> None:
    """The large model at nf4 loses more than tolerated and is still the best within the budget."""
    cells = [cell(800), cell(950, model="large", memory=9000), cell(900, "nf4", model="large", memory=900)]
    choice = only_task(*cells, policy=replace(POLICY, gpu_memory_gib=2))
    assert choice.chosen is not None
    assert choice.chosen.run.model == "small"
    assert choice.cautions == (
        "large · nf4 · zero_shot scores more (0.900) and is rejected only for what it loses against its own baseline",
    )


def test_two_seeds_of_a_cell_have_names_of_their_own() -> None:
    choice = only_task(cell(900), cell(890, params={"seed": "1"}))
    names = [one.name for one in choice.candidates]
    assert len(set(names)) == 2
    assert all(name.startswith("small · none · zero_shot (") for name in names)


def test_the_same_runs_give_the_same_answer_in_any_order() -> None:
    cells = [cell(900 - place, quant, memory=1000 - 100 * place) for place, quant in enumerate(("none", "a", "b", "c"))]
    first, second = recommended(*cells), recommended(*reversed(cells))
    assert [one.name for one in first.tasks[0].candidates] == [one.name for one in second.tasks[0].candidates]
    assert (first.why, first.tasks[0].why, first.run_ids) == (second.why, second.tasks[0].why, second.run_ids)
