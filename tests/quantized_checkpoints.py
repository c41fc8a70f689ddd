"""A model as its makers would have published it quantized: each format written by its own rule, to the bit.

Rounded to the nearest, without calibration: what is tested is that the weights come back, not that they are good ones.
`benchmarks/families.py` writes real shapes with it.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bioquant import models
from bioquant.config import Device, ModelConfig, QuantConfig

GROUP = 64
"""Weights that share a scale: it divides the tiny model's rows of 128 and 256."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Of eight neighbouring columns in one 32-bit word (AutoAWQ's GEMM layout)."""

Format = tuple[Callable[[Tensor], tuple[dict[str, Tensor], Tensor]], dict[str, Any]]
"""A weight → its tensors by suffix, and the weight that these stand for; and the checkpoint's quantization_config."""


def full(folder: Path, model: ModelConfig, none: QuantConfig) -> Path:
    """The unquantized checkpoint."""
    loaded = models.load(model, none, Device.cpu)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def published(source: Path, folder: Path, name: str) -> Path:
    """The checkpoint in a format, and beside it, in `folder/dense`, the full-precision one of the very same weights."""
    quantize, config = formats(GROUP)[name]
    dense, stored = load_file(source / "model.safetensors"), dict[str, Tensor]()
    for key, value in list(dense.items()):
        if key.endswith("_proj.weight"):
            parts, dense[key] = quantize(value)
            stored |= {key.removesuffix("weight") + suffix: part.contiguous() for suffix, part in parts.items()}
        else:
            stored[key] = value
    for place, tensors in ((folder, stored), (folder / "dense", dense)):
        place.mkdir(parents=True)
        for path in source.iterdir():
            if path.suffix in (".json", ".jinja"):
                (place / path.name).write_bytes(path.read_bytes())
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    configure(folder, quantization_config=config)
    return folder


def configure(folder: Path, **changed: object) -> None:
    """Fields of the checkpoint's config.json, given another value; taken out where it is None."""
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | changed
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}), encoding="utf-8")


def _four_bits(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of 0 to 15, (out, in); a scale a row and group, float16, (out, groups); the weight they stand for."""
    grouped = weight.unflatten(1, (-1, group))
    scales = (grouped.abs().amax(-1) / 7).half()
    wide = scales.float().unsqueeze(-1)
    numbers = (grouped / wide).round().clamp(-8, 7)
    return (numbers + 8).to(torch.int64).flatten(1), scales, (numbers * wide).flatten(1)


def _words(numbers: Tensor) -> Tensor:
    """Eight neighbours of the last dimension in one 32-bit word, the first in the lowest bits."""
    shifted = numbers.unflatten(-1, (-1, 8)) << (4 * torch.arange(8, device=numbers.device))
    return (shifted.sum(-1) & 0xFFFFFFFF).to(torch.int32)


def gptq(weight: Tensor, group: int) -> tuple[dict[str, Tensor], Tensor]:
    """Words along a column; the zero of 8 is written as 7, as AutoGPTQ began to."""
    numbers, scales, dense = _four_bits(weight, group)
    out, groups = scales.shape
    parts = {
        "qweight": _words(numbers).T,
        "qzeros": _words(torch.full((groups, out), 7)),
        "scales": scales.T,
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // group,
    }
    return parts, dense


def awq(weight: Tensor, group: int) -> tuple[dict[str, Tensor], Tensor]:
    """Words along a row of the transposed weight, in AWQ's order."""
    numbers, scales, dense = _four_bits(weight, group)
    out, groups = scales.shape

    def words(columns: Tensor) -> Tensor:
        return _words(columns.unflatten(-1, (-1, 8))[..., list(AWQ_ORDER)].flatten(-2))

    parts = {"qweight": words(numbers.T), "qzeros": words(torch.full((groups, out), 8)), "scales": scales.T}
    return parts, dense


def packed_int4(weight: Tensor, group: int) -> tuple[dict[str, Tensor], Tensor]:
    """compressed-tensors, `pack-quantized`."""
    numbers, scales, dense = _four_bits(weight, group)
    shape = torch.tensor(weight.shape)
    return {"weight_packed": _words(numbers), "weight_scale": scales.float(), "weight_shape": shape}, dense


def fp8_rows(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """compressed-tensors, `float-quantized`: a scale a row."""
    scales = weight.abs().amax(1, keepdim=True) / 448
    eight = (weight / scales).to(torch.float8_e4m3fn)
    return {"weight": eight, "weight_scale": scales}, eight.float() * scales


def fp8_blocks(weight: Tensor, side: int) -> tuple[dict[str, Tensor], Tensor]:
    """Fine-grained fp8: a scale a square block."""
    blocks = weight.unflatten(1, (-1, side)).unflatten(0, (-1, side))
    scales = blocks.abs().amax((1, 3), keepdim=True) / 448
    eight = (blocks / scales).to(torch.float8_e4m3fn)
    dense = (eight.float() * scales).reshape(weight.shape)
    return {"weight": eight.reshape(weight.shape), "weight_scale_inv": scales[:, 0, :, 0]}, dense


def _compressed(layout: str, **weights: object) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def formats(group: int) -> dict[str, Format]:
    """By name; group: of how many weights share a scale, and the side of a block of fp8."""
    four = {"bits": 4, "group_size": group}
    return {
        "gptq": (partial(gptq, group=group), {"quant_method": "gptq", **four, "sym": True, "desc_act": False}),
        "awq": (partial(awq, group=group), {"quant_method": "awq", **four, "zero_point": True, "version": "gemm"}),
        "fp8": (
            partial(fp8_blocks, side=group),
            {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [group, group]}
            | {"modules_to_not_convert": ["lm_head"]},
        ),
        "ct_int4": (
            partial(packed_int4, group=group),
            _compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=group),
        ),
        "ct_fp8": (fp8_rows, _compressed("float-quantized", num_bits=8, type="float", strategy="channel")),
    }
