"""A cell's identity: what changes it, what does not, and what it is compared with."""

from dataclasses import replace

import pytest

from bioquant.config import MeasureConfig, RunConfig
from bioquant.plan import plan
from bioquant.records import Dataset, Row
from test_compose import composed

DATASET = Dataset(
    test=(Row(id="1", inputs={"text": "a"}, target="yes", choices=("yes", "no")),),
    pool=(),
    digest="d" * 64,
    num_test=1,
    origin="files",
)


def cell_id(config: RunConfig) -> str:
    return plan(config, DATASET, ()).cell_id


@pytest.mark.parametrize(
    "override",
    [
        "quant=bnb_nf4",
        "model=tiny_random",
        "model.dtype=bfloat16",
        "task=demo_re",
        "task.instruction=other",
        "prompt=one_shot",
        "engine.batch=4",
        "engine.max_new_tokens=3",
        "limit=3",
        "seed=1",
    ],
)
def test_what_decides_predictions_changes_the_cell(override: str) -> None:
    assert cell_id(composed(override)) != cell_id(composed())


@pytest.mark.parametrize(
    "override",
    [
        *("measure.latency_examples=3", "tracking.uri=http://x", "data.root=/x", "model.name=y"),
        *("quant.compute_dtype=bfloat16", "quant.block_size=128"),  # of the unquantized recipe
    ],
)
def test_what_does_not_decide_predictions_leaves_it(override: str) -> None:
    assert cell_id(composed(override)) == cell_id(composed())


@pytest.mark.parametrize("override", ["quant.compute_dtype=bfloat16", "quant.block_size=128"])
def test_what_a_recipe_heeds_changes_its_cell_and_not_its_baseline(override: str) -> None:
    one, other = (plan(composed("quant=bnb_nf4", *more), DATASET, ()) for more in ([], [override]))
    assert one.cell_id != other.cell_id
    assert one.baseline_cell_id == other.baseline_cell_id


def test_another_dataset_is_another_cell() -> None:
    config = composed()
    assert plan(config, replace(DATASET, digest="e" * 64), ()).cell_id != cell_id(config)


@pytest.mark.parametrize("quant", ["bnb_int8", "bnb_nf4", "bnb_nf4_dq", "bnb_fp4", "quanto_int8", "quanto_int4"])
def test_every_candidate_has_the_unquantized_cell_as_its_baseline(quant: str) -> None:
    baseline = plan(composed(), DATASET, ())
    candidate = plan(composed(f"quant={quant}"), DATASET, ())
    assert candidate.baseline_cell_id == baseline.cell_id == baseline.baseline_cell_id
    assert candidate.cell_id != baseline.cell_id


def test_a_fingerprint_holds_how_it_is_measured() -> None:
    config = composed()
    other = replace(config, measure=MeasureConfig(name="default", latency_examples=3))
    assert plan(config, DATASET, ()).fingerprint != plan(other, DATASET, ()).fingerprint
    assert plan(config, DATASET, ()).fingerprint == plan(composed(), DATASET, ()).fingerprint


def test_a_run_is_named_by_its_axes() -> None:
    assert plan(composed("quant=bnb_nf4"), DATASET, ()).name == "smollm2_135m · bnb_nf4 · demo_qa · zero_shot"
