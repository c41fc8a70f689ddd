"""What a linear layer's weight takes under each method with its quantization state, to the byte.

No torch: `bioquant quants` lists without loading. That the figures are right is tested on loaded models.
"""

from dataclasses import dataclass
from math import ceil
from typing import assert_never

from bioquant.config import QuantConfig, QuantMethod, WeightFormat

FLOAT32 = 4
BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit formats (bitsandbytes, `Params4bit`)."""
NESTED_BLOCK = 256
"""Scales that share a second scale under double quantization (Dettmers et al. 2023, arXiv:2305.14314)."""
GROUP = 128
"""Weights that share a scale in quanto's int4, where a row is a multiple of it."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear layer; tied where its weight is the embedding's too."""

    out_features: int
    in_features: int
    tied: bool

    @property
    def size(self) -> int:
        """Weights, without a bias."""
        return self.out_features * self.in_features


TYPICAL = LinearLayer(4096, 4096, tied=False)
"""Of a model of 8B parameters: rows much shorter carry more state a weight, longer ones less."""


def bits_per_weight(quant: QuantConfig) -> float:
    """Of a typical layer of a model in 16 bits, with the quantization state."""
    return quantized_bytes(TYPICAL, quant, itemsize=2) * 8 / TYPICAL.size


def quantized_bytes(layer: LinearLayer, quant: QuantConfig, itemsize: int) -> int:
    """A quantized weight with its quantization state, by method."""
    match quant.method:
        case QuantMethod.none:
            return layer.size * itemsize
        case QuantMethod.bnb_int8:
            return bnb_int8_bytes(layer)
        case QuantMethod.bnb_4bit:
            return bnb_4bit_bytes(layer, double_quant=quant.double_quant)
        case QuantMethod.quanto:
            return quanto_bytes(layer, quant.bits, itemsize)
        case QuantMethod.torchao:
            return torchao_bytes(layer, quant.weight_format)
        case _:
            assert_never(quant.method)


def bnb_int8_bytes(layer: LinearLayer) -> int:
    """1 a weight, a float32 scale a row."""
    return layer.size + layer.out_features * FLOAT32


def bnb_4bit_bytes(layer: LinearLayer, *, double_quant: bool) -> int:
    """1/2 a weight, a scale a block of 64, a table of 16 float32 values a layer.

    A scale is a float32, or with double quantization 1 byte, with a float32 for each 256 scales, a table of 256 float32
    values and an offset a layer.
    """
    blocks = ceil(layer.size / BLOCK)
    nested = blocks + (ceil(blocks / NESTED_BLOCK) + 256 + 1) * FLOAT32
    return ceil(layer.size / 2) + 16 * FLOAT32 + (nested if double_quant else blocks * FLOAT32)


def quanto_bytes(layer: LinearLayer, bits: int, itemsize: int) -> int:
    """bits/8 a weight, two unused float32 scales of activations a layer, and in the model's dtype a scale a row, or for
    4 bits and fewer a scale and a shift a group.
    """
    scales = layer.out_features if bits == 8 else 2 * quanto_groups(layer)
    return layer.size * bits // 8 + 2 * FLOAT32 + scales * itemsize


def torchao_bytes(layer: LinearLayer, weight_format: WeightFormat) -> int:
    """1 a weight and a float32 scale a row; for int8 also a zero point of 1 byte a row, which is 0."""
    zero_points = layer.out_features if weight_format is WeightFormat.int8 else 0
    return layer.size + layer.out_features * FLOAT32 + zero_points


def quanto_groups(layer: LinearLayer) -> int:
    """Groups of 128 weights, else 96, 64, 32 or a whole row: the first that divides a row (quanto, `QModuleMixin`)."""
    if layer.in_features <= GROUP:
        return layer.out_features
    size = next((size for size in range(GROUP, 0, -32) if layer.in_features % size == 0), layer.in_features)
    return layer.size // size
