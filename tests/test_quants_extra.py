"""Recipes whose libraries are extras. `make extras` runs this file where they are installed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bioquant import memory, models, quantization
from bioquant.config import Device, Dtype, ModelConfig, ModelSource, WeightFormat
from bioquant.errors import QuantError
from bioquant.models import saved
from conftest import Command
from recipes import EXTRA, QUANTS
from test_models import KEPT, SMOLLM2, TINY, answer, logits, message

absent = [name for name in EXTRA if quantization.lacking_library(QUANTS[name]) is not None]
installed = pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)}: make extras runs these")

MADE = {
    "torchao_int8": ("Int8Tensor", 294_912 + 2_048 * 5),
    "torchao_fp8": ("Float8Tensor", 294_912 + 2_048 * 4),
}
"""Of the tiny model's 14 layers with 294,912 weights in 2,048 rows."""


def test_all_of_them_are_tested_here():
    assert MADE.keys() == set(EXTRA)


@pytest.mark.parametrize("name", EXTRA)
def test_a_missing_extra_is_named_before_a_file_is_read(
    name: str, bioquant: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = quantization.library(QUANTS[name])
    assert library is not None
    expected = f"quant '{name}' needs {library}, which is not installed: pip install 'bioquant[{library}]'"
    monkeypatch.setitem(quantization.MODULES, library, "no_such_module")
    assert message(QuantError, replace(TINY, source=ModelSource.local, id="/none"), QUANTS[name]) == expected
    if name in absent:
        result = bioquant("run", f"quant={name}", "model=tiny_random", "limit=1")
        assert (result.returncode, result.stderr) == (2, f"error: {expected}\n")


@installed
@pytest.mark.parametrize("name", EXTRA)
def test_every_extra_loads_proves_itself_and_generates(name: str, capfd: pytest.CaptureFixture[str]):
    module, num_bytes = MADE[name]
    loaded = models.load(TINY, QUANTS[name], Device.cpu)
    assert loaded.report.replaced == {module: 14}
    assert loaded.report.kept == {"Linear": 1}
    assert loaded.report.bytes_after == KEPT + num_bytes
    answer(loaded, "Does aspirin help?", 4)
    assert models.proof.report(loaded.model, QUANTS[name], torch.float32, "cpu") == loaded.report
    exact = logits(models.load(TINY, QUANTS["none"], Device.cpu))
    assert 0 < (logits(loaded) - exact).abs().mean().item() < 0.1
    assert tuple(capfd.readouterr()) == ("", "")


@installed
@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("skipped", [["lm_head"], ["lm_head", "down_proj"], ["lm_head", "model.layers.1"], []])
def test_the_prediction_is_what_stands_in_memory(name: str, dtype: Dtype, skipped: list[str]):
    model, quant = replace(TINY, dtype=dtype), replace(QUANTS[name], skip_modules=skipped)
    assert memory.weights(memory.anatomy(model), quant) == models.load(model, quant, Device.cpu).report.bytes_after


@installed
@pytest.mark.parametrize("name", EXTRA)
def test_stored_weights_are_those_that_were_quantized_and_need_no_other(tmp_path: Path, name: str) -> None:
    random = models.load(TINY, QUANTS["none"], Device.cpu)
    random.model.save_pretrained(tmp_path / "full")
    random.tokenizer.save_pretrained(tmp_path / "full")
    model = replace(TINY, source=ModelSource.local, id=str(tmp_path / "full"))
    saved.store(model, QUANTS[name], Device.cpu, tmp_path / "stored")
    whole = models.load(model, QUANTS[name], Device.cpu)
    shutil.rmtree(tmp_path / "full")
    found = saved.load(model, QUANTS[name], Device.cpu, tmp_path / "stored")
    assert torch.equal(logits(found), logits(whole))
    assert found.report.bytes_after == whole.report.bytes_after


@installed
def test_a_run_of_each_says_nothing_but_its_table(bioquant: Command) -> None:
    for name in EXTRA:
        result = bioquant("run", f"quant={name}", "model=tiny_random", "limit=2")
        assert result.returncode == 0, result.stderr
        assert "Failed to load" not in result.stderr


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRA)
def test_smollm2_still_knows_the_capital_of_france(name: str):
    loaded = models.load(SMOLLM2, QUANTS[name], Device.cpu)
    assert loaded.report.replaced == {MADE[name][0]: 210}
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(SMOLLM2), QUANTS[name])
    assert answer(loaded, "What is the capital of France?", 12) == "The capital of France is Paris."


def test_a_format_that_the_library_has_not_is_refused():
    model = ModelConfig(name="m", dtype=Dtype.bfloat16)
    with pytest.raises(QuantError) as error:
        quantization.check(replace(QUANTS["torchao_int8"], weight_format=WeightFormat.nf4), model, Device.cpu, None)
    assert str(error.value) == (
        "quant 'torchao_int8': with method 'torchao' the weight_format 'nf4' is not known. Choose from: fp8, int8."
    )
