"""Linear layers, and what multiplies in them."""

from typing import Any

import torch
from torch import nn


class UnquantizedLinearMethod:
    def create_weights(self, layer: "LinearBase", weight: torch.Tensor) -> None:
        layer.weight = nn.Parameter(weight, requires_grad=False)

    def apply(self, layer: "LinearBase", x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, layer.weight, layer.bias)


class BitsAndBytesLinearMethod:
    """In flight: NF4 with double quantization, the scales dequantized again, products in bfloat16."""

    def create_weights(self, layer: "LinearBase", weight: torch.Tensor) -> None:
        from bitsandbytes.functional import dequantize_blockwise, quantize_4bit

        packed, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
        state.absmax = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
        state.nested, state.offset, state.state2 = False, None, None
        parameter: Any = nn.Parameter(packed, requires_grad=False)
        parameter.bnb_quant_state = {0: state}
        layer.weight = parameter

    def apply(self, layer: "LinearBase", x: torch.Tensor) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(layer.weight, layer.weight.bnb_quant_state[0]).to(torch.bfloat16)
        out = nn.functional.linear(x.to(torch.bfloat16), weight).to(x.dtype)
        return out if layer.bias is None else out + layer.bias


class AutoGPTQLinearMethod:
    """Of a checkpoint quantized beforehand; here simply 8 bits and a scale a row, which is a plain attribute."""

    def create_weights(self, layer: "LinearBase", weight: torch.Tensor) -> None:
        layer.scales = weight.abs().amax(1, keepdim=True) / 127
        layer.qweight = nn.Parameter((weight / layer.scales).round().to(torch.int8), requires_grad=False)

    def apply(self, layer: "LinearBase", x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, layer.qweight.to(x.dtype) * layer.scales, layer.bias)


class LinearBase(nn.Module):
    def __init__(self, linear: nn.Linear, quant_method: Any) -> None:
        super().__init__()
        self.input_size = linear.in_features
        self.output_size = linear.out_features
        self.has_bias = linear.bias is not None
        self.quant_method = quant_method
        self.bias = linear.bias
        quant_method.create_weights(self, linear.weight.data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.quant_method.apply(self, x)
