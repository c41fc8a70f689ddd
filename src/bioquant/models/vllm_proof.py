"""Did the recipe take effect? Read off the model that stands in vLLM, never off the configuration."""

from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from bioquant.config import ModelConfig, QuantConfig, QuantMethod
from bioquant.errors import QuantError, QuantNotAppliedError
from bioquant.models import proof
from bioquant.records import QuantizationReport

BNB = "bitsandbytes"
"""vLLM's name of the method and of its loader."""

BNB_LAYERS = "BitsAndBytesLinearMethod"


def report(
    network: nn.Module, model: ModelConfig, quant: QuantConfig, stored: str | None, device: str
) -> QuantizationReport:
    """Count the layers and the bytes of a model that vLLM has loaded; a fused layer (q, k and v, say) counts once.

    stored: how the checkpoint was quantized beforehand. Raises QuantNotAppliedError where the layers are not what was
    asked for, QuantError for experts, whose unquantized size is not known here.
    """
    linears = list(_linears(network))
    methods = Counter(type(layer.quant_method).__name__ for layer in linears)
    replaced = {name: count for name, count in methods.items() if not name.startswith("Unquantized")}
    if replaced and any(type(module).__name__ == "RoutedExperts" for module in network.modules()):
        raise QuantError(f"model '{model.name}': quantized experts are not supported with engine 'vllm'.")
    found = QuantizationReport(
        replaced=replaced,
        kept={name: count for name, count in methods.items() if name not in replaced},
        bytes_before=_bytes_before(network, getattr(torch, model.dtype)),
        bytes_after=proof.size(_tensors(network)),
        backend=_backend(quant, stored, device),
    )
    _check(found, quant, stored)
    if quant.method is not QuantMethod.none and stored is None:
        _check_nf4(found, quant, {state.quant_type for layer in linears for state in _states(layer)})
    return found


def _check(found: QuantizationReport, quant: QuantConfig, stored: str | None) -> None:
    asked = stored is not None or quant.method is not QuantMethod.none
    what = f"quant '{quant.name}'" + (f" of a checkpoint quantized beforehand ({stored})" if stored else "")
    if bool(found.replaced) is not asked:
        raise QuantNotAppliedError(f"{what}: vLLM loaded {_counted(found.replaced)} quantized linear layers.")
    if asked and found.bytes_after >= found.bytes_before:
        raise QuantNotAppliedError(
            f"{what} left the weights at {found.bytes_after:,} bytes ({found.bytes_before:,} unquantized)."
        )


def _check_nf4(found: QuantizationReport, quant: QuantConfig, types: set[str]) -> None:
    """types: of the bitsandbytes states in the model."""
    if set(found.replaced) != {BNB_LAYERS} or types != {"nf4"}:
        raise QuantNotAppliedError(
            f"quant '{quant.name}': vLLM loaded {_counted(found.replaced)} with weights of type "
            f"{', '.join(sorted(types)) or 'none'}, not {BNB_LAYERS} with nf4."
        )


def _counted(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in layers.items()) or "no"


def _backend(quant: QuantConfig, stored: str | None, device: str) -> str:
    """The libraries that multiply, their versions and the kind of device."""
    bnb = stored == BNB or (stored is None and quant.method is not QuantMethod.none)
    names = ("vllm", "vllm-bnb-plugin", BNB) if bnb else ("vllm",)
    method = [] if stored in (None, BNB) else [stored]
    return " ".join([*(f"{name} {version(name)}" for name in names), *method, device.partition(":")[0]])


def _linears(network: nn.Module) -> Iterator[Any]:
    kind = import_module("vllm.model_executor.layers.linear").LinearBase
    return (module for module in network.modules() if isinstance(module, kind))


def _states(layer: nn.Module) -> Iterator[Any]:
    """The bitsandbytes states of a layer, one for each weight that was fused in it: its scales alone for 8 bits."""
    for parameter in layer.parameters(recurse=False):
        yield from getattr(parameter, "bnb_quant_state", {}).values()


def _bytes_before(network: nn.Module, dtype: torch.dtype) -> int:
    """Every weight in `dtype`, tied ones once, and the buffers that stand in the model with and without the recipe."""
    layers = set(_linears(network))
    weights = sum(
        layer.input_size * layer.output_size + (layer.output_size if layer.has_bias else 0) for layer in layers
    )
    others = [module for module in network.modules() if module not in layers]
    rest = {id(value): value.numel() for module in others for value in module.parameters(recurse=False)}
    buffers = sum(buffer.nbytes for module in others for buffer in module.buffers(recurse=False))
    return (weights + sum(rest.values())) * dtype.itemsize + buffers


def _tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    """All that stands in the model, with what its linear layers hold as plain attributes; no keys and values."""
    yield from network.parameters()
    yield from network.buffers()
    for layer in _linears(network):
        yield from (value for value in vars(layer).values() if isinstance(value, torch.Tensor))
        for state in _states(layer):
            yield from [state] if isinstance(state, torch.Tensor) else [state.absmax, state.code]
