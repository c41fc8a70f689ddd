"""Checkpoints that were published quantized: which is loaded, whether it is what it is called, and what comes of it."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import quantized_checkpoints
from bioquant import checkpoints, loading, models, published, quantization, recipe_checks
from bioquant.config import Device, ModelConfig, ModelSource, QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import BioquantError, ModelError, QuantError
from bioquant.verbs.models import line
from conftest import Command
from recipes import PUBLISHED, QUANTS
from test_compose import composed
from test_models import MODELS, NONE, TINY, logits

FAST = "measure.latency_examples=0"
GROUPED = ("gptq", "awq")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_checkpoints.full(tmp_path_factory.mktemp("full"), TINY, NONE)


@pytest.fixture(scope="session")
def checkpoint(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A recipe's name → a checkpoint of its format, written once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = quantized_checkpoints.published(full, tmp_path_factory.mktemp(name) / "it", name)
        return made[name]

    return of


def naming(quant: QuantConfig, where: object) -> ModelConfig:
    """The tiny model whose checkpoint of this recipe is there."""
    return replace(TINY, calibrated={quant.name: str(where)})


def recipe(name: str) -> QuantConfig:
    """The recipe for the tiny model's rows."""
    return replace(QUANTS[name], group_size=quantized_checkpoints.GROUP) if name in GROUPED else QUANTS[name]


def loaded(quant: QuantConfig, where: object) -> models.LoadedModel:
    return models.load(published.checkpoint(naming(quant, where), quant), quant, Device.cpu, quantized=True)


def refused(quant: QuantConfig, where: object, kind: type[BioquantError] = QuantError) -> str:
    with pytest.raises(kind) as caught:
        loaded(quant, where)
    return str(caught.value)


# Which checkpoint


@pytest.mark.parametrize(
    ("named", "source", "where", "file", "revision"),
    [
        ("org/name", ModelSource.hub, "org/name", None, None),
        ("org/name@0123abc", ModelSource.hub, "org/name", None, "0123abc"),
        ("/folder/of@mine", ModelSource.local, "/folder/of@mine", None, None),
        ("~/folder", ModelSource.local, "~/folder", None, None),
    ],
)
def test_what_is_named(named: str, source: ModelSource, where: str, file: str | None, revision: str | None) -> None:
    found = published.checkpoint(naming(QUANTS["gptq"], named), QUANTS["gptq"])
    assert (found.source, found.id, found.file, found.revision) == (source, where, file, revision)
    assert (found.name, found.context_length) == (TINY.name, TINY.context_length)


@pytest.mark.parametrize(
    ("named", "where", "file", "revision"),
    [
        ("org/name/a.Q4_K_M.gguf", "org/name", "a.Q4_K_M.gguf", None),
        ("org/name/sub/a.gguf@main", "org/name", "sub/a.gguf", "main"),
        ("./a.gguf", "./a.gguf", None, None),
    ],
)
def test_a_gguf_file_of_a_repository_or_of_ones_own(named: str, where: str, file: str | None, revision: str | None):
    found = published.checkpoint(naming(QUANTS["gguf"], named), QUANTS["gguf"])
    assert (found.source, found.id, found.file, found.revision) == (ModelSource.gguf, where, file, revision)


def test_a_gguf_file_is_for_its_recipe_and_that_for_no_other() -> None:
    assert refused(QUANTS["gguf"], "org/name@main") == (
        "quant 'gguf': checkpoint 'org/name' of model 'tiny_random': set model.calibrated.gguf to a .gguf file, as "
        "org/name/FILE.gguf."
    )
    assert refused(QUANTS["fp8"], "org/name/a.gguf") == (
        "quant 'fp8': checkpoint 'org/name' of model 'tiny_random': set model.calibrated.fp8 to no .gguf file."
    )


@pytest.mark.parametrize("named", ["org/name@main", "org/name/a.gguf"])
def test_a_checkpoint_that_is_not_here_is_told_from_the_model(named: str) -> None:
    quant = QUANTS["gguf" if named.endswith("gguf") else "fp8"]
    assert refused(quant, named, ModelError) == (
        "model 'tiny_random': checkpoint 'org/name' is not in the local cache and cannot be fetched (offline): connect "
        "and unset HF_HUB_OFFLINE, or copy the checkpoint's folder here and set model.source=local model.id=FOLDER."
    )


# What a recipe may say


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        (
            replace(QUANTS["awq"], requires=NONE.requires),
            "quant 'awq': by method 'awq' nothing is quantized here: set quant.requires.calibrated=true, which loads a "
            "published checkpoint.",
        ),
        (
            replace(QUANTS["gptq"], group_size=None),
            "quant 'gptq': group_size=None is not one that gptqmodel has: choose from 16, 32, 64, 128.",
        ),
        (
            replace(QUANTS["gptq"], group_size=100),
            "quant 'gptq': group_size=100 is not one that gptqmodel has: choose from 16, 32, 64, 128.",
        ),
        (
            replace(QUANTS["fp8"], skip_modules=["lm_head", "down_proj"]),
            "quant 'fp8': skip_modules has no effect on a checkpoint that is quantized already: leave it out.",
        ),
        (
            QUANTS["gptq_int4"],
            "quant 'gptq_int4' needs a text to be calibrated on: set quant.calibration.task=TASK, whose few-shot pool "
            "it is then, or quant.calibration.file=FILE.txt, and not both.",
        ),
    ],
)
def test_a_setting_without_effect_or_without_which_nothing_goes(quant: QuantConfig, message: str) -> None:
    with pytest.raises(QuantError) as caught:
        recipe_checks.check_recipe(quant)
    assert str(caught.value) == message


def test_awq_on_cuda_needs_a_baseline_of_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "lacking_library", lambda _: None)
    model = naming(QUANTS["awq"], "org/name")
    with pytest.raises(QuantError) as caught:
        recipe_checks.check(QUANTS["awq"], model, Device.cuda, 8.0)
    assert str(caught.value) == (
        "quant 'awq' computes in float16 on cuda, the model in float32 (model.dtype=float16 makes them alike): choose "
        "another recipe."
    )
    assert recipe_checks.unmet(QUANTS["awq"], model, Device.cpu, None) is None


def test_vllm_needs_no_library_for_weights_that_are_quantized_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "lacking_library", lambda _: "absent")
    recipe_checks.check_recipe(QUANTS["gptq"], by_vllm=True)
    for quant, by_vllm in ((QUANTS["gptq"], False), (QUANTS["bnb_nf4"], True)):
        with pytest.raises(QuantError, match="absent"):
            recipe_checks.check_recipe(quant, by_vllm=by_vllm)


# What the files say


def test_how_a_checkpoint_was_quantized_is_read_in_one_place(full: Path, tmp_path: Path) -> None:
    assert checkpoints.stored_method(ModelConfig(name="m"), full) is None
    said = {"quant_method": "compressed-tensors"}
    for fields in (
        {"quantization_config": said},
        {"compression_config": said},
        {"text_config": {"quantization_config": said}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        assert checkpoints.stored_method(ModelConfig(name="m"), tmp_path) == "compressed-tensors"


def test_a_checkpoint_of_another_method_or_of_none_is_refused(
    checkpoint: Callable[[str], Path], full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "lacking_library", lambda _: None)
    assert refused(QUANTS["gptq"], checkpoint("fp8")) == (
        f"quant 'gptq': checkpoint '{checkpoint('fp8')}' of model 'tiny_random' was quantized by fp8, not by gptq: "
        "name another, or choose the recipe of that method."
    )
    assert refused(QUANTS["fp8"], full) == (
        f"quant 'fp8': checkpoint '{full}' of model 'tiny_random' is not quantized (no quantization_config in its "
        "config.json): name one that is."
    )


def test_settings_that_memory_is_predicted_from_have_to_be_the_files(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "lacking_library", lambda _: None)
    where = checkpoint("gptq")
    assert refused(QUANTS["gptq"], where) == (
        f"quant 'gptq': checkpoint '{where}' of model 'tiny_random' has group_size=64: "
        "set quant.group_size=64, not 128."
    )
    where = checkpoint("ct_fp8")
    assert refused(QUANTS["ct_int4"], where) == (
        f"quant 'ct_int4': checkpoint '{where}' of model 'tiny_random' holds weights of fp8: set quant.weight_format "
        "to that (and quant.bits), not int4."
    )


def test_a_quantized_checkpoint_of_the_models_own_is_no_baseline_and_not_quantized_again(
    checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = replace(TINY, source=ModelSource.local, id=str(checkpoint("fp8")))
    with pytest.raises(QuantError) as caught:
        models.load(model, QUANTS["bnb_nf4"], Device.cpu)
    assert str(caught.value) == (
        "quant 'bnb_nf4' cannot be applied to model 'tiny_random', whose checkpoint is quantized already (fp8): choose "
        "quant=none, which leaves it as it is."
    )
    published.check(model, NONE, checkpoint("fp8"), quantized=False)
    assert caplog.messages == [
        "model 'tiny_random': its checkpoint is quantized already (fp8), and stays so: this is no unquantized baseline"
    ]


# What is loaded


def test_fine_grained_fp8_is_unpacked_and_says_so(
    checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "bioquant"):
        found = loaded(QUANTS["fp8"], checkpoint("fp8"))
    assert caplog.messages == [
        "model 'tiny_random', quant 'fp8': the weights were quantized (fp8) and are dequantized to float32: the "
        "answers are those of the quantized checkpoint, memory and speed are not"
    ]
    assert found.report.dequantized_from == "fp8"
    assert (found.report.replaced, found.report.kept) == ({}, {"Linear": 15})
    assert found.report.bytes_after == found.report.bytes_before
    assert found.report.backend == f"torch {torch.__version__} cpu"
    dense = models.load(replace(TINY, source=ModelSource.local, id=str(checkpoint("fp8") / "dense")), NONE, Device.cpu)
    assert torch.equal(logits(found), logits(dense))
    assert not torch.equal(logits(found), logits(models.load(TINY, NONE, Device.cpu)))
    assert tuple(capfd.readouterr()) == ("", "")


def quantized_gguf(path: Path, full: Path) -> Path:
    """The tiny model as llama.cpp writes it, its linear layers in Q8_0, with a tokenizer of bytes."""
    weights = load_file(full / "model.safetensors")
    fields = json.loads((full / "config.json").read_text(encoding="utf-8"))
    signs = sorted(models.random.pre_tokenizers.ByteLevel.alphabet())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(fields["num_hidden_layers"])
    writer.add_context_length(fields["max_position_embeddings"])
    writer.add_embedding_length(fields["hidden_size"])
    writer.add_feed_forward_length(fields["intermediate_size"])
    writer.add_head_count(fields["num_attention_heads"])
    writer.add_head_count_kv(fields["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(fields["rms_norm_eps"])
    writer.add_vocab_size(fields["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*signs, *models.random.SPECIAL_TOKENS, "ĠĠ", "<|a|>", "<|b|>", "<|c|>"])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(fields["bos_token_id"])
    writer.add_eos_token_id(fields["eos_token_id"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, fields["num_hidden_layers"])
    for name, value in weights.items():
        array = _permuted(name, value, fields).numpy()
        new = names.get_name(name, try_suffixes=(".weight",))
        if name.endswith("_proj.weight"):
            eight = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(new, eight, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(new, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(name: str, value: torch.Tensor, fields: dict[str, Any]) -> torch.Tensor:
    """llama.cpp pairs the two halves of a rotated query or key one by one."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    found = next((fields[count] for part, count in heads.items() if part in name), None)
    if found is None:
        return value
    return value.unflatten(0, (found, 2, -1)).transpose(1, 2).reshape(value.shape).contiguous()


def test_a_gguf_file_is_unpacked_and_says_so(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BIOQUANT_CACHE", str(tmp_path / "cache"))
    path = quantized_gguf(tmp_path / "tiny.Q8_0.gguf", full)
    with caplog.at_level(logging.INFO, "bioquant.models"):
        found = loaded(QUANTS["gguf"], path)
    assert caplog.messages[-1] == (
        "model 'tiny_random', quant 'gguf': the weights were quantized (gguf) and are dequantized to float32: the "
        "answers are those of the quantized checkpoint, memory and speed are not"
    )
    assert found.report.dequantized_from == "gguf"
    assert found.report.bytes_after == found.report.bytes_before
    exact = load_file(full / "model.safetensors")
    for name, value in found.model.state_dict().items():
        eight = exact[name].numpy()
        if name.endswith("_proj.weight"):
            eight = gguf.quants.dequantize(
                gguf.quants.quantize(eight, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0
            )
        np.testing.assert_allclose(value.numpy(), eight, rtol=0, atol=0)


def test_a_run_of_a_published_checkpoint_logs_what_it_is(
    checkpoint: Callable[[str], Path], bioquant: Command, tmp_path: Path
) -> None:
    named = f"++model.calibrated.fp8={checkpoint('fp8')}"
    cell = ("run", "model=tiny_random", "quant=fp8", "limit=2", FAST, named, f"hydra.run.dir={tmp_path}")
    done = bioquant(*cell)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "quantization.json").read_text(encoding="utf-8"))
    assert report["dequantized_from"] == "fp8"


# The rest of the engine


def test_where_the_weights_come_from(checkpoint: Callable[[str], Path]) -> None:
    config = composed("model=tiny_random", "quant=fp8", f"++model.calibrated.fp8={checkpoint('fp8')}")
    source, quantized = loading.weights(config)
    assert (source.id, source.source, quantized) == (str(checkpoint("fp8")), ModelSource.local, True)
    assert loading.weights(composed("model=tiny_random", "quant=bnb_nf4")) == (
        composed("model=tiny_random").model,
        False,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_says_how_its_checkpoint_is_called(name: str) -> None:
    quant = QUANTS[name]
    assert quant.method is QuantMethod.gguf or quant.method in published.STORED_AS
    assert quant.weight_format is not WeightFormat.none


def test_the_list_of_models_says_what_is_published_and_what_was_dequantized() -> None:
    assert line(MODELS["smollm2_135m"])[2] == "wheel, dequantized"
    assert line(replace(TINY, source=ModelSource.gguf, id="a.gguf"))[2] == "gguf, dequantized"
    assert line(TINY)[2] == "random"
    assert line(MODELS["qwen3_8b"])[-1] == "awq, fp8"
    assert line(TINY)[-1] == "-"
