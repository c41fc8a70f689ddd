"""A version's card and tags, from evidence made up by a seed."""

from dataclasses import replace

import pytest

from bioquant.compare import Comparison, compare
from bioquant.config import CalibrationConfig, PolicyConfig
from bioquant.evidence import LoggedRun, gather
from bioquant.recipe import Recipe
from bioquant.registry import card
from bioquant.registry.card import Told
from bioquant.registry.evidence import Evidence
from generated import METRICS, Cell, answered
from recipes import QUANTS
from test_recipe import made

TARGETS = ["yes", "no"] * 300
FIGURES = {**METRICS, "quality_ci_low": 0.8, "quality_ci_high": 0.95, "num_examples": 600.0, "trivial/majority no": 0.5}
BASELINE = Cell(targets=TARGETS, answers=TARGETS[:590] + ["maybe"] * 10, metrics=FIGURES, num_test=800)
CANDIDATE = replace(BASELINE, quant="bnb_int8", answers=TARGETS[:580] + ["maybe"] * 20)
POLICY = PolicyConfig(name="ward", max_quality_loss=0.05, gpu_memory_gib=24)
RECIPE = made("task=demo_qa", "prompt=five_shot", "quant=bnb_int8", "model.revision=abc123")


def compared(candidate: Cell = CANDIDATE) -> Comparison:
    return compare(gather([answered(BASELINE), answered(candidate)]), POLICY).comparisons[0]


def told(recipe: Recipe = RECIPE, comparison: Comparison | None = None, run: LoggedRun | None = None) -> Told:
    shown = comparison or compared()
    evidence = Evidence(run=run or shown.candidate, comparison=shown, gap="")
    return Told(recipe=recipe, evidence=evidence, policy=POLICY, recommendation="f" * 32)


def test_a_card_says_where_quantized_weights_come_from() -> None:
    model = replace(RECIPE.model, calibrated={"gptq": "org/name@abc"})
    named = replace(RECIPE, model=model, quant=QUANTS["gptq"])
    assert "(gptq, int4, computed in float32), published as org/name@abc" in card.written(
        told(named), stores_weights=False
    )
    text = CalibrationConfig(task="pubmedqa", sha256="0123456789abcdef")
    here = replace(RECIPE, quant=replace(QUANTS["gptq_int4"], calibration=text))
    assert "calibrated where it is first loaded, on pubmedqa (text 0123456789ab)" in card.written(
        told(here), stores_weights=False
    )


def test_a_card_says_what_it_is_for_how_good_it_is_and_on_what_that_rests() -> None:
    shown, pair = card.written(told(), stores_weights=False), compared()
    for line in (
        "**demo_qa** answered by **tiny_random** at **bnb_int8**, prompted **five_shot**.",
        "One option a question: ",
        "A row holds `question`, `context` (may be left out); the answer is under `option`.",
        "- accuracy 0.967 [0.800, 0.950] (95 %) on 600 of 800 test examples; the best constant answer ('majority no') "
        "gets 0.500",
        "- against the unquantized model: -1.7 points of accuracy [",
        "retention 98.3% [",
        "- of 600 examples 10 lost and 0 gained; tolerates a loss of up to 5 points: within",
        "Measured on NVIDIA H100: weights 500 MiB, peak 1.2 GiB, example p50 100 ms, example p95 200 ms, J/example 10.",
        "- model: `llama-0.4M` at `abc123`, float32",
        "- quant: bnb_int8 (bnb_int8, int8, computed in float32), quantized when loaded",
        "- prompt: five_shot: 5 few-shot examples (first), greedy",
        "- engine: batches of 2 rows, up to 8 new tokens",
        "- evaluated with bioquant 0.1.0, bitsandbytes 0.50.2, torch 2.13.0+cpu",
        "- data: Apache-2.0; the recipe holds 5 few-shot examples of it",
        f"- run `{pair.candidate.run_id}`",
        f"- baseline run `{pair.baseline.run_id}`",
        f"- recommendation `{'f' * 32}`",
        "- policy ward: tolerates a loss of up to 5 points; allows 24 GiB of GPU memory",
    ):
        assert line in shown, line
    assert "not shown to beat" not in shown
    assert "--force" not in shown


def test_its_limits_are_those_that_were_measured() -> None:
    pair = compared()
    metrics = {**pair.candidate.metrics, "quality_ci_low": 0.4, "invalid_rate": 0.25, "truncated_output_rate": 0.0}
    run = replace(pair.candidate, metrics=metrics, tags={**pair.candidate.tags, "device": "cpu"})
    shown = card.written(told(run=run, comparison=pair), stores_weights=True)
    assert "- it is not shown to beat an answer that reads no text" in shown
    assert "- 25.0% of the outputs could not be read as an answer" in shown
    assert "cut at the token limit" not in shown
    assert "- evaluated on a CPU" in shown
    assert "quantized weights stored with this version" in shown


def test_what_was_forced_says_so_first() -> None:
    evidence = Evidence(run=compared().candidate, comparison=None, gap="no finished run of its baseline")
    forced = replace(told(), evidence=evidence)
    shown = card.written(forced, stores_weights=False)
    assert shown.splitlines()[2] == (
        "> **Registered with `--force`, without a comparison with the unquantized model:** no finished run of its "
        "baseline"
    )
    assert "against the unquantized" not in shown
    assert card.tags(forced, stores_weights=False)["forced"] == "true"


def test_an_unquantized_model_is_its_own_baseline() -> None:
    run = compared().baseline
    own = replace(told(), evidence=Evidence(run=run, comparison=None, gap=""), recommendation=None)
    shown = card.written(own, stores_weights=False)
    assert "- this is the unquantized model: its own baseline" in shown
    assert "recommendation" not in shown
    assert "verdict" not in card.tags(own, stores_weights=False)


def test_tags_are_what_one_searches_by() -> None:
    pair = compared()
    assert card.tags(told(), stores_weights=True) == {
        "task": "demo_qa",
        "model": "tiny_random",
        "quant": "bnb_int8",
        "prompt": "five_shot",
        "recipe_sha256": RECIPE.sha256,
        "weights": "stored",
        "evidence_run": pair.candidate.run_id,
        "baseline_run": pair.baseline.run_id,
        "recommendation_run": "f" * 32,
        "machine": "NVIDIA H100",
        "quality": "0.9667",
        "retention": "0.9831",
        "verdict": "within",
        "policy": "ward",
        "model_licence": "none",
        "data_licence": "Apache-2.0",
    }


@pytest.mark.parametrize("name", ["demo_ner", "demo_re", "demo_mlc"])
def test_every_kind_has_a_card_that_the_database_takes(name: str) -> None:
    recipe = made(f"task={name}", "prompt=five_shot_cot")
    assert len(card.written(told(recipe), stores_weights=False)) < card.LONGEST


def test_a_card_that_is_too_long_ends_at_a_paragraph_and_says_where_the_rest_is() -> None:
    long = "\n\n".join(f"{number} " + "word " * 50 for number in range(40))
    shown = card.shortened(long)
    assert card.LONGEST - 300 < len(shown) <= card.LONGEST
    body, _, rest = shown.rpartition("\n\n")
    assert rest == "The whole card is README.md among the version's files.\n"
    assert long.startswith(body + "\n\n")
    assert card.shortened("short") == "short"
