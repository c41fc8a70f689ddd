"""What a linear layer's weight takes under each method with its quantization state, to the byte.

No torch: `bioquant quants` lists without loading. That the figures are right is tested on loaded models.
"""

from dataclasses import dataclass
from math import ceil
from typing import assert_never

from bioquant import quantization
from bioquant.config import Device, QuantConfig, QuantMethod, WeightFormat

FLOAT32 = 4
BFLOAT16 = 2
BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit formats unless the recipe says otherwise (`Params4bit`)."""
NESTED_BLOCK = 256
"""Scales that share a second scale under double quantization (Dettmers et al. 2023, arXiv:2305.14314)."""
GROUP = 128
"""Weights that share a scale in quanto's int4, where a row is a multiple of it."""
BITS = {WeightFormat.int8: 8, WeightFormat.int4: 4, WeightFormat.int3: 3, WeightFormat.int2: 2}
IN_32_BITS = 10
"""3-bit weights that hqq packs into an int32 (hqq, `BitPack`)."""
TILE = (8, 1024)
"""Rows and columns that torchao's int4 is padded to multiples of (torchao, `Int4TilePackedTo4dTensor`)."""
FLOAT8_TILE = 16
"""Rows and columns that a float8 product comes in; torchao leaves other layers as they are (`_fp8_mm_compat`)."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear layer; tied where its weight is the embedding's too."""

    out_features: int
    in_features: int
    tied: bool

    @property
    def shape(self) -> tuple[int, int]:
        """As of the weight."""
        return self.out_features, self.in_features

    @property
    def size(self) -> int:
        """Weights, without a bias."""
        return self.out_features * self.in_features


TYPICAL = LinearLayer(4096, 4096, tied=False)
"""Of a model of 8B parameters: rows much shorter carry more state a weight, longer ones less."""


def bits_per_weight(quant: QuantConfig) -> float:
    """Of a typical layer of a model in 16 bits, with the quantization state."""
    return quantized_bytes(TYPICAL, quant, quant.weight_format, itemsize=2) * 8 / TYPICAL.size


def quantized_bytes(
    layer: LinearLayer,
    quant: QuantConfig,
    weight_format: WeightFormat,
    itemsize: int,
    device: Device = Device.cuda,
) -> int:
    """A quantized weight with its quantization state, by method and the layer's weight format; the whole weight where
    the device unpacks it.
    """
    match quant.method:
        case _ if quantization.dequantizes(quant, device):
            return layer.size * itemsize
        case QuantMethod.none | QuantMethod.cast | QuantMethod.fp8 | QuantMethod.gguf:
            return layer.size * itemsize
        case QuantMethod.bnb_int8:
            return bnb_int8_bytes(layer)
        case QuantMethod.bnb_4bit:
            return bnb_4bit_bytes(layer, block_size(quant), double_quant=quant.double_quant)
        case QuantMethod.quanto:
            return quanto_bytes(layer, BITS[weight_format], itemsize)
        case QuantMethod.hqq:
            return hqq_bytes(layer, BITS[weight_format], quant.group_size or 0, itemsize)
        case QuantMethod.torchao if weight_format is WeightFormat.int4:
            return torchao_int4_bytes(layer, quant.group_size or 0, itemsize)
        case QuantMethod.torchao:
            return torchao_bytes(layer, weight_format)
        case QuantMethod.torchao_dynamic:
            return torchao_dynamic_bytes(layer, itemsize)
        case QuantMethod.gptq | QuantMethod.awq:
            assert quant.group_size is not None  # see `recipe_checks.check_recipe`
            return grouped_bytes(layer, quant.method, quant.group_size, device)
        case QuantMethod.compressed_tensors:
            return layer.size + layer.out_features * FLOAT32
        case _:
            assert_never(quant.method)


def bnb_int8_bytes(layer: LinearLayer) -> int:
    """1 a weight, a float32 scale a row."""
    return layer.size + layer.out_features * FLOAT32


def block_size(quant: QuantConfig) -> int:
    """Weights that share a scale in a 4-bit format of bitsandbytes."""
    return quant.block_size or BLOCK


def bnb_4bit_bytes(layer: LinearLayer, block: int, *, double_quant: bool) -> int:
    """1/2 a weight, a scale a block, a table of 16 float32 values a layer.

    A scale is a float32, or with double quantization 1 byte, with a float32 for each 256 scales, a table of 256 float32
    values and an offset a layer.
    """
    blocks = ceil(layer.size / block)
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


def grouped_bytes(layer: LinearLayer, method: QuantMethod, group_size: int, device: Device) -> int:
    """1/2 a weight, and a group its scale and zero; GPTQ has an index of its group a column, and a table of 8 a layer.

    On a GPU, as in the file: a float16 scale and a zero of 4 bits a group, an int32 a column. On a CPU gptqmodel's int4
    kernel keeps scale and zero as bfloat16 twice, and for GPTQ two int32 a column.
    """
    groups = layer.out_features * ceil(layer.in_features / group_size)
    columns = layer.in_features * FLOAT32 if method is QuantMethod.gptq else 0
    table = 8 * FLOAT32 if method is QuantMethod.gptq else 0
    if device is not Device.cpu:
        return layer.size // 2 + groups * 5 // 2 + columns + table
    return layer.size // 2 + groups * 2 * 2 * 2 + 2 * columns + table


def quanto_groups(layer: LinearLayer) -> int:
    """Groups of 128 weights, else 96, 64, 32 or a whole row: the first that divides a row (quanto, `QModuleMixin`)."""
    if layer.in_features <= GROUP:
        return layer.out_features
    size = next((size for size in range(GROUP, 0, -32) if layer.in_features % size == 0), layer.in_features)
    return layer.size // size


def hqq_bytes(layer: LinearLayer, bits: int, group: int, itemsize: int) -> int:
    """bits/8 a weight, a scale and a zero point a group in the model's dtype. 3 bits: 4 bytes for ten weights, one of
    each of ten groups, filled up with empty groups.
    """
    groups = layer.size // group
    packed = ceil(groups / IN_32_BITS) * group * 4 if bits == 3 else layer.size * bits // 8
    return packed + 2 * groups * itemsize


def torchao_int4_bytes(layer: LinearLayer, group: int, itemsize: int) -> int:
    """1/2 a weight and a scale and a zero point a group in bfloat16, of the padded layer; as it was where a row is no
    multiple of the group.
    """
    if layer.in_features % group:
        return layer.size * itemsize
    rows, columns = (ceil(size / tile) * tile for size, tile in zip(layer.shape, TILE, strict=True))
    return rows * columns // 2 + rows * (columns // group) * 2 * BFLOAT16


def torchao_dynamic_bytes(layer: LinearLayer, itemsize: int) -> int:
    """1 a weight and a float32 scale a row; as it was where a side is no multiple of 16."""
    if any(size % FLOAT8_TILE for size in layer.shape):
        return layer.size * itemsize
    return layer.size + layer.out_features * FLOAT32


def workspace_bytes(
    layer: LinearLayer, quant: QuantConfig, weight_format: WeightFormat, itemsize: int, tokens: int
) -> int:
    """What a replaced layer needs beside its input and output, by method.

    4 bits of bitsandbytes, quanto and torchao's int8: the weight as it is dequantized, b a weight, and with double
    quantization its float32 scales. torchao's float8: beside that weight two in float32. hqq: three of the dequantized:
    unpacked, less the zero points, and times the scales.
    LLM.int8(): per token the input in float16 and int8 (3 in), the product in int32 and float16 (6 out).
    torchao's int4: per token the input padded, and the product, in bfloat16 (2 in + 2 out). Its dynamic float8 and
    compressed-tensors': per token the input in float32, twice, and in float8 (9 in).
    """
    match quant.method:
        case QuantMethod.bnb_int8:
            return tokens * (3 * layer.in_features + 6 * layer.out_features)
        case QuantMethod.hqq:
            return 3 * layer.size * itemsize
        case QuantMethod.torchao_dynamic | QuantMethod.compressed_tensors if weight_format is WeightFormat.fp8:
            return tokens * 9 * layer.in_features
        case QuantMethod.torchao if weight_format is WeightFormat.int4:
            return tokens * BFLOAT16 * (ceil(layer.in_features / TILE[1]) * TILE[1] + layer.out_features)
        case QuantMethod.torchao if weight_format is WeightFormat.fp8:
            return layer.size * (itemsize + 2 * FLOAT32)
        case _:
            scales = ceil(layer.size / block_size(quant)) * FLOAT32 if quant.double_quant else 0
            return layer.size * itemsize + scales
