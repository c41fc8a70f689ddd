"""Blocks of another size in bitsandbytes' 4-bit formats, which transformers has no setting for."""

from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

METHOD = "bioquant_blocks"
"""In transformers' table of quantizers."""


class BlockQuantizer(Bnb4BitHfQuantizer):
    """transformers' own, with a block size. What it stores is bitsandbytes' format: any loader reads it."""

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.block_size = quantization_config.__dict__.pop("block_size")
        quantization_config.quant_method = QuantizationMethod.BITS_AND_BYTES

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super()._process_model_before_weight_loading(model, **kwargs)  # pyright: ignore[reportArgumentType]
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":
                weight: Any = module.weight
                weight.blocksize = self.block_size


def of_size(config: BitsAndBytesConfig, block_size: int) -> BitsAndBytesConfig:
    """The `quantization_config` of from_pretrained with blocks of this size."""
    AUTO_QUANTIZER_MAPPING[METHOD] = BlockQuantizer
    config.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue]
    config.__dict__["block_size"] = block_size
    return config
