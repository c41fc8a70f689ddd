"""Load a checkpoint into vLLM, and prove on the model that stands there what it was quantized to.

Written against the sources of vLLM 0.33.0 and vllm-bnb-plugin 0.0.3, to which bitsandbytes moved with vLLM 0.28. It has
not been run against them: its tests use a stand-in with the same interface.

What the plugin makes of an unquantized checkpoint (`bitsandbytes_loader.py`, `quantization/linear.py`): NF4 with double
quantization, always; the scales are dequantized again to float32 while loading, so they take the memory of plain NF4;
every linear layer but the head; products in bfloat16, whatever the model's dtype. That is `bnb_nf4_dq` and no other
recipe of ours.
"""

import os
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from bioquant import checkpoints, models, published
from bioquant.config import Device, EngineConfig, ModelConfig, QuantConfig, QuantMethod
from bioquant.engine.offers import check_plugin
from bioquant.errors import BioquantError, ConfigError, ModelError, OutOfMemoryError
from bioquant.models import vllm_proof
from bioquant.models.vllm_proof import BNB
from bioquant.records import QuantizationReport

SWITCHES = {
    # The model in this process: it is looked at by a plain call, not by a function that is pickled to another process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    # Its own log handler writes to stdout, where results go.
    "VLLM_CONFIGURE_LOGGING": "0",
}
"""Environment variables that vLLM reads once it is imported (`vllm/envs.py`)."""

MOST_SEQUENCES = 256
"""Sequences in one pass. vLLM's own default depends on the card; ours does not, since it is a part of the rounding."""

LACKS_MEMORY = (
    "out of memory",
    "free memory on device",
    "no available memory",
    "not enough gpu memory",
    "kv cache memory",
)
"""What vLLM and torch say where the card is too small (`v1/worker/utils.py`, `v1/core/kv_cache_planning.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVllm:
    """A model in vLLM's hands, and what its engine needs.

    llm: a `vllm.LLM`. context_length: of prompt and answer, the less of the model's and of what the card holds.
    load_s: seconds to load, quantize, profile, compile and capture; a download or a conversion is not counted.
    """

    llm: Any
    tokenizer: PreTrainedTokenizerBase
    eos_token_id: int | list[int] | None
    device: str
    context_length: int
    report: QuantizationReport
    load_s: float


def device_of(engine: EngineConfig) -> str:
    """The torch device that vLLM runs on: "cpu" or "cuda:0". Raises ConfigError where it is not the one asked for."""
    library()
    kind = str(import_module("vllm.platforms").current_platform.device_type)
    if kind not in (Device.cpu, Device.cuda):
        raise ConfigError("engine 'vllm' finds no GPU here that it can use: choose engine=transformers.")
    if engine.device not in (Device.auto, kind):
        raise ConfigError(f"engine.device={engine.device}: the installed vllm runs on {kind}: set engine.device=auto.")
    return "cpu" if kind == Device.cpu else "cuda:0"


def load(
    model: ModelConfig, quant: QuantConfig, engine: EngineConfig, device: str, *, quantized: bool = False
) -> LoadedVllm:
    """Fetch, load, quantize and check a model. device: of `device_of`, which comes before.

    quantized: the checkpoint holds weights that this recipe has already quantized, and that vLLM takes as they are.
    Raises ConfigError (a model without files), ModelError (an absent or damaged checkpoint, one that vLLM cannot run),
    QuantError (a checkpoint that is not what the recipe needs), OutOfMemoryError, and QuantNotAppliedError.
    """
    folder = _folder(model)
    stored = checkpoints.stored_method(model, folder)
    published.check(model, quant, folder, quantized=quantized)
    if stored == BNB:
        check_plugin(f"model '{model.name}', quantized beforehand by {BNB},")
    in_flight = quant.method is not QuantMethod.none and stored is None
    started = time.perf_counter()
    try:
        llm = library().LLM(**arguments(model, engine, folder, in_flight=in_flight))
    except (RuntimeError, ValueError, AttributeError, AssertionError, ImportError) as error:
        raise load_error(model, quant, engine, error) from error
    load_s = time.perf_counter() - started
    [report] = llm.apply_model(partial(vllm_proof.report, model=model, quant=quant, stored=stored, device=device))
    return LoadedVllm(
        llm=llm,
        tokenizer=models.tokenizer(model),
        eos_token_id=eos_token_id(model, folder),
        device=device,
        context_length=min(model.context_length, llm.model_config.max_model_len),
        report=report,
        load_s=load_s,
    )


def library() -> Any:
    """The module `vllm`, imported on first use (`bioquant.engine.offers` has found it)."""
    os.environ.update(SWITCHES)
    return import_module("vllm")


def arguments(model: ModelConfig, engine: EngineConfig, folder: Path, *, in_flight: bool) -> dict[str, Any]:
    """What `vllm.LLM` is given. Of the checkpoint's own generation settings nothing is used.

    in_flight: whether vLLM is to quantize the weights, which it does in one way only.
    """
    return {
        "model": str(folder),
        "config_format": "hf",
        "load_format": BNB if in_flight else "safetensors",
        "quantization": BNB if in_flight else None,
        "dtype": str(model.dtype),
        "trust_remote_code": model.trust_remote_code,
        "generation_config": "vllm",
        "max_model_len": -1,  # the model's own, or as much of it as the card holds
        "max_num_seqs": min(MOST_SEQUENCES, engine.prefill_tokens),
        "max_num_batched_tokens": engine.prefill_tokens,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enable_prefix_caching": True,
        "compilation_config": None if engine.compile else 0,
        "use_tqdm_on_load": False,
    }


def _folder(model: ModelConfig) -> Path:
    folder = models.prepare(model)
    if folder is None:
        raise ConfigError(
            f"model '{model.name}' has no files (model.source={model.source}), which engine 'vllm' reads: choose "
            "another model, or engine=transformers."
        )
    return folder


def eos_token_id(model: ModelConfig, folder: Path) -> int | list[int] | None:
    """The tokens that end an answer, by the checkpoint's generation_config.json, else its config.json."""
    try:
        return GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
        return GenerationConfig.from_model_config(config).eos_token_id


def load_error(model: ModelConfig, quant: QuantConfig, engine: EngineConfig, error: Exception) -> BioquantError:
    """What stopped vLLM, in one line."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if any(sign in reason.lower() for sign in LACKS_MEMORY):
        return OutOfMemoryError(
            f"model '{model.name}' with quant '{quant.name}' does not fit in the share of the GPU that vLLM takes "
            f"(engine.gpu_memory_utilization={engine.gpu_memory_utilization}): {reason}"
        )
    return ModelError(f"model '{model.name}' with quant '{quant.name}' cannot be loaded by vLLM: {reason}")
