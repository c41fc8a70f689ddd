"""HQQ through transformers' own loader, which quantizes a weight as soon as it has read it.

transformers' HqqConfig cannot do it in 5.23. This is its quantizer's interface (`transformers.quantizers`) around hqq's
own layer: one unquantized layer is on the device at a time, and random weights are drawn as they are needed.
Badri and Shaji 2023, Half-Quadratic Quantization.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bioquant.config import QuantConfig
from bioquant.layer_bytes import BITS
from bioquant.quantization import layer_format

METHOD = "bioquant_hqq"
"""In transformers' table of quantizers, whose own "hqq" stays as it is."""


ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""By which a user tells torch how to allocate."""


class HqqRecipe(QuantizationConfigMixin):
    """A recipe as from_pretrained takes it."""

    def __init__(self, quant: QuantConfig) -> None:
        self.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.quant = quant


class HqqQuantizer(HfQuantizer):
    """Which weights the loader hands over, and to what."""

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: object) -> bool:
        """Whether it is the weight of a linear layer that the recipe does not skip."""
        layer, tensor = param_name.rpartition(".")[::2]
        linear = tensor == "weight" and isinstance(model.get_submodule(layer), nn.Linear)
        return linear and layer_format(self.recipe, layer) is not None

    @property
    def recipe(self) -> QuantConfig:
        """What is asked for."""
        config: Any = self.quantization_config
        return config.quant

    def get_quantize_ops(self) -> ConversionOps:
        """What is done to each of them."""
        return HqqLayers(self.recipe)

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether transformers can store it: it reads no weights of hqq's back."""
        return False

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether it can be trained further."""
        return False


class HqqLayers(ConversionOps):
    """A linear layer's weight, on its device → hqq's layer in its place."""

    def __init__(self, quant: QuantConfig) -> None:
        self.quant = quant

    def convert(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_dict: dict[str, Any],
        *,
        model: nn.Module,
        full_layer_name: str,
        missing_keys: set[str],
        **_: object,
    ) -> dict[str, torch.Tensor]:
        """Nothing is left for the loader to set. Raises ValueError where the groups cannot be packed."""
        [found] = input_dict.values()
        weight = found[0] if isinstance(found, list) else found
        name = full_layer_name.rpartition(".")[0]
        layer = replaced(model.get_submodule(name), weight, self.quant, name)
        model.set_submodule(name, layer)
        missing_keys.discard(full_layer_name)
        return {}


def loader_config(quant: QuantConfig) -> HqqRecipe:
    """The `quantization_config` of from_pretrained."""
    quantizers: Any = AUTO_QUANTIZER_MAPPING
    quantizers[METHOD] = HqqQuantizer
    return HqqRecipe(quant)


@contextmanager
def unfragmented(place: str) -> Generator[None]:
    """Load without leaving the device's memory in pieces; where a user has set torch's allocator, as that says.

    Small packed weights take a corner of each large block that a weight and its copy in float32 were in: an 8B model of
    5.6 GiB kept 16.8 from the other programs. Segments that grow and shrink give it back (docs/gpu.md).
    """
    if not place.startswith("cuda") or any(variable in os.environ for variable in ALLOCATOR_VARIABLES):
        yield
        return
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        torch.cuda.empty_cache()
        torch._C._accelerator_setAllocatorSettings("expandable_segments:False")  # pyright: ignore[reportPrivateUsage]


def replaced(linear: Any, weight: torch.Tensor, quant: QuantConfig, name: str) -> nn.Module:
    """The layer of hqq for a linear layer's weight; the bias is the linear layer's, loaded or still to come."""
    hqq: Any = import_module("hqq.core.quantize")
    # Its plain forward pass: the others are for training, or need kernels that are not on the registries.
    hqq.HQQLinear.set_backend(hqq.HQQBackend.PYTORCH_FORWARD)
    becomes = layer_format(quant, name)
    assert becomes is not None
    assert quant.group_size is not None
    check_packing(weight.shape, BITS[becomes], quant.group_size)
    settings = hqq.BaseQuantizeConfig(nbits=BITS[becomes], group_size=quant.group_size, axis=1)
    bias, linear.bias = linear.bias, None
    linear.weight = nn.Parameter(weight, requires_grad=False)
    layer = hqq.HQQLinear(linear, settings, compute_dtype=weight.dtype, device=str(weight.device))
    if bias is not None:
        layer.bias = bias
    for loaded in (layer, layer.W_q):
        loaded._is_hf_initialized = True  # else transformers would draw it anew
    return layer


def check_packing(shape: torch.Size, bits: int, group_size: int) -> None:
    """Whether a weight falls into groups that pack into whole bytes: hqq would pack others wrongly, without an error.

    Raises ValueError.
    """
    groups, rest = divmod(shape.numel(), group_size)
    if rest or (bits != 3 and groups * bits % 8):
        raise ValueError(
            f"{shape[0]} x {shape[1]} weights of {bits} bits do not pack into whole bytes in groups of {group_size}"
        )
