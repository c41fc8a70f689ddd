from dataclasses import replace

import pytest
import torch
from transformers import BitsAndBytesConfig, QuantoConfig

from bioquant import quantization
from bioquant.config import Device, Dtype, ModelConfig, QuantMethod, RequiresConfig, WeightFormat, conf_dir
from bioquant.errors import QuantError
from recipes import BUILT_IN, QUANTS

MODEL = ModelConfig(name="m", dtype=Dtype.bfloat16)


def four_bit(name: str, model: ModelConfig = MODEL) -> BitsAndBytesConfig:
    config = quantization.loader_config(QUANTS[name], model)
    assert isinstance(config, BitsAndBytesConfig)
    assert config.load_in_4bit
    return config


def test_every_recipe_has_its_file_name_runs_here_and_composes():
    assert set(QUANTS) == {*BUILT_IN, "torchao_int8", "torchao_fp8"}
    for name, quant in QUANTS.items():
        assert quant.name == name
        if name in BUILT_IN:
            quantization.check(quant, MODEL, Device.cpu, None)
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
        quantization.check(quant, MODEL, Device.cpu, None)
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
            "quant 'bnb_nf4' needs a checkpoint calibrated for bnb_4bit (model.calibrated of 'm')",
        ),
    ],
)
def test_what_a_recipe_requires_is_held_against_model_and_device(requires: RequiresConfig, reason: str):
    quant = replace(QUANTS["bnb_nf4"], requires=requires)
    with pytest.raises(QuantError) as error:
        quantization.check(quant, MODEL, Device.cuda, 8.0)
    assert str(error.value) == f"{reason}: choose another recipe."


def test_a_format_its_method_has_not_is_refused():
    quant = replace(QUANTS["bnb_nf4"], weight_format=WeightFormat.int4)
    with pytest.raises(QuantError) as error:
        quantization.check(quant, MODEL, Device.cpu, None)
    assert str(error.value) == (
        "quant 'bnb_nf4': with method 'bnb_4bit' the weight_format 'int4' is not known. Choose from: fp4, nf4."
    )


def test_a_compute_dtype_that_would_be_ignored_is_refused():
    quant = replace(QUANTS["bnb_int8"], compute_dtype=Dtype.float16)
    with pytest.raises(QuantError) as error:
        quantization.check(quant, MODEL, Device.cpu, None)
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
        quantization.check(quant, MODEL, Device.cpu, None)
    assert str(error.value) == f"quant 'bnb_int8' needs {library}, which is not installed: pip install {library}"
