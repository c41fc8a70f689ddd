"""GPTQ, AWQ and compressed-tensors, whose libraries are extras: `make extras` runs this file."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bioquant import calibration, loading, memory, models, quantization
from bioquant.config import CalibrationConfig, Device, Dtype, ModelConfig, ModelSource, RunConfig
from bioquant.errors import QuantError
from bioquant.models import calibrated, check, gptq, saved
from conftest import Command
from recipes import QUANTS
from test_compose import composed
from test_models import KEPT, NONE, TINY, logits
from test_published import checkpoint as checkpoint, full as full, loaded, naming, recipe

LIBRARIES = ("gptq", "ct_int4")
absent = [name for name in LIBRARIES if quantization.lacking_library(QUANTS[name]) is not None]

pytestmark = [
    pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)}: make extras runs these"),
    # gptqmodel leaves temporary folders to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KERNEL = {"gptq": "TorchAtenLinear", "awq": "TorchAtenAwqLinear"}

# 294,912 weights in 14 layers: half a byte each, and a group of 64 a scale and a zero in bfloat16, twice. GPTQ: two
# numbers for each of the 2 * 6 * 128 + 2 * 256 columns, a table of 8.
BYTES = {"awq": 294_912 // 2 + 294_912 // 64 * 8}
BYTES["gptq"] = BYTES["awq"] + 2 * 4 * 2 * (6 * 128 + 256) + 14 * 32


def dense(where: Path) -> ModelConfig:
    return replace(TINY, source=ModelSource.local, id=str(where / "dense"))


# Published


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_published_int4_gives_the_logits_of_the_weights_it_stands_for(
    checkpoint: Callable[[str], Path], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ), list(logging.getLogger().handlers), logging.getLogger().level
    found = loaded(recipe(name), checkpoint(name))
    assert found.report.replaced == {KERNEL[name]: 14}
    assert found.report.kept == {"Linear": 1}
    assert found.report.bytes_after == KEPT + BYTES[name]
    assert found.report.bytes_before == models.load(TINY, NONE, Device.cpu).report.bytes_before
    assert found.report.dequantized_from is None
    assert found.report.backend.startswith("gptqmodel ")
    apart = (logits(found) - logits(models.load(dense(checkpoint(name)), NONE, Device.cpu))).abs()
    rounded = (logits(models.load(TINY, NONE, Device.cpu)) - logits(found)).abs()
    assert apart.mean() < 0.02 < 0.1 < rounded.mean()  # the kernel multiplies in bfloat16
    assert check.check(found, TINY, recipe(name)).perplexity > 1
    after = dict(os.environ), list(logging.getLogger().handlers), logging.getLogger().level
    assert {key: value for key, value in after[0].items() if key != "PYTEST_CURRENT_TEST"} == {
        key: value for key, value in before[0].items() if key != "PYTEST_CURRENT_TEST"
    }
    assert after[1:] == before[1:]
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("name", "weight_format", "bits"), [("ct_int4", "int4", 4), ("ct_fp8", "fp8", 8)], ids=["int4", "fp8"]
)
def test_compressed_tensors_is_unpacked_on_a_cpu_and_says_so(
    checkpoint: Callable[[str], Path], name: str, weight_format: str, bits: int, capfd: pytest.CaptureFixture[str]
) -> None:
    quant = composed("quant=ct_int4", f"quant.weight_format={weight_format}", f"quant.bits={bits}").quant
    found = loaded(quant, checkpoint(name))
    assert found.report.dequantized_from == "compressed_tensors"
    assert (found.report.replaced, found.report.kept) == ({}, {"Linear": 15})
    assert found.report.bytes_after >= found.report.bytes_before
    assert torch.equal(logits(found), logits(models.load(dense(checkpoint(name)), NONE, Device.cpu)))
    check.check(found, TINY, quant)  # nothing grows any more
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("name", ["gptq", "awq"])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_the_prediction_is_what_stands_in_memory(checkpoint: Callable[[str], Path], name: str, dtype: Dtype) -> None:
    model = replace(naming(recipe(name), checkpoint(name)), dtype=dtype)
    report = loaded(recipe(name), checkpoint(name)).report if dtype is Dtype.float32 else _in(dtype, name, checkpoint)
    assert memory.weights(memory.anatomy(model), recipe(name), Device.cpu) == report.bytes_after


def _in(dtype: Dtype, name: str, checkpoint: Callable[[str], Path]) -> Any:
    model = replace(TINY, dtype=dtype, source=ModelSource.local, id=str(checkpoint(name)))
    return models.load(replace(model, calibrated={name: "x"}), recipe(name), Device.cpu, quantized=True).report


LET_GO = """
import gc, sys, weakref
from bioquant import compose, loading
config = compose.compose_one(sys.argv[1:])
loaded = loading.load(config)
model = weakref.ref(loaded.model)
del loaded
gc.collect()
print(model() is None)
"""


def test_the_first_model_of_a_process_leaves_memory_too(checkpoint: Callable[[str], Path]) -> None:
    """The library is imported while that one is loaded."""
    asked = ["quant=awq", "model=tiny_random", "quant.group_size=64", "engine.device=cpu"]
    command = [sys.executable, "-c", LET_GO, *asked, f"++model.calibrated.awq={checkpoint('awq')}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"


# Calibrated here


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cell(cache: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The tiny model, calibrated on a few windows of a task's pool: bytes are its tokens."""
    monkeypatch.setenv("BIOQUANT_CACHE", str(cache))
    text = ("quant.calibration.task=demo_qa", "quant.calibration.num_samples=4", "quant.calibration.num_tokens=128")
    return calibration.decided(composed("model=tiny_random", "quant=gptq_int4", "quant.group_size=64", *text))


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "quantized").iterdir() if path.is_dir()]


def test_it_is_quantized_once_and_loads_as_what_is_published(
    cell: RunConfig, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, quantized = loading.weights(cell)
    assert quantized
    assert folders(cache) == [Path(source.id)]
    assert calibrated.broken(Path(source.id)) is None
    first = models.load(source, cell.quant, Device.cpu, quantized=True)
    assert first.report.replaced == {"TorchAtenLinear": 14}
    assert first.report.bytes_after == KEPT + BYTES["gptq"]
    exact = logits(models.load(TINY, NONE, Device.cpu))
    assert 0 < (logits(first) - exact).abs().mean() < 0.5
    monkeypatch.setattr(gptq, "quantize", None)
    assert loading.weights(cell) == (source, True)
    second = models.load(source, cell.quant, Device.cpu, quantized=True)
    assert torch.equal(logits(first), logits(second))
    said = json.loads((Path(source.id) / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert (said["quant_method"], said["format"], said["bits"], said["group_size"]) == ("gptq", "gptq", 4, 64)
    assert said["dataset"] is None  # the text stays out of the files
    assert tuple(capfd.readouterr()) == ("", "")


def test_calibration_does_better_than_rounding(cell: RunConfig, checkpoint: Callable[[str], Path]) -> None:
    """On the windows that it was calibrated on, the layers' outputs are nearer to those of the full weights."""
    tokenizer = models.random.tokenizer()
    ids = tokenizer.encode("Does a daily walk lower the blood pressure of adults with hypertension?")
    full, rounded, made = (
        network.model(torch.tensor([ids])).logits
        for network in (
            models.load(TINY, NONE, Device.cpu),
            loaded(recipe("gptq"), checkpoint("gptq")),
            models.load(loading.weights(cell)[0], cell.quant, Device.cpu, quantized=True),
        )
    )
    assert (made - full).square().mean() < (rounded - full).square().mean()


def test_a_broken_file_is_named_and_made_anew(cell: RunConfig, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Path(loading.weights(cell)[0].id)
    weights = place / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert loading.weights(cell)[0].id == str(place)
    assert caplog.messages == [f"{place} is broken (model.safetensors has another checksum): it is made anew"]
    assert weights.read_bytes() == whole  # the same text, the same weights
    (place / "config.json").unlink()
    assert calibrated.broken(place) == "config.json is not there"
    (place / calibrated.CHECKSUMS).write_text("{", encoding="utf-8")
    assert calibrated.broken(place) == "checksums.json cannot be read"
    shutil.rmtree(place)


def test_what_decides_the_weights_decides_the_folder(cell: RunConfig) -> None:
    def place(model: ModelConfig = cell.model, **changed: Any) -> str:
        return calibrated.place(model, replace(cell.quant, **changed)).name

    first = place()
    assert place(name="other", check=True).rpartition("-")[2] == first.rpartition("-")[2]
    text = cell.quant.calibration
    others = [
        place(desc_act=True),
        place(group_size=32),
        place(skip_modules=["lm_head", "down_proj"]),
        place(calibration=replace(text, sha256="other")),
        place(calibration=replace(text, num_samples=5)),
        place(replace(cell.model, dtype=Dtype.bfloat16)),
        place(replace(cell.model, architecture={**cell.model.architecture, "num_hidden_layers": 3})),
    ]
    assert len({first, *others}) == 8
    assert place(replace(cell.model, licence="other", system_prompt="Be brief.")) == first


def test_other_layers_are_left_alone_and_act_order_is_kept(cell: RunConfig) -> None:
    quant = replace(cell.quant, skip_modules=["lm_head", "down_proj"], desc_act=True)
    source, _ = loading.weights(replace(cell, quant=quant))
    found = models.load(source, quant, Device.cpu, quantized=True)
    assert (found.report.replaced, found.report.kept) == ({"TorchAtenLinear": 12}, {"Linear": 3})
    assert found.report.bytes_after == memory.weights(memory.anatomy(TINY), quant, Device.cpu)
    assert (logits(found) - logits(models.load(TINY, NONE, Device.cpu))).abs().mean() < 0.5


def test_its_weights_are_stored_with_a_version(cell: RunConfig, tmp_path: Path) -> None:
    source, quantized = loading.weights(cell)
    saved.store(source, cell.quant, Device.cpu, tmp_path / "stored", quantized=quantized)
    found = saved.load(cell.model, cell.quant, Device.cpu, tmp_path / "stored")
    assert torch.equal(logits(found), logits(models.load(source, cell.quant, Device.cpu, quantized=True)))


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        (
            TINY,
            {"group_size": 128, "calibration": CalibrationConfig(num_samples=1, num_tokens=9000)},
            "quant 'gptq_int4': quant.calibration.num_tokens=9000 is more than the context of model 'tiny_random' "
            "holds (8,192).",
        ),
        (
            TINY,
            {"group_size": 128, "calibration": CalibrationConfig(num_samples=1, num_tokens=20)},
            "quant 'gptq_int4': its calibration text has less than quant.calibration.num_tokens=20 tokens: lower that, "
            "or give more text.",
        ),
        (
            replace(TINY, architecture={**TINY.architecture, "hidden_size": 96, "head_dim": 24}),
            {"group_size": 64, "calibration": CalibrationConfig(num_samples=1, num_tokens=4)},
            "quant 'gptq_int4': the rows of self_attn.q_proj in model 'tiny_random' have 96 weights, no multiple of "
            "quant.group_size=64: choose a smaller one (64, 32, 16).",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_named(
    tmp_path: Path, model: ModelConfig, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(QuantError) as caught:
        gptq.quantize(model, replace(QUANTS["gptq_int4"], **changed), ["Short."], tmp_path)
    assert str(caught.value) == message


def test_windows_begin_as_prompts_do_and_fewer_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer: Any = models.random.tokenizer()
    quant = replace(QUANTS["gptq_int4"], calibration=CalibrationConfig(num_samples=3, num_tokens=5))
    found = gptq.samples(tokenizer, ["abcd", "ef", "gh"], TINY, quant)
    assert [tokenizer.decode(sample["input_ids"][0]) for sample in found] == ["abcd\n", "\nef\n\n"]
    assert caplog.messages == ["quant 'gptq_int4': calibrated on 2 windows of 5 tokens, not on 3: the text has no more"]


def test_a_run_says_nothing_but_its_table_and_checks_itself(bioquant: Command, cache: Path) -> None:
    fast = ("limit=2", "measure.latency_examples=0", "model=tiny_random", "quant.group_size=64")
    text = ("quant.calibration.task=demo_qa", "quant.calibration.num_samples=4", "quant.calibration.num_tokens=128")
    done = bioquant("run", *fast, *text, "quant=gptq_int4", "quant.check=true", BIOQUANT_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert "GPT-QModel" not in done.stdout + done.stderr
    assert "Kernel" not in done.stdout + done.stderr
