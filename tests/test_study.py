"""The study's six claims on made-up runs that do or do not bear them out."""

from dataclasses import replace

import pytest

from bioquant.compare import Compared, compare
from bioquant.config import PolicyConfig
from bioquant.evidence import ModelFacts, gather
from bioquant.study import PAPER, QUESTIONS, Finding, Outcome, findings, texts
from generated import METRICS, Cell, answered

POLICY = PolicyConfig(name="test", max_quality_loss=0.01)
NUM = 1000
TARGETS = ["yes", "no"] * (NUM // 2)
GENERAL = ModelFacts(licence="x", num_parameters=8_000_000_000, domain="general", general_counterpart=None)
BIOMEDICAL = replace(GENERAL, domain="biomedical", general_counterpart="general")
HUGE = replace(GENERAL, num_parameters=70_000_000_000)


def right(number: int) -> list[str]:
    """As many right answers, the first ones."""
    return [target if place < number else "maybe" for place, target in enumerate(TARGETS)]


def cell(number: int, **more: object) -> Cell:
    return replace(Cell(targets=TARGETS, answers=right(number), model="general", facts=GENERAL), **more)


def costs(weights: float, peak: float) -> dict[str, float]:
    return {**METRICS, "memory/weights_mib": weights, "memory/peak_device_mib": peak}


def compared(*cells: Cell) -> Compared:
    return compare(gather(answered(one) for one in cells), POLICY, resamples=500)


def asked(question: str, *cells: Cell, policy: PolicyConfig = POLICY) -> list[Finding]:
    return findings(question, compared(*cells), policy)


@pytest.mark.parametrize(
    ("peaks", "outcome"), [((240, 240), "holds"), ((240, 400), "undecided"), ((400, 410), "fails")]
)
def test_memory_is_cut_by_as_much_as_the_peaks_show(peaks: tuple[float, float], outcome: str) -> None:
    cells = [
        cell(900, task=task, quant=quant, metrics=costs(500, peak))
        for task, nf4 in zip(("a", "b"), peaks, strict=True)
        for quant, peak in (("none", 1000.0), ("nf4", nf4))
    ]
    [found] = asked("memory", *cells)
    assert (found.outcome, found.subject) == (outcome, "general · nf4")
    assert found.value == pytest.approx(1 - sum(peaks) / 2000)
    assert (found.low, found.high) == pytest.approx((1 - max(peaks) / 1000, 1 - min(peaks) / 1000))


def test_memory_on_a_cpu_decides_nothing() -> None:
    cells = [
        cell(900, quant=quant, machine="a CPU", metrics=costs(w, 1000)) for quant, w in (("none", 500), ("nf4", 50))
    ]
    [found] = asked("memory", *cells)
    assert (found.value, found.outcome) == (pytest.approx(0.9), Outcome.undecided)
    assert found.basis == "weights alone: no pair was measured on one GPU; the range of 1 pairs"


@pytest.mark.parametrize(("kept", "outcome"), [(899, "holds"), (890, "undecided"), (850, "fails")])
def test_quality_is_kept_or_not_over_the_tasks(kept: int, outcome: str) -> None:
    cells = [
        cell(number, task=task, quant=quant) for task in ("a", "b") for quant, number in (("none", 900), ("q", kept))
    ]
    [found] = asked("quality", *cells)
    assert found.outcome == outcome
    assert found.value == pytest.approx((kept - 900) / NUM)
    assert found.basis == "mean of 2 pairs over 2 tasks"
    assert len(found.run_ids) == 4


@pytest.mark.parametrize(("peak_gib", "outcome"), [(39.0, "holds"), (41.0, "fails")])
def test_a_large_model_within_the_budget(peak_gib: float, outcome: str) -> None:
    [found] = asked("budget", cell(900, model="huge", quant="nf4", facts=HUGE, metrics=costs(1, 1024 * peak_gib)))
    assert (found.value, found.outcome, found.claim) == (peak_gib, outcome, "70B models run within 40 GiB")


def test_no_large_model_leaves_the_budget_open() -> None:
    [found] = asked("budget", cell(900))
    assert (found.value, found.outcome) == (None, Outcome.undecided)
    assert found.basis == "no finished cell on a GPU of a model with 65 billion parameters or more"


@pytest.mark.parametrize(("biomedical", "outcome"), [(898, "holds"), (850, "fails")])
def test_the_domain_advantage_is_a_difference_of_differences(biomedical: int, outcome: str) -> None:
    """General: 850 to 848. Biomedical: 900 to 898 keeps its 5 points, to 850 loses nearly all of them."""
    cells = [
        cell(850),
        cell(848, quant="nf4"),
        cell(900, model="bio", facts=BIOMEDICAL),
        cell(biomedical, model="bio", facts=BIOMEDICAL, quant="nf4"),
    ]
    [found] = asked("domain", *cells)
    assert found.value == pytest.approx((biomedical - 848 - 50) / NUM)
    assert found.outcome == outcome
    assert found.basis == "mean of 1 pair over 1 task; the gain at full precision is +5.0 points"


def test_prompt_responsiveness_is_what_few_shot_gains_over_zero_shot() -> None:
    """Full precision gains 10 points, quantized 4."""
    shots = {"prompt": "five_shot", "params": {}}
    cells = [cell(800), cell(900, **shots), cell(800, quant="nf4"), cell(840, quant="nf4", **shots)]
    [found] = asked("prompting", *cells)
    assert (found.subject, found.outcome) == ("nf4 · five_shot", Outcome.fails)
    assert found.value == pytest.approx(-0.06)


@pytest.mark.parametrize(
    ("weights", "number", "expected"), [(1000, 950, Outcome.holds), (1000, 850, Outcome.fails), (2000, 950, None)]
)
def test_a_larger_quantized_model_against_a_smaller_full_one(
    weights: int, number: int, expected: Outcome | None
) -> None:
    cells = [
        cell(900, metrics=costs(1, 1000)),
        cell(number, model="huge", facts=HUGE, quant="nf4", metrics=costs(1, weights)),
    ]
    [found] = asked("size", *cells)
    assert found.outcome is (expected or Outcome.undecided)
    assert (found.value is None) == (expected is None)


def test_the_paper_is_all_questions_and_every_row_can_be_read() -> None:
    rows = [texts(finding) for finding in asked(PAPER, cell(900), cell(880, quant="nf4"))]
    assert [row[0] for row in rows] == list(QUESTIONS)
    assert rows[1][1:6] == ("quality is kept across tasks", "nf4", "-2.0 points", rows[1][4], "fails")
    assert rows[2][3:5] == ("-", "-")
