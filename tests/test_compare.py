"""Candidates beside their baselines: who is paired, who is refused and why, and what is concluded."""

from dataclasses import replace

import numpy as np
import pytest

from bioquant.compare import Compared, compare, run_command
from bioquant.config import PolicyConfig
from bioquant.evidence import Answered, gather
from bioquant.statistics import Verdict
from generated import METRICS, Cell, answered

POLICY = PolicyConfig(name="test", max_quality_loss=0.01)
TARGETS = ["yes", "no"] * 300
FULL = Cell(targets=TARGETS, answers=TARGETS)


def spoiled(share: float, seed: int = 0) -> list[str]:
    """The right answers, but for a share of them."""
    chance = np.random.default_rng(seed)
    return [("maybe" if chance.random() < share else target) for target in TARGETS]


def compared(*cells: Cell | Answered, policy: PolicyConfig = POLICY) -> Compared:
    found = [cell if isinstance(cell, Answered) else answered(cell) for cell in cells]
    return compare(gather(found), policy, resamples=1000)


def candidate(answers: list[str], **more: object) -> Cell:
    return replace(FULL, answers=answers, quant="nf4", **more)


def test_a_pair_by_hand() -> None:
    """600 questions, 30 lost and none gained: 5 points, and as many flips."""
    answers = ["maybe"] * 30 + TARGETS[30:]
    costs = {**METRICS, "memory/weights_mib": 200.0, "latency/example_ms_p50": 150.0}
    [found] = compared(FULL, candidate(answers, metrics=costs)).comparisons
    assert (found.baseline_quality, found.candidate_quality) == (1.0, 0.95)
    assert found.delta == pytest.approx(-0.05)
    assert found.retention == pytest.approx(0.95)
    assert found.lost == tuple(f"e{place}" for place in range(30))
    assert found.gained == ()
    assert (found.test, found.p_value) == ("McNemar, exact", pytest.approx(2 * 0.5**30))
    assert (found.weights_ratio, found.latency_ratio, found.memory_ratio) == (0.4, 1.5, 1.0)
    half_width = 1.96 * np.sqrt(0.05 * 0.95 / 600)
    assert (found.ci_low, found.ci_high) == pytest.approx((-0.05 - half_width, -0.05 + half_width), abs=0.004)
    assert (found.verdict, found.more_examples) == (Verdict.worse, 0)


def test_a_corpus_f1_is_compared_by_permutation() -> None:
    cells = replace(FULL, kind="re"), candidate(spoiled(0.1), kind="re")
    [found] = compared(*cells).comparisons
    assert (found.metric, found.test) == ("macro_f1", "paired permutation")
    assert found.p_value < 0.001


def test_accuracy_over_documents_is_compared_by_permutation() -> None:
    """Examples of one document are not independent, so McNemar's test does not apply."""
    units = [f"d{place // 3}" for place in range(600)]
    [found] = compared(replace(FULL, units=units), candidate(spoiled(0.1), units=units)).comparisons
    assert (found.test, found.num_units, found.num_examples) == ("paired permutation", 200, 600)


def test_the_verdict_needs_enough_examples_and_says_how_many() -> None:
    few = replace(FULL, targets=TARGETS[:20], answers=TARGETS[:20], num_test=600)
    [found] = compared(few, replace(few, quant="nf4")).comparisons
    assert (found.delta, found.verdict) == (0.0, Verdict.undecided)
    # (1.960 + 0.842)² · 0.99 / 0.01 = 777, less 20, rounded up to two digits.
    assert found.more_examples == 760
    assert found.num_test == 600
    [enough] = compared(FULL, candidate(list(TARGETS))).comparisons
    assert (enough.verdict, enough.more_examples) == (Verdict.within, 0)


def test_a_loss_that_does_not_stand_out_needs_what_its_p_value_needs() -> None:
    """Nine lost and one gained of 40: p = 0.021, too much among ten comparisons; (3.649 / 2.301)² · 40 = 101."""
    few = replace(FULL, targets=TARGETS[:40], answers=["maybe", *TARGETS[1:40]], num_test=5000)
    lost = replace(few, quant="q0", answers=[TARGETS[0], *["maybe"] * 9, *TARGETS[10:40]])
    others = [replace(few, quant=f"q{place}") for place in range(1, 10)]
    found = {one.candidate.quant: one for one in compared(few, lost, *others).comparisons}["q0"]
    assert found.p_value == pytest.approx(22 / 1024)
    assert found.verdict is Verdict.undecided
    assert found.more_examples == 61


def test_any_loss_is_within_where_the_policy_says_so() -> None:
    [found] = compared(FULL, candidate(spoiled(0.5)), policy=replace(POLICY, max_quality_loss=None)).comparisons
    assert found.verdict is Verdict.within


def test_holm_is_over_all_comparisons() -> None:
    cells = [FULL] + [candidate(spoiled(0.02, seed), prompt="zero_shot") for seed in range(4)]
    cells = [replace(cell, quant=f"q{place}" if place else "none") for place, cell in enumerate(cells)]
    found = compared(*cells).comparisons
    smallest = min(found, key=lambda one: one.p_value)
    assert smallest.p_holm == pytest.approx(min(1, 4 * smallest.p_value))
    assert all(one.p_holm >= one.p_value for one in found)


def test_retention_of_nothing_is_no_number() -> None:
    wrong = replace(FULL, answers=["maybe"] * 600)
    [found] = compared(wrong, candidate(list(TARGETS))).comparisons
    assert (found.retention, found.retention_low, found.delta) == (None, None, 1.0)


def test_a_candidate_without_a_baseline_is_refused_with_the_command_for_it() -> None:
    limited = candidate(list(TARGETS), params={"limit": "600", "seed": "3"})
    [refusal] = compared(limited).refusals
    assert refusal.reason == (
        "no finished run of its baseline: "
        "bioquant run model=small quant=none task=demo prompt=zero_shot limit=600 seed=3"
    )


def test_other_examples_are_refused() -> None:
    fewer = answered(candidate(TARGETS[:599], targets=TARGETS[:599]))
    full = answered(FULL)
    [refusal] = compared(full, fewer).refusals
    assert refusal.reason == f"its baseline, run {full.run.run_id}, answered other examples: 599 here, 600 there"
    renamed = answered(candidate(list(TARGETS), ids=["x0", *FULL.example_ids[1:]]))
    [refusal] = compared(full, renamed).refusals
    assert refusal.reason.endswith("answered other examples: 'x0' here stands where 'e0' stands there")
    corrected = answered(candidate(["no", *TARGETS[1:]], targets=["no", *TARGETS[1:]]))
    [refusal] = compared(full, corrected).refusals
    assert refusal.reason.endswith("answered other examples: their gold answers or units differ")


def test_other_prompts_are_refused() -> None:
    full, found = answered(FULL), answered(candidate(list(TARGETS)))
    asked = (*found.asked[:5], "else", *found.asked[6:])
    result = compared(full, replace(found, asked=asked))
    assert result.comparisons == ()
    assert result.refusals[0].reason == (
        f"1 of 600 prompts are not token for token those of its baseline, run {full.run.run_id} (first: example 'e5'): "
        "a difference would not be the quant's. Run both again with the same model revision and versions."
    )


def test_a_run_whose_predictions_do_not_give_its_score_is_refused_with_its_candidates() -> None:
    full = answered(FULL)
    damaged = replace(full, run=replace(full.run, metrics={**METRICS, "quality": 0.9}))
    reasons = {refusal.run.quant: refusal.reason for refusal in compared(damaged, candidate(list(TARGETS))).refusals}
    assert reasons["none"] == (
        "its predictions give accuracy 1.0000 and its metric `quality` is 0.9000: it was scored by another version, or "
        "its files were changed. Run it again."
    )
    assert reasons["nf4"].startswith(f"its baseline, run {full.run.run_id}, cannot be used: its predictions give")


def test_of_two_baselines_the_one_of_the_same_machine_and_versions_is_taken() -> None:
    here = replace(FULL, machine="NVIDIA A100")
    older = replace(here, start_ms=1)
    changed = replace(here, start_ms=3, tags={"version.torch": "2.0"})
    cells = [answered(cell) for cell in (FULL, older, changed, here)]
    mine = answered(candidate(list(TARGETS), machine="NVIDIA A100"))
    [found] = compared(*cells, mine).comparisons
    assert found.baseline.run_id == cells[3].run.run_id
    assert found.notes == ()


def test_what_else_differs_is_noted_and_costs_of_two_machines_are_no_ratio() -> None:
    mine = candidate(list(TARGETS), machine="NVIDIA A100", tags={"version.torch": "2.0"})
    [found] = compared(FULL, mine).comparisons
    assert found.notes == (
        "ran on different machines: NVIDIA H100 and NVIDIA A100",
        "version.torch was absent, now 2.0",
    )
    assert (found.weights_ratio, found.memory_ratio, found.latency_ratio, found.energy_ratio) == (1.0, None, None, None)


def test_the_order_of_the_runs_does_not_matter() -> None:
    cells = [FULL, candidate(spoiled(0.05)), replace(FULL, answers=spoiled(0.1), quant="int8")]
    assert compared(*cells).comparisons == compared(*reversed(cells)).comparisons


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, "limit=20"), (50, "limit=50"), (100, ""), (400, "")],
    ids=["as it was", "more", "all", "more than there are"],
)
def test_a_command_repeats_a_cell_with_more_examples(limit: int | None, expected: str) -> None:
    run = answered(replace(FULL, params={"limit": "20"}, num_test=100)).run
    command = run_command(run, quant="none,nf4", limit=limit)
    whole = f"bioquant run -m model=small quant=none,nf4 task=demo prompt=zero_shot {expected}"
    assert command == whole.rstrip()


def test_a_command_repeats_what_its_recipe_was_given() -> None:
    run = replace(answered(FULL).run, settings=("prompt.num_shots=3", "quant.block_size=128"))
    assert run_command(run, quant="none,nf4") == (
        "bioquant run -m model=small quant=none,nf4 task=demo prompt=zero_shot prompt.num_shots=3 quant.block_size=128"
    )
