from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AwqConfig, BitsAndBytesConfig, GPTQConfig, QuantoConfig

from bioquant import models, quantization, recipe_checks
from bioquant.config import Device, Dtype, ModelConfig, QuantMethod, RequiresConfig, WeightFormat, conf_dir
from bioquant.errors import QuantError
from recipes import BUILT_IN, CALIBRATED, PUBLISHED, QUANTS

MODEL = ModelConfig(name="m", dtype=Dtype.bfloat16)


def four_bit(name: str, model: ModelConfig = MODEL) -> BitsAndBytesConfig:
    config = quantization.loader_config(QUANTS[name], model)
    assert isinstance(config, BitsAndBytesConfig)
    assert config.load_in_4bit
    return config


def test_every_recipe_has_its_file_name_runs_here_and_composes():
    assert PUBLISHED == ["awq", "ct_fp8", "ct_int4", "fp8", "gguf", "gptq"]
    assert CALIBRATED == ["gptq_int4"]
    for name, quant in QUANTS.items():
        assert quant.name == name
        if name in BUILT_IN:
            recipe_checks.check(quant, replace(MODEL, dtype=Dtype.float32), Device.cpu, None)
        assert (conf_dir() / "quant" / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


def test_none_needs_no_loader_config():
    assert quantization.loader_config(QUANTS["none"], MODEL) is None


def test_int8_hands_over_threshold_and_skipped_modules():
    quant = replace(QUANTS["bnb_int8"], int8_threshold=5.0, skip_modules=["lm_head", "down_proj"])
    config = quantization.loader_config(quant, MODEL)
    assert isinstance(config, BitsAndBytesConfig)
    assert config.load_in_8bit
    assert config.llm_int8_threshold == 5.0
    assert config.llm_int8_skip_modules == ["lm_head", "down_proj"]


@pytest.mark.parametrize(
    ("name", "kind", "double"), [("bnb_nf4", "nf4", False), ("bnb_nf4_dq", "nf4", True), ("bnb_fp4", "fp4", False)]
)
def test_four_bit_recipes_differ_in_type_and_double_quant(name: str, kind: str, double: bool):
    config = four_bit(name)
    assert config.bnb_4bit_quant_type == kind
    assert config.bnb_4bit_use_double_quant is double
    assert config.llm_int8_skip_modules == ["lm_head"]


def test_four_bit_computes_in_the_models_dtype_unless_the_recipe_says_otherwise():
    assert four_bit("bnb_nf4").bnb_4bit_compute_dtype == torch.bfloat16
    quant = replace(QUANTS["bnb_nf4"], compute_dtype=Dtype.float32)
    config = quantization.loader_config(quant, MODEL)
    assert isinstance(config, BitsAndBytesConfig)
    assert config.bnb_4bit_compute_dtype == torch.float32


@pytest.mark.parametrize(("name", "weights"), [("quanto_int8", "int8"), ("quanto_int4", "int4")])
def test_quanto(name: str, weights: str):
    config = quantization.loader_config(QUANTS[name], MODEL)
    assert isinstance(config, QuantoConfig)
    assert (config.weights, config.activations, config.modules_to_not_convert) == (weights, None, ["lm_head"])


def test_a_recipe_for_another_device_is_refused():
    quant = replace(QUANTS["bnb_nf4"], requires=RequiresConfig(devices=[Device.cuda]))
    with pytest.raises(QuantError) as error:
        recipe_checks.check(quant, MODEL, Device.cpu, None)
    assert str(error.value) == (
        "quant 'bnb_nf4' does not run on cpu (quant.requires.devices: cuda): "
        "choose another recipe or another engine.device."
    )


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        (
            RequiresConfig(compute_capability=8.9),
            "quant 'bnb_nf4' needs a newer GPU (quant.requires.compute_capability=8.9, this one has 8.0)",
        ),
        (
            RequiresConfig(calibrated=True),
            "quant 'bnb_nf4' needs a published checkpoint, of which model 'm' names none "
            "(++model.calibrated.bnb_nf4=org/name@commit adds one)",
        ),
    ],
)
def test_what_a_recipe_requires_is_held_against_model_and_device(requires: RequiresConfig, reason: str):
    quant = replace(QUANTS["bnb_nf4"], requires=requires)
    with pytest.raises(QuantError) as error:
        recipe_checks.check(quant, MODEL, Device.cuda, 8.0)
    assert str(error.value) == f"{reason}: choose another recipe."


def test_a_format_its_method_has_not_is_refused():
    quant = replace(QUANTS["bnb_nf4"], weight_format=WeightFormat.int4)
    with pytest.raises(QuantError) as error:
        recipe_checks.check(quant, MODEL, Device.cpu, None)
    assert str(error.value) == (
        "quant 'bnb_nf4': with method 'bnb_4bit' the weight_format 'int4' is not known. Choose from: fp4, nf4."
    )


def test_a_compute_dtype_that_would_be_ignored_is_refused():
    quant = replace(QUANTS["bnb_int8"], compute_dtype=Dtype.float16)
    with pytest.raises(QuantError) as error:
        recipe_checks.check(quant, MODEL, Device.cpu, None)
    assert str(error.value) == (
        "quant 'bnb_int8': compute_dtype=float16 has no effect with method 'bnb_int8', "
        "which computes in the model's dtype: set model.dtype instead."
    )


@pytest.mark.parametrize(
    ("method", "library"), [(QuantMethod.bnb_int8, "bitsandbytes"), (QuantMethod.quanto, "optimum-quanto")]
)
def test_a_missing_library_is_named(method: QuantMethod, library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(quantization.MODULES, library, "bioquant.no_such_module")
    quant = replace(QUANTS["bnb_int8"], method=method)
    with pytest.raises(QuantError) as error:
        recipe_checks.check(quant, MODEL, Device.cpu, None)
    assert str(error.value) == f"quant 'bnb_int8' needs {library}, which is not installed: pip install {library}"


def refused(name: str, model: ModelConfig = MODEL, device: Device = Device.cpu, **changes: Any) -> str:
    with pytest.raises(QuantError) as error:
        recipe_checks.check(replace(QUANTS[name], **changes), model, device, 9.0)
    return str(error.value)


def test_a_block_size_where_its_method_has_none_is_refused():
    assert refused("hqq_int4", block_size=64) == (
        "quant 'hqq_int4': block_size=64 has no effect with method 'hqq': set quant.group_size instead."
    )
    assert refused("bnb_int8", block_size=64) == (
        "quant 'bnb_int8': block_size=64 has no effect with method 'bnb_int8': leave it out."
    )


def test_the_baseline_of_a_sweep_passes_over_what_is_meant_for_the_others():
    asked = replace(QUANTS["none"], block_size=128, group_size=32, compute_dtype=Dtype.float16)
    recipe_checks.check(asked, MODEL, Device.cpu, None)
    assert quantization.computed_in(MODEL, asked) is MODEL.dtype
    assert models.loader_config(replace(QUANTS["none"], block_size=128), MODEL) is None


def test_a_group_is_said_where_it_takes_effect():
    assert quantization.group(replace(QUANTS["none"], block_size=128, group_size=32)) is None
    assert quantization.group(replace(QUANTS["bnb_int8"], group_size=32)) is None
    assert quantization.group(replace(QUANTS["bnb_nf4"], block_size=128, group_size=32)) == 128
    assert quantization.group(replace(QUANTS["hqq_int4"], group_size=32)) == 32


def test_a_size_that_a_library_has_not_is_refused():
    assert refused("bnb_nf4", block_size=100) == (
        "quant 'bnb_nf4': block_size=100 is not one that bitsandbytes has: choose from 32, 64, 128, 256, 512, 1024, "
        "2048, 4096."
    )
    assert refused("torchao_int4", group_size=100) == (
        "quant 'torchao_int4': group_size=100 is not one that torchao's int4 has: choose from 32, 64, 128, 256."
    )
    for size in (None, 0, 12):
        assert refused("hqq_int4", group_size=size) == (
            f"quant 'hqq_int4': group_size={size} is not one that hqq has: give a multiple of 8."
        )


def test_overrides_where_a_method_cannot_mix_are_refused():
    assert refused("bnb_nf4", overrides={"down_proj": WeightFormat.fp4}) == (
        "quant 'bnb_nf4': method 'bnb_4bit' quantizes all layers alike, so quant.overrides cannot be had: leave it "
        "out, or choose a recipe of method hqq or torchao."
    )


def test_an_override_to_a_format_that_its_method_has_not_is_refused():
    assert refused("hqq_int4", overrides={"down_proj": WeightFormat.nf4}) == (
        "quant 'hqq_int4': with method 'hqq' the overrides.down_proj 'nf4' is not known. Choose from: int2, int3, "
        "int4, int8."
    )


def test_an_override_that_names_no_layer_is_refused():
    quant = replace(QUANTS["hqq_int4"], overrides={"down_proj": WeightFormat.int8, "v_prj": WeightFormat.int8})
    layers = ["model.layers.0.mlp.down_proj", "model.layers.0.self_attn.v_proj"]
    with pytest.raises(QuantError) as error:
        recipe_checks.check_overrides(quant, layers)
    assert str(error.value) == (
        "quant 'hqq_int4': in quant.overrides the module 'v_prj' is not known; did you mean 'v_proj'? "
        "Choose from: down_proj, v_proj."
    )


def test_the_first_override_counts_and_skipping_comes_before_all():
    overrides = {"model.layers.0": WeightFormat.int3, "down_proj": WeightFormat.int8}
    quant = replace(QUANTS["hqq_int4"], overrides=overrides)
    found = {
        name: quantization.layer_format(quant, name)
        for name in (
            "model.layers.0.mlp.down_proj",
            "model.layers.1.mlp.down_proj",
            "model.layers.1.mlp.up_proj",
            "lm_head",
        )
    }
    assert list(found.values()) == [WeightFormat.int3, WeightFormat.int8, WeightFormat.int4, None]


def test_a_cast_to_the_models_own_dtype_changes_nothing():
    assert refused("bf16") == (
        "quant 'bf16' changes nothing in model 'm', whose dtype is bfloat16: choose another recipe."
    )
    recipe_checks.check(QUANTS["fp16"], MODEL, Device.cpu, None)


def test_a_cast_skips_nothing():
    assert refused("fp16", skip_modules=["lm_head"]) == (
        "quant 'fp16': a cast is of every weight, so quant.skip_modules cannot be had: leave it out."
    )


def test_a_cast_computes_in_what_it_casts_to():
    full = replace(MODEL, dtype=Dtype.float32)
    assert quantization.computed_in(full, QUANTS["fp16"]) is Dtype.float16
    assert quantization.computed_in(full, QUANTS["bnb_nf4"]) is Dtype.float32
    assert quantization.as_loaded(full, QUANTS["bnb_nf4"]) is full


@pytest.mark.parametrize("name", ["torchao_int4", "torchao_fp8_dynamic"])
def test_what_needs_bfloat16_and_a_gpu_says_so(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(quantization.MODULES, "torchao", "bioquant")
    full = replace(MODEL, dtype=Dtype.float32)
    assert refused(name, full, Device.cuda) == (
        f"quant '{name}' needs model.dtype=bfloat16, not float32: choose another recipe."
    )
    assert refused(name).startswith(f"quant '{name}' does not run on cpu (quant.requires.devices: cuda)")
    recipe_checks.check(QUANTS[name], MODEL, Device.cuda, 9.0)
    with pytest.raises(QuantError, match=r"needs a newer GPU"):
        recipe_checks.check(QUANTS[name], MODEL, Device.cuda, 7.5)


def test_gptqmodel_is_not_left_to_choose_a_kernel_that_it_would_download_for():
    gptq, awq = QUANTS["gptq"], QUANTS["awq"]
    assert quantization.loading_options(gptq, Device.cpu) == quantization.loading_options(awq, Device.cpu) == {}
    chosen = quantization.loading_options(gptq, Device.cuda)
    assert GPTQConfig(bits=4, **chosen).backend == "gptq_triton"
    chosen = quantization.loading_options(awq, Device.cuda)
    assert AwqConfig(bits=4, **chosen).backend == "gemm_triton"


def test_every_recipes_steps_can_be_graphs_but_those_that_ask_the_host():
    assert [name for name, quant in QUANTS.items() if not quantization.steps_can_be_graphs(quant)] == ["bnb_int8"]
