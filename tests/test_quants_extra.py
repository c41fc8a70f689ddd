"""Recipes whose libraries are extras. `make extras` runs this file where they are installed."""

import importlib
import logging
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bioquant import memory, models, quantization, recipe_checks
from bioquant.config import Device, Dtype, ModelConfig, ModelSource, RequiresConfig, WeightFormat
from bioquant.errors import BrokenQuantError, QuantError, QuantNotAppliedError
from bioquant.models import check, saved
from conftest import Command
from recipes import EXTRA, EXTRA_ON_CPU, QUANTS
from test_model_zoo import FAMILIES, small
from test_models import KEPT, SMOLLM2, TINY, answer, logits, message

absent = [name for name in EXTRA if quantization.lacking_library(QUANTS[name]) is not None]
installed = pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)}: make extras runs these")

# hqq in groups of 64: 4,608 scales and as many zero points, in float32. Ten 3-bit weights in four bytes, the groups of
# a layer filled up to tens: 128, 256 and 512 groups to 130, 260 and 520.
SCALES = 2 * 4_608 * 4
MADE = {
    "hqq_int8": ("HQQLinear 8-bit", 294_912 + SCALES),
    "hqq_int4": ("HQQLinear 4-bit", 147_456 + SCALES),
    "hqq_int3": ("HQQLinear 3-bit", 4 * 64 * 2 * (2 * 26 + 2 * 13 + 3 * 52) + SCALES),
    "hqq_int2": ("HQQLinear 2-bit", 73_728 + SCALES),
    "torchao_int8": ("Int8Tensor", 294_912 + 2_048 * 5),
    "torchao_fp8": ("Float8Tensor", 294_912 + 2_048 * 4),
}
"""Of the tiny model's 14 layers with 294,912 weights in 2,048 rows."""

STORED = [name for name in EXTRA_ON_CPU if quantization.unsavable(QUANTS[name]) is None]


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    """hqq fits scales in thousands of small operations, which two threads on two busy cores make 20 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_all_of_them_are_tested_here():
    assert MADE.keys() == set(EXTRA_ON_CPU)


@pytest.mark.parametrize("name", EXTRA)
def test_a_missing_extra_is_named_before_a_file_is_read(
    name: str, bioquant: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = quantization.library(QUANTS[name])
    assert library is not None
    expected = f"quant '{name}' needs {library}, which is not installed: pip install 'bioquant[{library}]'"
    monkeypatch.setitem(quantization.MODULES, library, "no_such_module")
    assert message(QuantError, replace(TINY, source=ModelSource.local, id="/none"), QUANTS[name]) == expected
    if name in absent and name in ("hqq_int4", "torchao_int8"):
        result = bioquant("run", f"quant={name}", "model=tiny_random", "limit=1")
        assert (result.returncode, result.stderr) == (2, f"error: {expected}\n")


@installed
@pytest.mark.parametrize("name", EXTRA_ON_CPU)
def test_every_extra_loads_proves_itself_and_generates(name: str, capfd: pytest.CaptureFixture[str]):
    module, num_bytes = MADE[name]
    loaded = models.load(TINY, QUANTS[name], Device.cpu)
    assert loaded.report.replaced == {module: 14}
    assert loaded.report.kept == {"Linear": 1}
    assert loaded.report.bytes_after == KEPT + num_bytes
    answer(loaded, "Does aspirin help?", 4)
    assert models.proof.report(loaded.model, QUANTS[name], torch.float32, "cpu") == loaded.report
    exact = logits(models.load(TINY, QUANTS["none"], Device.cpu))
    apart = {WeightFormat.int4: 0.5, WeightFormat.int3: 0.8, WeightFormat.int2: 1.2}
    assert 0 < (logits(loaded) - exact).abs().mean().item() < apart.get(QUANTS[name].weight_format, 0.1)
    assert tuple(capfd.readouterr()) == ("", "")


@installed
@pytest.mark.parametrize("name", EXTRA_ON_CPU)
@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("skipped", [["lm_head"], ["lm_head", "down_proj"], ["lm_head", "model.layers.1"], []])
def test_the_prediction_is_what_stands_in_memory(name: str, dtype: Dtype, skipped: list[str]):
    model, quant = replace(TINY, dtype=dtype), replace(QUANTS[name], skip_modules=skipped)
    assert (
        memory.weights(memory.anatomy(model), quant, Device.cpu)
        == models.load(model, quant, Device.cpu).report.bytes_after
    )


def kept(folder: Path) -> ModelConfig:
    """The tiny model as a checkpoint."""
    random = models.load(TINY, QUANTS["none"], Device.cpu)
    random.model.save_pretrained(folder)
    random.tokenizer.save_pretrained(folder)
    return replace(TINY, source=ModelSource.local, id=str(folder))


@installed
@pytest.mark.parametrize("name", STORED)
def test_stored_weights_are_those_that_were_quantized_and_need_no_other(tmp_path: Path, name: str) -> None:
    model = kept(tmp_path / "full")
    saved.store(model, QUANTS[name], Device.cpu, tmp_path / "stored")
    whole = models.load(model, QUANTS[name], Device.cpu)
    shutil.rmtree(tmp_path / "full")
    found = saved.load(model, QUANTS[name], Device.cpu, tmp_path / "stored")
    assert torch.equal(logits(found), logits(whole))
    assert found.report.bytes_after == whole.report.bytes_after


@installed
def test_a_run_of_each_says_nothing_but_its_table(bioquant: Command) -> None:
    for name in ("hqq_int3", "torchao_int8"):
        asked = ("run", f"quant={name}", "model=tiny_random", "limit=2", "measure.latency_examples=0")
        result = bioquant(*asked, OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stderr
        assert "Failed to load" not in result.stderr


@installed
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EXTRA_ON_CPU)
def test_each_architecture_loads_under_every_recipe_in_the_predicted_bytes(name: str, family: str):
    model = small(FAMILIES[family])
    loaded = models.load(model, QUANTS[name], Device.cpu)
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(model), QUANTS[name], Device.cpu)
    assert 0.3 < logits(loaded).std().item() < 3


@installed
@pytest.mark.parametrize("group_size", [16, 128])
def test_hqqs_groups_are_of_the_size_that_is_asked_for(group_size: int):
    quant = replace(QUANTS["hqq_int4"], group_size=group_size)
    loaded = models.load(TINY, quant, Device.cpu)
    network: Any = loaded.model
    assert network.model.layers[0].mlp.down_proj.meta["scale"].shape == (256 * 128 // group_size, 1)
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(TINY), quant, Device.cpu)


@installed
def test_groups_that_do_not_pack_end_it_with_what_to_do():
    odd = replace(TINY, architecture={**TINY.architecture, "intermediate_size": 101})
    models.load(odd, QUANTS["hqq_int4"], Device.cpu)  # 202 groups
    assert message(QuantError, odd, QUANTS["hqq_int2"]) == (
        "quant 'hqq_int2' cannot be applied to model 'tiny_random' (ValueError: 128 x 101 weights of 2 bits do not "
        "pack into whole bytes in groups of 64): choose another recipe, or add the module to quant.skip_modules."
    )


@installed
@pytest.mark.parametrize(
    ("name", "overrides", "replaced"),
    [
        ("hqq_int4", {"down_proj": WeightFormat.int8}, {"HQQLinear 4-bit": 12, "HQQLinear 8-bit": 2}),
        (
            "hqq_int2",
            {"model.layers.1.self_attn": WeightFormat.int3, "model.layers.1": WeightFormat.int8},
            {"HQQLinear 2-bit": 7, "HQQLinear 3-bit": 4, "HQQLinear 8-bit": 3},
        ),
        ("torchao_int8", {"down_proj": WeightFormat.fp8}, {"Int8Tensor": 12, "Float8Tensor": 2}),
    ],
)
def test_a_mixed_recipe_is_what_it_says_layer_by_layer(
    name: str, overrides: dict[str, WeightFormat], replaced: dict[str, int]
):
    quant = replace(QUANTS[name], overrides=overrides)
    loaded = models.load(TINY, quant, Device.cpu)
    assert loaded.report.replaced == replaced
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(TINY), quant, Device.cpu)
    answer(loaded, "Does aspirin help?", 4)
    typo = replace(quant, overrides={"down_prj": WeightFormat.int8})
    assert "did you mean 'down_proj'?" in message(QuantError, TINY, typo)


@installed
def test_a_mixed_recipe_of_torchao_can_be_stored(tmp_path: Path):
    model = kept(tmp_path / "full")
    quant = replace(QUANTS["torchao_int8"], overrides={"down_proj": WeightFormat.fp8})
    saved.store(model, quant, Device.cpu, tmp_path / "stored")
    found = saved.load(model, quant, Device.cpu, tmp_path / "stored")
    assert found.report.replaced == {"Int8Tensor": 12, "Float8Tensor": 2}


@installed
def test_a_recipe_of_hqq_that_skips_every_module_has_replaced_nothing():
    quant = replace(QUANTS["hqq_int4"], skip_modules=["lm_head", "model"])
    assert message(QuantNotAppliedError, TINY, quant) == (
        "quant 'hqq_int4' replaced none of the model's 15 linear layers by HQQLinear 4-bit: "
        "check quant.skip_modules (lm_head, model)."
    )


@installed
def test_hqq_that_gives_no_numbers_or_unpacks_itself_is_broken():
    quant = QUANTS["hqq_int4"]
    loaded = models.load(TINY, quant, Device.cpu)
    network: Any = loaded.model
    layer = network.model.layers[0].mlp.down_proj
    scale = layer.meta["scale"]
    layer.meta["scale"] = scale * float("nan")
    with pytest.raises(BrokenQuantError, match="gives logits that are not finite on cpu in float32"):
        check.check(loaded, TINY, quant)
    layer.meta["scale"] = scale

    def unpack(module: Any, *_: object) -> None:
        module.meta["unpacked"] = torch.zeros(50_000)

    layer.register_forward_hook(unpack)
    with pytest.raises(BrokenQuantError, match="unpacks its weights when they are used"):
        check.check(loaded, TINY, quant)


@installed
def test_hqq_cannot_be_stored(tmp_path: Path):
    with pytest.raises(QuantError, match="transformers' loader does not read hqq's weights"):
        saved.store(TINY, QUANTS["hqq_int4"], Device.cpu, tmp_path)


@installed
def test_torchaos_int4_is_asked_for_by_group_and_packing():
    config: Any = quantization.loader_config(replace(QUANTS["torchao_int4"], group_size=32), TINY)
    assert (config.quant_type.group_size, config.quant_type.set_inductor_config) == (32, False)
    assert config.quant_type.int4_packing_format == "tile_packed_to_4d"
    mixed = replace(QUANTS["torchao_int8"], group_size=64, overrides={"down_proj": WeightFormat.int4})
    layers = ["model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj", "lm_head"]
    config = quantization.loader_config(mixed, TINY, layers)
    types = {name: type(found).__name__ for name, found in config.quant_type.fqn_to_config.items()}
    assert types == {layers[0]: "Int4WeightOnlyConfig", layers[1]: "Int8WeightOnlyConfig"}


@installed
def test_dynamic_float8_has_the_predicted_bytes(monkeypatch: pytest.MonkeyPatch):
    """On a CPU, where torchao refuses the product: quantized all the same, and not multiplied."""
    api = importlib.import_module("torchao.quantization.quant_api")
    monkeypatch.setattr(api, "_check_hardware_support", lambda _: None)
    quant = replace(QUANTS["torchao_fp8_dynamic"], requires=RequiresConfig())
    model = replace(TINY, dtype=Dtype.bfloat16)
    report = models.load(model, quant, Device.cpu).report
    assert report.replaced == {"Float8Tensor": 14}
    assert report.bytes_after == memory.weights(memory.anatomy(model), quant, Device.cpu)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hqq_int8", "torchao_int8", "torchao_fp8"])
def test_smollm2_still_knows_the_capital_of_france(name: str):
    loaded = models.load(SMOLLM2, QUANTS[name], Device.cpu)
    assert loaded.report.replaced == {MADE[name][0]: 210}
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(SMOLLM2), QUANTS[name], Device.cpu)
    assert answer(loaded, "What is the capital of France?", 12) == "The capital of France is Paris."


@installed
@pytest.mark.slow
def test_two_bits_have_lost_their_language_and_are_called_so(caplog: pytest.LogCaptureFixture):
    quant = QUANTS["hqq_int2"]
    expected = check.expected(SMOLLM2, Device.cpu)
    with caplog.at_level(logging.WARNING):
        found = check.check(models.load(SMOLLM2, quant, Device.cpu), SMOLLM2, quant, expected)
    assert found.perplexity > 1_000
    assert found.kl is not None
    assert found.kl > 5
    [record] = caplog.records
    assert record.getMessage().startswith("quant 'hqq_int2' of model 'smollm2_135m': perplexity ")
    assert record.getMessage().endswith("it has lost its language")


def test_a_format_that_the_library_has_not_is_refused():
    model = ModelConfig(name="m", dtype=Dtype.bfloat16)
    with pytest.raises(QuantError) as error:
        recipe_checks.check(replace(QUANTS["torchao_int8"], weight_format=WeightFormat.nf4), model, Device.cpu, None)
    assert str(error.value) == (
        "quant 'torchao_int8': with method 'torchao' the weight_format 'nf4' is not known. Choose from: "
        "fp8, int4, int8."
    )
