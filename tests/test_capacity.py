"""What fits a device: the largest batch, the batch of a sweep, and refusing before anything is loaded."""

from dataclasses import replace

import pytest

from bioquant import capacity, compose, memory, run
from bioquant.capacity import GIB, decide_batch, largest_batch
from bioquant.config import Device, ModelConfig, QuantConfig, RunConfig
from bioquant.engine import GenerationSettings
from bioquant.engine.batching import Limits
from bioquant.engine.transformers import Schedule
from bioquant.errors import DoesNotFitError
from bioquant.measure import available
from bioquant.memory import BatchShape
from conftest import Command
from test_compose import composed

MODELS: dict[str, ModelConfig] = compose.options("model", ModelConfig)
QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
LLAMA_8B = MODELS["llama_3_1_8b"]
ROW = BatchShape(rows=1, shared=1000, prompt=400, width=512, prefill_tokens=8192)


def peak(model: ModelConfig, quant: QuantConfig, rows: int) -> int:
    return memory.predict(model, quant, replace(ROW, rows=rows), Device.cuda).peak_device


# The largest batch


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_the_largest_batch_fits_to_the_byte_and_one_row_more_does_not(rows: int) -> None:
    shape, quant = memory.anatomy(LLAMA_8B), QUANTS["bnb_nf4"]
    needed = peak(LLAMA_8B, quant, rows)
    assert largest_batch(shape, quant, ROW, Device.cuda, needed) == rows
    assert largest_batch(shape, quant, ROW, Device.cuda, needed - 1) == rows - 1


def test_a_batch_has_a_largest_size_of_its_own() -> None:
    shape = memory.anatomy(MODELS["tiny_random"])
    for device, most in capacity.MOST_ROWS.items():
        assert largest_batch(shape, QUANTS["none"], ROW, device, 2**60) == most
        assert largest_batch(shape, QUANTS["none"], ROW, device, 0) == 0


# The batch of a sweep


def rows_of(model: ModelConfig, gib: float) -> int:
    limits = decide_batch(model, ROW, Device.cuda, int(gib * GIB))
    assert limits.tokens is not None
    assert limits.tokens % ROW.width == 0
    return limits.tokens // ROW.width


def test_a_batch_is_rows_up_to_the_cap_and_tokens_for_the_rows_that_fit() -> None:
    assert decide_batch(LLAMA_8B, ROW, Device.cuda, 80 * GIB) == Limits(rows=128, tokens=128 * 512, prefill_tokens=8192)
    tiny = decide_batch(MODELS["tiny_random"], ROW, Device.cpu, 8 * GIB)
    assert tiny == Limits(rows=16, tokens=16 * 512, prefill_tokens=8192)


@pytest.mark.parametrize("gib", [24, 40, 80])
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.source == "hub"])
def test_the_batch_fits_every_recipe_from_the_one_it_was_decided_for_on(name: str, gib: int) -> None:
    model, size = MODELS[name], gib * GIB
    shape = memory.anatomy(model)
    fitting = [quant for quant in capacity.PRECISIONS if largest_batch(shape, quant, ROW, Device.cuda, size)]
    rows = rows_of(model, gib)
    assert rows & (rows - 1) == 0
    for quant in fitting:
        assert peak(model, quant, rows) <= size
    if fitting[:1] == [capacity.BASELINE]:  # then every recipe there is: none takes more than the baseline
        assert max(peak(model, quant, rows) for quant in QUANTS.values()) <= size


def test_it_is_decided_for_the_baseline_where_that_fits_else_for_8_bits_else_for_4() -> None:
    assert [rows_of(LLAMA_8B, gib) for gib in (40, 24, 17)] == [128, 64, 2]  # the baseline, with ever less room
    assert rows_of(LLAMA_8B, 16) == 32  # 8 bits: more than where the baseline barely fits
    assert rows_of(MODELS["llama_3_3_70b"], 40) == 1  # 4 bits with double quantization, barely
    assert rows_of(MODELS["llama_3_3_70b"], 24) == 1  # nothing fits: the engine will say so


def test_a_prediction_that_is_a_little_off_leaves_the_batch_as_it_is() -> None:
    assert [rows_of(LLAMA_8B, gib) for gib in (23.5, 24, 24.5)] == [64, 64, 64]


# Refusing


def config(*overrides: str) -> RunConfig:
    return composed("model=llama_3_1_8b", *overrides)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB free on every device."""
    monkeypatch.setattr(available, "free_bytes", lambda _: 16 * GIB)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=llama_3_3_70b"],
            "model 'llama_3_3_70b' with quant 'none' needs 132.1 GiB, but cpu has 16.7 GiB: "
            "choose model=llama_3_1_8b (15.7 GiB). plan.force=true loads it all the same.",
        ),
        (
            ["model=qwen2_5_32b", "quant=bnb_nf4_dq"],
            "model 'qwen2_5_32b' with quant 'bnb_nf4_dq' needs 18.9 GiB, but cpu has 16.7 GiB: "
            "choose model=qwen2_5_14b (10.1 GiB). plan.force=true loads it all the same.",
        ),
        (
            ["model=medgemma_27b"],
            "model 'medgemma_27b' with quant 'none' needs 51.0 GiB, but cpu has 16.7 GiB: "
            "choose quant=quanto_int4 (16.2 GiB) or model=huatuogpt_o1_8b (15.7 GiB). "
            "plan.force=true loads it all the same.",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(overrides: list[str], message: str) -> None:
    with pytest.raises(DoesNotFitError) as error:
        capacity.check(config(*overrides), "cpu")
    assert str(error.value) == message


@pytest.mark.usefixtures("free")
def test_what_fits_or_is_forced_or_is_not_known_passes() -> None:
    capacity.check(config(), "cpu")
    capacity.check(config("model=llama_3_3_70b", "plan.force=true"), "cpu")
    unknown = config("model=llama_3_3_70b")
    unknown.model.architecture = {}
    capacity.check(unknown, "cpu")


def test_where_nothing_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "free_bytes", lambda _: 0)
    with pytest.raises(DoesNotFitError, match=r"no recipe and no model here is small enough\. plan\.force=true"):
        capacity.check(config(), "cpu")


def test_a_gpu_is_asked_for_what_is_free_beside_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = capacity.demand(LLAMA_8B, QUANTS["none"], Device.cuda)
    monkeypatch.setattr(available, "free_bytes", lambda _: needed - memory.CUDA_CONTEXT)
    capacity.check(config(), "cuda:0")
    monkeypatch.setattr(available, "free_bytes", lambda _: needed - memory.CUDA_CONTEXT - 1)
    with pytest.raises(DoesNotFitError, match=r"needs 16\.2 GiB, but cuda:0 has 16\.2 GiB: choose quant="):
        capacity.check(config(), "cuda:0")


def test_run_checks_before_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = composed("model=tiny_random")
    monkeypatch.setattr(available, "free_bytes", lambda _: 0)
    with pytest.raises(DoesNotFitError):
        run.load(tiny)
    tiny.plan.force = True
    assert run.load(tiny).model.device == "cpu"


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_one_line_and_exit_code_2(bioquant: Command) -> None:
    result = bioquant("run", "model=llama_3_3_70b", "model.source=random", "limit=2", "model.num_parameters=null")
    assert result.returncode == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: model 'llama_3_3_70b' with quant 'none' needs 132.1 GiB, but cpu has ")
    assert line.endswith("plan.force=true loads it all the same.")


def test_memory_of_this_machine_is_what_the_system_says() -> None:
    assert available.total_bytes("cpu") > GIB
    assert 0 < available.free_bytes("cpu") <= available.total_bytes("cpu")


# What a cell is expected to take


@pytest.mark.parametrize(
    ("lengths", "settings", "expected"),
    [
        ([40, 30, 20], {"rows": 2}, (2, 0, 40, 64)),
        ([400, 30, 20, 10, 5, 4, 3, 2], {"rows": 4}, (4, 0, 400, 512)),
        ([100, 30, 20, 10], {"rows": 4, "tokens": 256}, (2, 0, 100, 128)),
        ([60, 30], {"rows": 4, "num_samples": 5}, (4, 0, 60, 96)),
    ],
)
def test_the_largest_batch_is_the_one_whose_rows_take_the_most(
    lengths: list[int], settings: dict[str, int], expected: tuple[int, int, int, int]
) -> None:
    ids = [[index * 1000 + token for token in range(length)] for index, length in enumerate(lengths)]
    limits = Limits(rows=settings["rows"], tokens=settings.get("tokens"))
    asked = GenerationSettings(max_new_tokens=8, limits=limits, num_samples=settings.get("num_samples", 1))
    shape = capacity.largest_shape(asked, ids)
    assert (shape.rows, shape.shared, shape.prompt, shape.width) == expected
    schedule = Schedule.of(ids, asked)
    assert shape.rows * shape.width == schedule.capacity()


def test_a_prefix_is_counted_once_where_it_is_read_once() -> None:
    ids = [[*range(100), 200 + index] for index in range(4)]
    shared = GenerationSettings(max_new_tokens=8, limits=Limits(rows=4))
    whole = replace(shared, limits=Limits(rows=4, share_prefix=False))
    assert (capacity.largest_shape(shared, ids).shared, capacity.largest_shape(shared, ids).prompt) == (100, 1)
    assert (capacity.largest_shape(whole, ids).shared, capacity.largest_shape(whole, ids).prompt) == (0, 101)


def test_scoring_of_choices_is_not_predicted() -> None:
    config = composed("model=tiny_random", "limit=2", "engine.scoring=loglikelihood")
    cell = run.prepare(config, run.read(config))
    assert capacity.predicted(cell.config, cell.examples, run.load(config).model) is None
