"""Blocks of another size in bitsandbytes' 4-bit formats, which transformers 5.23 has no setting for."""

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

from bioquant.config import QuantConfig
from bioquant.errors import QuantError

METHOD = "bioquant_blocks"
"""In transformers' table of quantizers."""


class BlockQuantizer(Bnb4BitHfQuantizer):
    """transformers' own, with a block size. What it stores is bitsandbytes' format: any loader reads it."""

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.recipe: QuantConfig = quantization_config.__dict__.pop("recipe")
        quantization_config.quant_method = QuantizationMethod.BITS_AND_BYTES

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super()._process_model_before_weight_loading(model, **kwargs)
        layers = {name: layer for name, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"}
        for name, layer in layers.items():
            check_columns(self.recipe, name, layer.in_features)
            layer.weight.blocksize = self.recipe.block_size


def loader_config(config: Any, quant: QuantConfig) -> object:
    """A BitsAndBytesConfig as from_pretrained takes it, with the recipe's block size."""
    AUTO_QUANTIZER_MAPPING[METHOD] = BlockQuantizer
    config.quant_method = METHOD
    config.recipe = quant
    return config


def check_columns(quant: QuantConfig, layer: str, columns: int) -> None:
    """Whether blocks end with a row: bitsandbytes' product on a CPU fails where they do not. Raises QuantError."""
    assert quant.block_size is not None
    if columns % quant.block_size:
        raise QuantError(
            f"quant '{quant.name}': block_size={quant.block_size} does not divide the {columns} columns of {layer}: "
            "give a smaller one."
        )
