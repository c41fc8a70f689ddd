"""Did the recipe take effect? Read off the loaded model, never off the configuration.

transformers' `get_memory_footprint()` will not do: for quanto it reports the unquantized bytes, for 4-bit bitsandbytes
it leaves the scales out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version

import torch
from torch import nn

from bioquant import quantization
from bioquant.config import QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import QuantNotAppliedError
from bioquant.records import QuantizationReport

MODULE_CLASSES = {
    QuantMethod.none: {WeightFormat.none: "Linear"},
    QuantMethod.bnb_int8: {WeightFormat.int8: "Linear8bitLt"},
    QuantMethod.bnb_4bit: {WeightFormat.nf4: "Linear4bit", WeightFormat.fp4: "Linear4bit"},
    QuantMethod.quanto: {WeightFormat.int8: "QLinear", WeightFormat.int4: "QLinear"},
    QuantMethod.torchao: {WeightFormat.int8: "Int8Tensor", WeightFormat.fp8: "Float8Tensor"},
}
"""What a linear layer, or else its weight, becomes under each method, by weight format."""


def report(network: nn.Module, quant: QuantConfig, dtype: torch.dtype, device: str) -> QuantizationReport:
    """Count the modules and the bytes of a model loaded in `dtype` under this recipe.

    Raises QuantNotAppliedError where no linear layer was replaced, or where the weights became no smaller.
    """
    classes = Counter(_kind(module) for module in network.modules() if isinstance(module, nn.Linear))
    replaced = {name: count for name, count in classes.items() if name != "Linear"}
    found = QuantizationReport(
        replaced=replaced,
        kept={name: count for name, count in classes.items() if name not in replaced},
        bytes_before=_bytes_before(network, dtype),
        bytes_after=size(tensor for module in network.modules() for tensor in _tensors(module)),
        backend=_backend(quant, device),
    )
    if quant.method is not QuantMethod.none:
        _check(found, quant)
    return found


def _kind(module: nn.Linear) -> str:
    """The class that a method has put in a linear layer's place, else the one that it has put in its weight's."""
    plain = type(module) is nn.Linear and type(module.weight) is not nn.Parameter
    return type(module.weight if plain else module).__name__


def _check(found: QuantizationReport, quant: QuantConfig) -> None:
    expected = MODULE_CLASSES[quant.method][quant.weight_format]
    if expected not in found.replaced:
        raise QuantNotAppliedError(
            f"quant '{quant.name}' replaced none of the model's {sum(found.kept.values())} linear layers by "
            f"{expected}: check quant.skip_modules ({', '.join(quant.skip_modules)})."
        )
    if found.bytes_after >= found.bytes_before:
        raise QuantNotAppliedError(
            f"quant '{quant.name}' left the weights at {found.bytes_after:,} bytes "
            f"({found.bytes_before:,} unquantized): the library replaced the layers but not their weights."
        )


def _backend(quant: QuantConfig, device: str) -> str:
    """The library that multiplies, its version and the kind of device, e.g. `bitsandbytes 0.50.2 cpu`."""
    name = quantization.library(quant) or "torch"
    return f"{name} {version(name)} {device.partition(':')[0]}"


def _bytes_before(network: nn.Module, dtype: torch.dtype) -> int:
    """Every weight in `dtype`, tied ones once, and the buffers that stand in the model with and without the recipe."""
    sizes: dict[int, int] = {}
    buffers = 0
    for module in network.modules():
        sizes |= {id(value): value.numel() * dtype.itemsize for value in module.parameters(recurse=False)}
        if isinstance(module, nn.Linear):
            sizes[id(module.weight)] = module.in_features * module.out_features * dtype.itemsize
        else:
            buffers += sum(buffer.nbytes for buffer in module.buffers(recurse=False))
    return sum(sizes.values()) + buffers


def size(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes of these tensors with their quantization state, each piece of memory once."""
    return sum({(part.device, part.data_ptr()): part.nbytes for tensor in tensors for part in _parts(tensor)}.values())


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """A module's own tensors. bitsandbytes moves the int8 scales into `module.state` in the first forward pass."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
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
