"""What vLLM is asked to load, what is refused beforehand, and what its own refusals become. Word for word."""

import importlib.util
import json
import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bioquant import loading, models
from bioquant.config import ModelConfig, RunConfig
from bioquant.engine import offers
from bioquant.errors import BioquantError, ConfigError, ModelError, OutOfMemoryError, QuantError
from bioquant.models import vllm
from bioquant.models.vllm import LoadedVllm
from test_compose import composed
from vllm_parts import CONTEXT, configured

NF4 = ("quant=bnb_nf4_dq", "model.dtype=bfloat16")


def device_of(config: RunConfig) -> str:
    return vllm.device_of(config.engine)


def loaded(config: RunConfig) -> LoadedVllm:
    return vllm.load(config.model, config.quant, config.engine, device_of(config))


def refused(config: RunConfig, kind: type[BioquantError], work: Any = loaded) -> str:
    with pytest.raises(kind) as caught:
        work(config)
    return str(caught.value)


def test_telemetry_a_second_process_and_logs_on_stdout_are_switched_off(vllm_installed: None, checkpoint: Path) -> None:
    device_of(configured(checkpoint))
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_CONFIGURE_LOGGING"] == "0"


def test_what_vllm_is_given(vllm_installed: None, checkpoint: Path) -> None:
    given = loaded(configured(checkpoint)).llm.arguments
    assert given == {
        "model": str(checkpoint),
        "trust_remote_code": False,
        "dtype": "float32",
        "quantization": None,
        "gpu_memory_utilization": 0.9,
        "compilation_config": None,
        "config_format": "hf",
        "load_format": "safetensors",
        "generation_config": "vllm",
        "max_model_len": -1,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    other = ("engine.compile=false", "engine.prefill_tokens=100", "engine.gpu_memory_utilization=0.5")
    changed = loaded(configured(checkpoint, *NF4, *other)).llm.arguments
    assert {name: value for name, value in changed.items() if value != given[name]} == {
        "dtype": "bfloat16",
        "quantization": "bitsandbytes",
        "gpu_memory_utilization": 0.5,
        "compilation_config": 0,
        "load_format": "bitsandbytes",
        "max_num_seqs": 100,
        "max_num_batched_tokens": 100,
    }


def test_the_context_is_the_less_of_the_models_and_of_what_the_card_holds(
    vllm_installed: None, checkpoint: Path
) -> None:
    assert loaded(configured(checkpoint)).context_length == CONTEXT
    assert loaded(configured(checkpoint, "model.context_length=100")).context_length == 100
    assert loaded(configured(checkpoint, "model.context_length=4000")).context_length == CONTEXT


@pytest.mark.parametrize("ends", [None, 7, [7, 259]])
def test_end_tokens_are_those_that_transformers_finds(checkpoint: Path, tmp_path: Path, ends: Any) -> None:
    config = configured(checkpoint)
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    path = tmp_path / "generation_config.json"
    if ends is None:
        path.unlink()
    else:
        path.write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    (tmp_path / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    (tmp_path / "tokenizer.json").symlink_to(checkpoint / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").symlink_to(checkpoint / "tokenizer_config.json")
    there = replace(config.model, id=str(tmp_path))
    network = models.load(there, config.quant, config.engine.device).model
    assert vllm.eos_token_id(there, tmp_path) == network.generation_config.eos_token_id == (ends or 259)


def test_an_absent_plugin_of_a_checkpoint_quantized_beforehand_is_named(
    vllm_installed: None, quantized_beforehand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quantized_beforehand / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("gptq", "bitsandbytes"), encoding="utf-8")
    found = importlib.util.find_spec
    monkeypatch.setattr(offers, "find_spec", lambda name: None if name == "vllm_bnb_plugin" else found(name))
    assert refused(configured(quantized_beforehand), QuantError) == (
        "model 'tiny_random', quantized beforehand by bitsandbytes, with engine 'vllm' needs vllm-bnb-plugin, which is "
        "not installed: pip install 'bioquant[vllm]'"
    )


def test_another_device_than_vllms_is_refused(
    vllm_installed: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(configured(checkpoint, "engine.device=cuda"), ConfigError, device_of) == (
        "engine.device=cuda: the installed vllm runs on cpu: set engine.device=auto."
    )
    platform = import_module("vllm.platforms")
    monkeypatch.setattr(platform, "current_platform", SimpleNamespace(device_type="cuda"))
    assert device_of(configured(checkpoint, "engine.device=auto")) == "cuda:0"
    monkeypatch.setattr(platform, "current_platform", SimpleNamespace(device_type=""))
    assert refused(configured(checkpoint, "engine.device=auto"), ConfigError, device_of) == (
        "engine 'vllm' finds no GPU here that it can use: choose engine=transformers."
    )


def test_random_weights_have_no_files(vllm_installed: None) -> None:
    config = composed("model=tiny_random", "engine=vllm")
    assert refused(config, ConfigError) == (
        "model 'tiny_random' has no files (model.source=random), which engine 'vllm' reads: choose another model, or "
        "engine=transformers."
    )


def test_a_checkpoint_quantized_beforehand_is_not_quantized_again(
    vllm_installed: None, quantized_beforehand: Path
) -> None:
    assert refused(configured(quantized_beforehand, *NF4), QuantError) == (
        "quant 'bnb_nf4_dq' cannot be applied to model 'tiny_random', whose checkpoint is quantized already (gptq): "
        "choose quant=none, which leaves it as it is."
    )


def published_as(folder: Path, *overrides: str) -> RunConfig:
    """The tiny model whose GPTQ checkpoint is this folder."""
    named = (f"++model.calibrated.gptq={folder}", "quant=gptq", "quant.bits=8")
    return composed("model=tiny_random", "engine=vllm", "engine.device=cpu", *named, *overrides)


def test_a_published_checkpoint_is_taken_as_it_is(vllm_installed: None, quantized_beforehand: Path) -> None:
    config = published_as(quantized_beforehand)
    given = loading.load(config)
    assert given.report.replaced == {"AutoGPTQLinearMethod": 14}
    assert given.report.backend == "vllm 0.33.0 gptq cpu"
    source, quantized = loading.weights(config)
    arguments = vllm.load(source, config.quant, config.engine, "cpu", quantized=quantized).llm.arguments
    assert (arguments["model"], arguments["quantization"]) == (str(quantized_beforehand), None)
    assert arguments["load_format"] == "safetensors"


def test_a_published_checkpoint_of_another_method_is_refused(vllm_installed: None, quantized_beforehand: Path) -> None:
    config = composed(
        "model=tiny_random",
        "engine=vllm",
        "engine.device=cpu",
        f"++model.calibrated.fp8={quantized_beforehand}",
        "quant=fp8",
    )
    assert refused(config, QuantError, loading.load) == (
        f"quant 'fp8': checkpoint '{quantized_beforehand}' of model 'tiny_random' was quantized by gptq, not by fp8: "
        "name another, or choose the recipe of that method."
    )


def test_a_gguf_file_is_not_vllms(vllm_installed: None) -> None:
    config = composed("model=tiny_random", "engine=vllm", "++model.calibrated.gguf=./a.gguf", "quant=gguf")
    assert refused(config, QuantError, loading.load).startswith("quant 'gguf' does not run with engine 'vllm'")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ValueError("Free memory on device cuda:0 (1.0/79.1 GiB) on startup is less than desired GPU memory ..."),
            OutOfMemoryError,
            "model 'tiny_random' with quant 'none' does not fit in the share of the GPU that vLLM takes "
            "(engine.gpu_memory_utilization=0.9): Free memory on device cuda:0 (1.0/79.1 GiB) on startup is less than "
            "desired GPU memory ...",
        ),
        (
            ValueError("No available memory for the cache blocks."),
            OutOfMemoryError,
            "model 'tiny_random' with quant 'none' does not fit in the share of the GPU that vLLM takes "
            "(engine.gpu_memory_utilization=0.9): No available memory for the cache blocks.",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB."),
            OutOfMemoryError,
            "model 'tiny_random' with quant 'none' does not fit in the share of the GPU that vLLM takes "
            "(engine.gpu_memory_utilization=0.9): CUDA out of memory. Tried to allocate 1 GiB.",
        ),
        (
            ValueError("Model architectures ['X'] are\n not supported"),
            ModelError,
            "model 'tiny_random' with quant 'none' cannot be loaded by vLLM: Model architectures ['X'] are not "
            "supported",
        ),
        (
            AssertionError(),
            ModelError,
            "model 'tiny_random' with quant 'none' cannot be loaded by vLLM: AssertionError",
        ),
    ],
)
def test_what_vllm_refuses_is_one_line(
    vllm_installed: None,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[BioquantError],
    message: str,
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(vllm.library(), "LLM", refuse)
    assert refused(configured(checkpoint), kind) == message


def test_a_missing_folder_is_named(vllm_installed: None, tmp_path: Path) -> None:
    message = refused(configured(tmp_path / "none"), ModelError)
    assert message == (
        f"model 'tiny_random': there is no folder {tmp_path}/none: set model.id to a folder of safetensors."
    )


def test_memory_of_a_checkpoint_quantized_beforehand_is_not_predicted(quantized_beforehand: Path) -> None:
    from bioquant import checkpoints

    model = ModelConfig(**{**vars_of(configured(quantized_beforehand).model), "architecture": {}})
    with pytest.raises(ModelError) as caught:
        checkpoints.configuration(model)
    assert str(caught.value) == (
        "model 'tiny_random': its memory cannot be predicted, since its checkpoint was quantized beforehand."
    )


def vars_of(model: ModelConfig) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}
