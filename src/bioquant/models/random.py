"""Seeded random weights of a real architecture: tests without a download, memory and speed at any size."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from bioquant.config import ModelConfig
from bioquant.errors import ModelError, did_you_mean

SEED = 0

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>")
PAD_ID, BOS_ID, _, END_ID = range(256, 256 + len(SPECIAL_TOKENS))

NORMS_AROUND_ZERO = frozenset({"gemma", "gemma2", "gemma3_text"})
"""Architectures whose norms multiply by 1 + weight."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A weight that is drawn when the loader asks for it, so that a 70B model never stands in memory unquantized.

    It answers what transformers asks of a tensor in a safetensors file: `[...]`, `shape` and `dtype`.
    norm: the value of a norm's weights that leaves its input's scale alone.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    device: str
    norm: float

    def __getitem__(self, key: object) -> torch.Tensor:
        """The whole tensor, on its device: matrices N(0, 1/fan-in), norms `norm`, biases 0.

        With that scale a hidden state of unit variance gives logits of unit variance: neither flat nor one-hot.
        The values depend on the name, the shape, the dtype and the kind of device.
        """
        if len(self.shape) == 1:
            fill = 0.0 if self.name.endswith("bias") else self.norm
            return torch.full(self.shape, fill, dtype=self.dtype, device=self.device)
        digest = hashlib.sha256(f"{SEED}/{self.name}".encode()).digest()
        generator = torch.Generator(self.device).manual_seed(int.from_bytes(digest[:7], "big"))
        drawn = torch.randn(self.shape, generator=generator, dtype=self.dtype, device=self.device)
        return drawn.mul_(self.shape[-1] ** -0.5)


def architecture(model: ModelConfig) -> PreTrainedConfig:
    """`model.architecture` as a transformers config with the byte-level tokenizer's tokens. Raises ModelError."""
    config = shape(model)
    if config.vocab_size < END_ID + 1:
        raise ModelError(
            f"model '{model.name}': architecture.vocab_size={config.vocab_size} is below {END_ID + 1}, "
            "the byte-level tokenizer's size."
        )
    config.bos_token_id, config.eos_token_id, config.pad_token_id = BOS_ID, END_ID, PAD_ID
    return config


def shape(model: ModelConfig) -> PreTrainedConfig:
    """`model.architecture` as a transformers config without special tokens, of any vocabulary. Raises ModelError."""
    # A copy to the bottom: transformers writes into rope_scaling, and the model would no longer be the one it was.
    values: dict[str, Any] = deepcopy(dict(model.architecture))
    kind = str(values.pop("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"model '{model.name}': architecture.model_type '{kind}' is not known{did_you_mean(kind, CONFIG_MAPPING)} "
            "Give the model_type that the architecture's config.json on the hub holds."
        )
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(kind, **{**values, **special})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"model '{model.name}': architecture.model_type '{kind}' generates no text: choose another.")
    return config


def network_class(config: PreTrainedConfig) -> Any:
    """The transformers class that generates text with this architecture."""
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def weights(config: PreTrainedConfig, dtype: torch.dtype, device: str) -> dict[str, Drawn]:
    """Every parameter of the architecture by name, tied ones once. Nothing is drawn yet."""
    norm = 0.0 if config.model_type in NORMS_AROUND_ZERO else 1.0
    return {name: Drawn(name, value.shape, dtype, device, norm) for name, value in empty(config).named_parameters()}


def empty(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The architecture without its weights: on torch's meta device, where a tensor has a shape and no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and a ChatML template: no vocabulary to download."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(BPE(vocab={sign: index for index, sign in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
