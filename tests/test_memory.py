"""Memory predicted without loading: weights to the byte, every other term by its formula, peaks near measured ones."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bioquant import compose, memory, models
from bioquant.config import Device, Dtype, ModelConfig, ModelSource, QuantConfig
from bioquant.errors import ModelError
from bioquant.memory import MIB, BatchShape
from recipes import BUILT_IN
from test_model_zoo import small

GIB = 2**30

MODELS: dict[str, ModelConfig] = compose.options("model", ModelConfig)
QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
NONE = QUANTS["none"]
TINY = MODELS["tiny_random"]
LLAMA_8B = MODELS["llama_3_1_8b"]
BATCH = BatchShape(rows=4, shared=100, prompt=200, width=256, prefill_tokens=8192)


def weights(model: ModelConfig, quant: QuantConfig) -> int:
    return memory.weights(memory.anatomy(model), quant, Device.cpu)


# Weights


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("none", 513.1),
        ("bnb_int8", 210.0),
        ("bnb_nf4", 165.1),
        ("bnb_fp4", 165.1),
        ("bnb_nf4_dq", 160.6),
        ("quanto_int8", 210.0),
        ("quanto_int4", 166.7),
    ],
)
def test_smollm2_is_predicted_as_it_was_measured(name: str, mib: float) -> None:
    assert weights(MODELS["smollm2_135m"], QUANTS[name]) / MIB == pytest.approx(mib, abs=0.05)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in ("none", "bf16", "fp16")])
@pytest.mark.parametrize("dtype", [Dtype.bfloat16, Dtype.float16])
def test_the_quantization_state_of_a_model_in_16_bits(name: str, dtype: Dtype) -> None:
    model = replace(TINY, dtype=dtype)
    assert weights(model, QUANTS[name]) == models.load(model, QUANTS[name], Device.cpu).report.bytes_after


@pytest.mark.parametrize("skipped", [["lm_head"], [], ["lm_head", "model.layers.1"], ["lm_head", "down_proj"]])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["bnb_int8", "bnb_nf4_dq"])
def test_what_a_recipe_skips_and_what_is_tied_stays_as_it_is(name: str, tied: bool, skipped: list[str]) -> None:
    model = replace(TINY, architecture={**TINY.architecture, "tie_word_embeddings": tied})
    quant = replace(QUANTS[name], skip_modules=skipped)
    assert weights(model, quant) == models.load(model, quant, Device.cpu).report.bytes_after


@pytest.mark.parametrize("inner", [96, 192, 200, 256])
def test_quantos_groups_are_as_large_as_a_row_can_be_divided_into(inner: int) -> None:
    model = replace(TINY, architecture={**TINY.architecture, "intermediate_size": inner})
    quant = QUANTS["quanto_int4"]
    assert weights(model, quant) == models.load(model, quant, Device.cpu).report.bytes_after


# The other terms


def test_keys_and_values_are_held_once_for_what_is_shared_and_for_each_row_apart() -> None:
    shape = memory.anatomy(LLAMA_8B)
    assert memory.kv_bytes_per_token(shape) == 2 * 32 * 8 * 128 * 2 == 128 * 1024
    assert memory.kv(shape, BATCH) == (100 + 4 * 256) * 128 * 1024


def test_a_head_dimension_of_its_own_decides_the_keys() -> None:
    assert memory.kv_bytes_per_token(memory.anatomy(MODELS["qwen3_32b"])) == 2 * 64 * 8 * 128 * 2  # not 5120 / 64
    assert memory.kv_bytes_per_token(memory.anatomy(MODELS["gemma_2_9b"])) == 2 * 42 * 8 * 256 * 2


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        (BATCH, 800),
        (replace(BATCH, rows=100), 8192),
        (replace(BATCH, prompt=9000), 9000),
        (replace(BATCH, shared=9000), 9000),
    ],
)
def test_a_pass_is_as_large_as_its_limit_or_its_longest_prompt(batch: BatchShape, tokens: int) -> None:
    assert batch.pass_tokens == tokens


def test_activations_are_those_of_the_larger_stage() -> None:
    shape = memory.anatomy(LLAMA_8B)
    assert memory.mlp_bytes_per_token(shape) == (2 * 4096 + 3 * 14336) * 2
    assert memory.attention_bytes_per_token(shape) == (2 * 4096 + 3 * 4096 + 2 * 1024) * 2 + (3 * 4096 + 2 * 32) * 4
    assert memory.layer_bytes_per_token(shape) == memory.mlp_bytes_per_token(shape)
    fused = memory.anatomy(MODELS["phi_4"])
    assert memory.mlp_bytes_per_token(fused) == (2 * 5120 + 4 * 17920) * 2


def test_only_capped_scores_are_written_out_while_prompts_are_read() -> None:
    assert memory.prompt_scores(memory.anatomy(LLAMA_8B), BATCH) == 0
    capped = memory.anatomy(MODELS["gemma_2_9b"])
    assert memory.prompt_scores(capped, BATCH) == 16 * (200 * 300) * 10
    assert memory.prompt_scores(capped, replace(BATCH, shared=1000)) == 16 * 1000**2 * 10


def test_a_step_scores_every_row_over_all_places() -> None:
    assert memory.step_scores(memory.anatomy(LLAMA_8B), BATCH) == 4 * 32 * (100 + 256) * 10


def test_what_a_linear_layer_needs_depends_on_the_method() -> None:
    shape = memory.anatomy(LLAMA_8B)
    largest = 14336 * 4096
    assert memory.linear_bytes(shape, NONE, 10) == 0
    assert memory.linear_bytes(shape, QUANTS["bnb_nf4"], 10) == largest * 2
    assert memory.linear_bytes(shape, QUANTS["bnb_nf4_dq"], 10) == largest * 2 + largest // 64 * 4
    assert memory.linear_bytes(shape, QUANTS["bnb_int8"], 10) == 10 * (3 * 4096 + 6 * 14336)


def test_a_prediction_is_the_sum_of_its_terms() -> None:
    shape = memory.anatomy(LLAMA_8B)
    found = memory.predict(LLAMA_8B, QUANTS["bnb_nf4"], BATCH, Device.cuda)
    read, step = (stage(shape, QUANTS["bnb_nf4"], BATCH) for stage in (memory.reading, memory.stepping))
    assert found.workspace == max(read, step)
    assert found.peak_allocated == found.weights + found.kv + found.workspace + memory.CUBLAS
    assert found.peak_device == found.peak_allocated + memory.CUDA_CONTEXT + int(memory.UNUSED_SHARE * found.workspace)
    host = memory.predict(LLAMA_8B, QUANTS["bnb_nf4"], BATCH, Device.cpu)
    assert host.peak_device == host.peak_allocated == found.weights + found.kv + found.workspace + memory.PROCESS


# `python benchmarks/memory.py` on one H100 80GB (torch 2.11.0, transformers 5.17.0, bitsandbytes 0.50.2, CUDA 13.0):
# GiB by torch's allocator, and by the driver on the whole device.
MEASURED = [
    ("llama_3_2_1b", "none", 1, 2.39, 3.62),
    ("llama_3_2_1b", "none", 16, 3.27, 4.83),
    ("llama_3_2_1b", "bnb_int8", 1, 1.53, 2.86),
    ("llama_3_2_1b", "bnb_int8", 16, 2.64, 4.25),
    ("llama_3_2_1b", "bnb_nf4_dq", 1, 1.10, 2.40),
    ("llama_3_2_1b", "bnb_nf4_dq", 16, 1.93, 3.53),
    ("llama_3_2_3b", "none", 1, 6.17, 7.47),
    ("llama_3_2_3b", "none", 16, 8.04, 9.58),
    ("llama_3_2_3b", "bnb_int8", 1, 3.56, 4.86),
    ("llama_3_2_3b", "bnb_int8", 16, 5.69, 7.25),
    ("llama_3_2_3b", "bnb_nf4_dq", 1, 2.31, 3.63),
    ("llama_3_2_3b", "bnb_nf4_dq", 16, 4.14, 5.78),
    ("llama_3_1_8b", "none", 1, 15.20, 16.51),
    ("llama_3_1_8b", "none", 16, 17.56, 19.51),
    ("llama_3_1_8b", "bnb_int8", 1, 8.74, 10.09),
    ("llama_3_1_8b", "bnb_int8", 16, 11.53, 13.52),
    ("llama_3_1_8b", "bnb_nf4_dq", 1, 5.66, 7.01),
    ("llama_3_1_8b", "bnb_nf4_dq", 16, 7.91, 10.03),
    ("qwen2_5_14b", "none", 1, 27.80, 29.11),
    ("qwen2_5_14b", "none", 16, 30.96, 32.79),
    ("qwen2_5_14b", "bnb_int8", 1, 15.57, 17.24),
    ("qwen2_5_14b", "bnb_int8", 16, 19.15, 21.16),
    ("qwen2_5_14b", "bnb_nf4_dq", 1, 9.69, 11.03),
    ("qwen2_5_14b", "bnb_nf4_dq", 16, 12.73, 14.66),
    ("qwen2_5_32b", "none", 1, 61.40, 62.71),
    ("qwen2_5_32b", "none", 16, 65.93, 68.14),
    ("qwen2_5_32b", "bnb_int8", 1, 32.41, 33.88),
    ("qwen2_5_32b", "bnb_int8", 16, 37.77, 39.88),
    ("qwen2_5_32b", "bnb_nf4_dq", 1, 18.53, 20.14),
    ("qwen2_5_32b", "bnb_nf4_dq", 16, 22.81, 24.86),
    ("llama_3_3_70b", "bnb_nf4_dq", 1, 37.69, 38.88),
    ("llama_3_3_70b", "bnb_nf4_dq", 16, 42.84, 45.41),
]


@pytest.mark.parametrize(("model", "quant", "rows", "allocated", "device"), MEASURED)
def test_peaks_are_within_5_percent_of_measured_ones(
    model: str, quant: str, rows: int, allocated: float, device: float
) -> None:
    batch = BatchShape(rows=rows, shared=0 if rows == 1 else 1024, prompt=512, width=768, prefill_tokens=8192)
    found = memory.predict(replace(MODELS[model], dtype=Dtype.bfloat16), QUANTS[quant], batch, Device.cuda)
    assert found.peak_allocated / GIB == pytest.approx(allocated, rel=0.05)
    assert found.peak_device / GIB == pytest.approx(device, rel=0.05)


# `python benchmarks/families.py` on one H100 80GB (docs/gpu.md): every recipe on a shape of each architecture, 16 rows.
FAMILIES = list(csv.DictReader((Path(__file__).parent / "families_h100.csv").read_text().splitlines()))
KEPT_MORE = "qwen2_5_3b"
"""Measured in a process that kept 5.8 GiB of an unquantized model's memory, of whose recipe most need less."""


@pytest.mark.parametrize("found", FAMILIES, ids=lambda row: f"{row['model']}-{row['quant']}")
def test_every_recipe_takes_what_is_predicted_on_each_architecture(found: dict[str, str]) -> None:
    quant = QUANTS[found["quant"]]
    dtype = Dtype.float16 if quant.name in ("awq", "bf16") else Dtype.bfloat16
    batch = BatchShape(rows=16, shared=1024, prompt=512, width=768, prefill_tokens=8192)
    expected = memory.predict(replace(MODELS[found["model"]], dtype=dtype), quant, batch, Device.cuda)
    assert expected.weights / GIB == pytest.approx(float(found["weights_gib"]), rel=0.01)
    if found["model"] != KEPT_MORE:
        assert expected.peak_device / GIB == pytest.approx(float(found["device_gib"]), rel=0.09)


# Where the architecture comes from


def test_a_checkpoint_of_ones_own_needs_no_architecture(tmp_path: Path) -> None:
    model = small(LLAMA_8B)
    models.load(model, NONE, Device.cpu).model.save_pretrained(tmp_path)
    local = replace(model, source=ModelSource.local, id=str(tmp_path), architecture={})
    assert asdict(memory.anatomy(local)) == asdict(memory.anatomy(model))


def test_without_an_architecture_or_a_checkpoint_there_is_no_prediction(tmp_path: Path) -> None:
    expected = (
        "model 'mine': its memory cannot be predicted, since the model states no architecture and its config.json is "
        "not on this machine: give architecture.model_type and the sizes as that file has them."
    )
    for source, place in ((ModelSource.local, str(tmp_path)), (ModelSource.hub, "org/name")):
        model = ModelConfig(name="mine", source=source, id=place, revision="0" * 40, dtype=Dtype.float32)
        with pytest.raises(ModelError) as error:
            memory.anatomy(model)
        assert str(error.value) == expected
