"""Did the recipe take effect? Read off the loaded model, never off the configuration.

transformers' `get_memory_footprint()` will not do: for quanto it reports the unquantized bytes, for 4-bit bitsandbytes
it leaves the scales out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from bioquant import quantization
from bioquant.config import Device, QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import QuantNotAppliedError
from bioquant.records import QuantizationReport

MODULE_CLASSES = {
    QuantMethod.none: {WeightFormat.none: "Linear"},
    QuantMethod.bnb_int8: {WeightFormat.int8: "Linear8bitLt"},
    QuantMethod.bnb_4bit: {WeightFormat.nf4: "Linear4bit", WeightFormat.fp4: "Linear4bit"},
    QuantMethod.quanto: {WeightFormat.int8: "QLinear", WeightFormat.int4: "QLinear"},
    QuantMethod.torchao: {WeightFormat.int8: "Int8Tensor", WeightFormat.fp8: "Float8Tensor"},
    QuantMethod.compressed_tensors: {WeightFormat.fp8: "CompressedTensorsFP8Linear"},
}
"""What a linear layer, or else its weight, becomes under each method, by weight format.

Of gptqmodel any class will do: it has one for each kind of kernel.
"""


def report(network: nn.Module, quant: QuantConfig, dtype: torch.dtype, device: str) -> QuantizationReport:
    """Count the modules and the bytes of a model loaded in `dtype` under this recipe.

    Raises QuantNotAppliedError where no linear layer was replaced, or where the weights became no smaller; where the
    weights are unpacked when they are loaded, where a layer is another than it was.
    """
    unpacked = quantization.dequantizes(quant, Device(device.partition(":")[0]))
    classes = Counter(_kind(module) for module in network.modules() if _is_linear(module))
    replaced = {name: count for name, count in classes.items() if name != "Linear"}
    found = QuantizationReport(
        replaced=replaced,
        kept={name: count for name, count in classes.items() if name not in replaced},
        bytes_before=_bytes_before(network, dtype),
        bytes_after=size(tensor for module in network.modules() for tensor in _tensors(module)),
        backend=_backend(None if unpacked else quantization.library(quant), device),
        dequantized_from=str(quant.method) if unpacked else None,
    )
    if unpacked:
        _check_unpacked(found, quant)
    elif quant.method is not QuantMethod.none:
        _check(found, quant)
    return found


def _is_linear(module: nn.Module) -> bool:
    """A linear layer, or what has taken its place: gptqmodel's are modules of their own."""
    return isinstance(getattr(module, "in_features", None), int) and hasattr(module, "out_features")


def _kind(module: nn.Module) -> str:
    """The class that a method has put in a linear layer's place, else the one that it has put in its weight's."""
    plain = type(module) is nn.Linear and type(module.weight) is not nn.Parameter
    return type(module.weight if plain else module).__name__


def _check_unpacked(found: QuantizationReport, quant: QuantConfig) -> None:
    if found.replaced:
        raise QuantNotAppliedError(
            f"quant '{quant.name}': its weights were to be unpacked, but the model has {', '.join(found.replaced)}."
        )


def _check(found: QuantizationReport, quant: QuantConfig) -> None:
    expected = MODULE_CLASSES.get(quant.method, {}).get(quant.weight_format)
    if not found.replaced or expected not in (None, *found.replaced):
        raise QuantNotAppliedError(
            f"quant '{quant.name}' replaced none of the model's {sum(found.kept.values())} linear layers by "
            f"{expected or quantization.library(quant)}: check quant.skip_modules ({', '.join(quant.skip_modules)})."
        )
    if found.bytes_after >= found.bytes_before:
        raise QuantNotAppliedError(
            f"quant '{quant.name}' left the weights at {found.bytes_after:,} bytes "
            f"({found.bytes_before:,} unquantized): the library replaced the layers but not their weights."
        )


def _backend(library: str | None, device: str) -> str:
    """The library that multiplies, its version and the kind of device, e.g. `bitsandbytes 0.50.2 cpu`."""
    name = library or "torch"
    return f"{name} {version(name)} {device.partition(':')[0]}"


def _bytes_before(network: nn.Module, dtype: torch.dtype) -> int:
    """Every weight in `dtype`, tied ones once, and the buffers that stand in the model with and without the recipe."""
    sizes: dict[int, int] = {}
    buffers = 0
    for module in network.modules():
        if _is_linear(module):
            bias: torch.Tensor | None = getattr(module, "bias", None)
            tensors = [] if bias is None else [bias]
            layer: Any = module
            weight = getattr(layer, "weight", layer)
            sizes[id(weight)] = layer.in_features * layer.out_features * dtype.itemsize
        else:
            tensors = module.parameters(recurse=False)
            buffers += sum(buffer.nbytes for buffer in module.buffers(recurse=False))
        sizes |= {id(value): value.numel() * dtype.itemsize for value in tensors}
    return sum(sizes.values()) + buffers


def size(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes of these tensors with their quantization state, each piece of memory once."""
    return sum({(part.device, part.data_ptr()): part.nbytes for tensor in tensors for part in _parts(tensor)}.values())


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """A module's own tensors, those that gptqmodel's layers hold as plain attributes among them. bitsandbytes moves the
    int8 scales into `module.state` in the first forward pass.
    """
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    if _is_linear(module):
        yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))
    yield from _attributes(getattr(module, "state", None), ("CB", "SCB"))


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a tensor is made of: quanto's inner tensors, or the tensor itself with bitsandbytes' state."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        names, _ = flatten()
        for name in names:
            yield from _parts(getattr(tensor, name))
        return
    yield tensor
    yield from _attributes(tensor, ("CB", "SCB"))
    state = getattr(tensor, "quant_state", None)
    yield from _attributes(state, ("absmax", "code", "offset"))
    yield from _attributes(getattr(state, "state2", None), ("absmax", "code"))


def _attributes(owner: object, names: tuple[str, ...]) -> Iterator[torch.Tensor]:
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, torch.Tensor):
            yield value
