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
from bioquant.layer_bytes import BITS
from bioquant.records import QuantizationReport

MODULE_CLASSES = {
    QuantMethod.none: {WeightFormat.none: "Linear"},
    QuantMethod.bnb_int8: {WeightFormat.int8: "Linear8bitLt"},
    QuantMethod.bnb_4bit: {WeightFormat.nf4: "Linear4bit", WeightFormat.fp4: "Linear4bit"},
    QuantMethod.quanto: {WeightFormat.int8: "QLinear", WeightFormat.int4: "QLinear"},
    QuantMethod.cast: {WeightFormat.bf16: "Linear bfloat16", WeightFormat.fp16: "Linear float16"},
    QuantMethod.hqq: {weight_format: f"HQQLinear {bits}-bit" for weight_format, bits in BITS.items()},
    QuantMethod.torchao: {
        WeightFormat.int8: "Int8Tensor",
        WeightFormat.fp8: "Float8Tensor",
        WeightFormat.int4: "Int4TilePackedTo4dTensor",
    },
    QuantMethod.torchao_dynamic: {WeightFormat.fp8: "Float8Tensor"},
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
    classes = Counter(_kind(module, dtype) for module in network.modules() if is_linear(module))
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


def is_linear(module: nn.Module) -> bool:
    """A linear layer, or what has taken its place: hqq's and gptqmodel's are modules of their own."""
    return isinstance(getattr(module, "in_features", None), int) and hasattr(module, "out_features")


def _kind(module: Any, dtype: torch.dtype) -> str:
    """The class that a method has put in a linear layer's place, else the one that it has put in its weight's; the bits
    where a class has several; the dtype where that alone is another.
    """
    if _is_hqq(module):
        return f"{type(module).__name__} {module.meta['nbits']}-bit"
    if type(module) is not nn.Linear:
        return type(module).__name__
    if type(module.weight) is not nn.Parameter:
        return type(module.weight).__name__
    return "Linear" if module.weight.dtype is dtype else f"Linear {str(module.weight.dtype).removeprefix('torch.')}"


def _is_hqq(module: nn.Module) -> bool:
    return type(module).__name__ == "HQQLinear"


def _check_unpacked(found: QuantizationReport, quant: QuantConfig) -> None:
    if found.replaced:
        raise QuantNotAppliedError(
            f"quant '{quant.name}': its weights were to be unpacked, but the model has {', '.join(found.replaced)}."
        )


def _check(found: QuantizationReport, quant: QuantConfig) -> None:
    classes = MODULE_CLASSES.get(quant.method, {})
    for expected in sorted(classes.get(one, "") for one in quantization.formats(quant)):
        if not found.replaced or expected not in ("", *found.replaced):
            by = expected or quantization.library(quant)
            raise QuantNotAppliedError(
                f"quant '{quant.name}' replaced none of the model's {sum(found.kept.values())} linear layers by {by}: "
                f"check quant.skip_modules ({', '.join(quant.skip_modules)})."
            )
    as_large = found.bytes_after == found.bytes_before and quant.method is QuantMethod.cast  # from 16 bits to 16 bits
    if found.bytes_after >= found.bytes_before and not as_large:
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
        if is_linear(module):
            layer: Any = module
            tensors = [] if layer.bias is None else [layer.bias]
            sizes[id(weight_of(layer))] = layer.in_features * layer.out_features * dtype.itemsize
        else:
            tensors = module.parameters(recurse=False)
            buffers += sum(buffer.nbytes for buffer in module.buffers(recurse=False))
        sizes |= {id(value): value.numel() * dtype.itemsize for value in tensors}
    return sum(sizes.values()) + buffers


def weight_of(linear: Any) -> object:
    """A linear layer's weight, quantized or not; the layer itself where it holds its weight in parts (gptqmodel's)."""
    return getattr(linear, "W_q" if _is_hqq(linear) else "weight", linear)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes of these tensors with their quantization state, each piece of memory once."""
    return sum({(part.device, part.data_ptr()): part.nbytes for tensor in tensors for part in _parts(tensor)}.values())


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """A module's own tensors, those that gptqmodel's layers hold as plain attributes among them. bitsandbytes moves the
    int8 scales into `module.state` in the first forward pass; in hqq scales and zero points are in a dictionary.
    """
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    if is_linear(module):
        yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))
    if _is_hqq(module):
        yield from (value for value in vars(module)["meta"].values() if isinstance(value, torch.Tensor))
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
