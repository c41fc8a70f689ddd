"""`vllm.LLM`: a checkpoint's folder, loaded by transformers, its linear layers replaced by vLLM's."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from .engine import LLMEngine
from .model_executor.layers.linear import (
    AutoGPTQLinearMethod,
    BitsAndBytesLinearMethod,
    LinearBase,
    UnquantizedLinearMethod,
)
from .outputs import RequestOutput
from .sampling_params import RequestOutputKind, SamplingParams

METHODS = {
    None: UnquantizedLinearMethod,
    "bitsandbytes": BitsAndBytesLinearMethod,
    "gptq": AutoGPTQLinearMethod,
}


class LLM:
    def __init__(
        self,
        model: str,
        *,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        quantization: str | None = None,
        gpu_memory_utilization: float = 0.92,
        compilation_config: int | None = None,
        config_format: str = "auto",
        load_format: str = "auto",
        generation_config: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        enable_prefix_caching: bool = True,
        use_tqdm_on_load: bool = True,
    ) -> None:
        self.arguments = {name: value for name, value in locals().items() if name != "self"}
        assert Path(model, "config.json").is_file()
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(f"max_num_batched_tokens ({max_num_batched_tokens}) must be greater than max_num_seqs")
        config: Any = AutoConfig.from_pretrained(model)
        stored = getattr(config, "quantization_config", None)
        if stored is not None:
            if quantization is not None:
                raise ValueError("Quantization method specified in the model config does not match")
            quantization = stored["quant_method"]
            del config.quantization_config
        if quantization == "bitsandbytes" and find_spec("vllm_bnb_plugin") is None:
            raise ValueError("Invalid quantization method: bitsandbytes")
        network: Any = AutoModelForCausalLM.from_pretrained(model, config=config, dtype=getattr(torch, dtype)).eval()
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.Linear) and name != "lm_head":
                network.set_submodule(name, LinearBase(module, METHODS[quantization]()))
        self._network = network
        fitting = config.max_position_embeddings if max_model_len in (None, -1) else max_model_len
        self.model_config = SimpleNamespace(max_model_len=fitting)
        self.llm_engine = LLMEngine(network.requires_grad_(False), fitting, max_num_seqs, config.eos_token_id)
        self._counter = 0

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        assert not use_tqdm, "a progress bar among ours"
        assert len(prompts) == len(sampling_params)
        for prompt, params in zip(prompts, sampling_params, strict=True):
            params.output_kind = RequestOutputKind.FINAL_ONLY
            self.llm_engine.add_request(str(self._counter), prompt, params)
            self._counter += 1
        outputs: list[RequestOutput] = []
        while self.llm_engine.has_unfinished_requests():
            outputs += [output for output in self.llm_engine.step() if output.finished]
        return sorted(outputs, key=lambda output: int(output.request_id))

    def reset_prefix_cache(self) -> bool:
        return self.llm_engine.reset_prefix_cache()

    def apply_model(self, func: Callable[[nn.Module], Any]) -> list[Any]:
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") != "0":
            raise TypeError("Object of type <class 'function'> is not serializable")
        return [func(self._network)]
