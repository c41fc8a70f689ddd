"""A quantization recipe → what the transformers loader needs, and what cannot run here. No torch, no loading."""

from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, assert_never

from bioquant.config import Device, Dtype, ModelConfig, QuantConfig, QuantMethod, WeightFormat

FORMATS = {
    QuantMethod.none: (WeightFormat.none,),
    QuantMethod.cast: (WeightFormat.bf16, WeightFormat.fp16),
    QuantMethod.bnb_int8: (WeightFormat.int8,),
    QuantMethod.bnb_4bit: (WeightFormat.nf4, WeightFormat.fp4),
    QuantMethod.quanto: (WeightFormat.int8, WeightFormat.int4),
    QuantMethod.hqq: (WeightFormat.int8, WeightFormat.int4, WeightFormat.int3, WeightFormat.int2),
    QuantMethod.torchao: (WeightFormat.int8, WeightFormat.fp8, WeightFormat.int4),
    QuantMethod.torchao_dynamic: (WeightFormat.fp8,),
    QuantMethod.gptq: (WeightFormat.int4,),
    QuantMethod.awq: (WeightFormat.int4,),
    QuantMethod.fp8: (WeightFormat.fp8,),
    QuantMethod.compressed_tensors: (WeightFormat.int4, WeightFormat.int8, WeightFormat.fp8),
    QuantMethod.gguf: (WeightFormat.gguf,),
}
"""The weight formats each method has."""

CASTS = {WeightFormat.bf16: Dtype.bfloat16, WeightFormat.fp16: Dtype.float16}
"""The dtypes that a model can be cast to."""

MIXING = (QuantMethod.hqq, QuantMethod.torchao)
"""The methods whose `quant.overrides` give layers a weight format of their own."""

TORCHAO_GROUPS = (32, 64, 128, 256)
"""What torch's int4 product takes (`_weight_int4pack_mm`)."""

BNB_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""What bitsandbytes' 4-bit kernels take; 32 from 0.50 on."""

LIBRARIES = {
    QuantMethod.none: None,
    QuantMethod.cast: None,
    QuantMethod.bnb_int8: "bitsandbytes",
    QuantMethod.bnb_4bit: "bitsandbytes",
    QuantMethod.quanto: "optimum-quanto",
    QuantMethod.hqq: "hqq",
    QuantMethod.torchao: "torchao",
    QuantMethod.torchao_dynamic: "torchao",
    QuantMethod.gptq: "gptqmodel",
    QuantMethod.awq: "gptqmodel",
    QuantMethod.fp8: None,
    QuantMethod.compressed_tensors: "compressed-tensors",
    QuantMethod.gguf: "gguf",
}
"""The distribution each method needs, beside transformers."""

MODULES = {
    "bitsandbytes": "bitsandbytes",
    "optimum-quanto": "optimum.quanto",
    "hqq": "hqq",
    "torchao": "torchao",
    "gptqmodel": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
    "gguf": "gguf",
}
"""What each of these distributions is imported as."""

INSTALLS = {
    "bitsandbytes": "bitsandbytes",
    "optimum-quanto": "optimum-quanto",
    "hqq": "'bioquant[hqq]'",
    "torchao": "'bioquant[torchao]'",
    "gptqmodel": "'bioquant[gptq]'",
    "compressed-tensors": "'bioquant[compressed-tensors]'",
    "gguf": "gguf",
}
"""What pip is asked for: transformers imports hqq and torchao wherever they are, which takes every process seconds."""

ONLY_PUBLISHED = frozenset({QuantMethod.awq, QuantMethod.fp8, QuantMethod.compressed_tensors, QuantMethod.gguf})
"""Methods that nothing here quantizes by."""

GROUPED = frozenset({QuantMethod.gptq, QuantMethod.awq})
"""Methods that need `quant.group_size`."""

GROUP_SIZES = (16, 32, 64, 128)
"""Those that gptqmodel's kernels have on a CPU and on CUDA alike."""


def is_published(quant: QuantConfig) -> bool:
    """Whether the recipe loads a checkpoint that is quantized already, which `model.calibrated` names."""
    return quant.requires.calibrated


def calibrates(quant: QuantConfig) -> bool:
    """Whether the recipe is calibrated here, in minutes, and its weights are kept."""
    return quant.method is QuantMethod.gptq and not is_published(quant)


def dequantizes(quant: QuantConfig, device: Device) -> bool:
    """Whether transformers unpacks the quantized weights on this device: its answers, but not its memory and speed.

    GGUF files, which it reads into its own layers. Fine-grained fp8, whose kernels would be fetched from the hub, ready
    compiled. compressed-tensors, which unpacks a layer when it is first used, but for fp8 on CUDA.
    """
    match quant.method:
        case QuantMethod.gguf | QuantMethod.fp8:
            return True
        case QuantMethod.compressed_tensors:
            return device is Device.cpu or quant.weight_format is not WeightFormat.fp8
        case _:
            return False


def loading_options(quant: QuantConfig, device: Device) -> dict[str, Any]:
    """What is added to a published checkpoint's own quantization_config, so that it is loaded as `dequantizes` says.

    Of gptqmodel's CUDA kernels those in Triton are named: left to choose, it downloads CUTLASS for a Hopper GPU.
    """
    match quant.method:
        case QuantMethod.gptq if device is Device.cuda:
            return {"backend": "gptq_triton"}
        case QuantMethod.awq if device is Device.cuda:
            return {"backend": "gemm_triton"}
        case QuantMethod.fp8:
            return {"dequantize": True}
        case QuantMethod.compressed_tensors:
            return {"use_optimized_inference": True}
        case _:
            return {}


def grouped(quant: QuantConfig) -> bool:
    """Whether groups of `quant.group_size` weights share a scale: in hqq, GPTQ and AWQ, and in torchao's int4."""
    return quant.method in (QuantMethod.hqq, *GROUPED) or (
        quant.method is QuantMethod.torchao and WeightFormat.int4 in formats(quant)
    )


def group(quant: QuantConfig) -> int | None:
    """Of how many weights share a scale, where that is set and takes effect."""
    if quant.method is QuantMethod.bnb_4bit:
        return quant.block_size
    return quant.group_size if grouped(quant) else None


def formats(quant: QuantConfig) -> set[WeightFormat]:
    """All that a model's linear layers are quantized to, for a mixed recipe more than one."""
    return {quant.weight_format, *quant.overrides.values()}


def layer_format(quant: QuantConfig, name: str) -> WeightFormat | None:
    """What the linear layer of this name is quantized to; None where `quant.skip_modules` leaves it alone."""
    if names(quant.skip_modules, name):
        return None
    return next((found for part, found in quant.overrides.items() if names([part], name)), quant.weight_format)


def names(parts: list[str], name: str) -> bool:
    """Whether one of these names the layer, by the rule that transformers applies to the modules it is to skip."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    return not should_convert_module(name, parts)


def as_loaded(model: ModelConfig, quant: QuantConfig) -> ModelConfig:
    """The model with the dtype that it has once it is loaded: a cast replaces its own."""
    return replace(model, dtype=CASTS[quant.weight_format]) if quant.method is QuantMethod.cast else model


def computed_in(model: ModelConfig, quant: QuantConfig) -> Dtype:
    """The dtype of the matrix products."""
    own = quant.compute_dtype if quant.method is QuantMethod.bnb_4bit else None
    return own or as_loaded(model, quant).dtype


def loader_config(quant: QuantConfig, model: ModelConfig, layers: Iterable[str] = ()) -> object | None:
    """The `quantization_config` of from_pretrained: BitsAndBytesConfig, QuantoConfig, TorchAoConfig or None.

    layers: the names of the model's linear layers, which a mixed recipe is spelled out for. For hqq, which transformers
    cannot load, see `models.hqq`.

    Four-bit recipes multiply in `quant.compute_dtype`, else in the model's dtype. The other methods take no such
    argument: their activations have the model's dtype. LLM.int8() rounds them to float16 and int8 within each product
    (Dettmers et al. 2022, arXiv:2208.07339).
    """
    from transformers import BitsAndBytesConfig, QuantoConfig

    match quant.method:
        case QuantMethod.none | QuantMethod.cast | QuantMethod.hqq:
            return None
        case QuantMethod.bnb_int8:
            return BitsAndBytesConfig(
                load_in_8bit=True,
                llm_int8_threshold=quant.int8_threshold,
                llm_int8_skip_modules=quant.skip_modules,
            )
        case QuantMethod.bnb_4bit:
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=str(quant.weight_format),
                bnb_4bit_use_double_quant=quant.double_quant,
                bnb_4bit_compute_dtype=str(quant.compute_dtype or model.dtype),
                llm_int8_skip_modules=quant.skip_modules,
            )
        case QuantMethod.quanto:
            return QuantoConfig(weights=str(quant.weight_format), modules_to_not_convert=quant.skip_modules)
        case QuantMethod.torchao | QuantMethod.torchao_dynamic:
            return _torchao_config(quant, layers)
        case QuantMethod.gptq | QuantMethod.awq | QuantMethod.fp8 | QuantMethod.compressed_tensors | QuantMethod.gguf:
            raise AssertionError(f"{quant.name}: its weights are quantized before they are loaded")
        case _:
            assert_never(quant.method)


def _torchao_config(quant: QuantConfig, layers: Iterable[str]) -> object:
    from transformers import TorchAoConfig

    # transformers 5.23 holds the names against those of weights here, where a module's own name ends no weight's.
    skipped = [*quant.skip_modules, *(f"{name}.weight" for name in quant.skip_modules)]
    if not quant.overrides:
        return TorchAoConfig(_torchao_type(quant, quant.weight_format), modules_to_not_convert=skipped)
    mixed = {name: layer_format(quant, name) for name in layers}
    types = {name: _torchao_type(quant, found) for name, found in mixed.items() if found is not None}
    by_name = import_module("torchao.quantization").FqnToConfig(types)
    return TorchAoConfig(by_name, modules_to_not_convert=skipped)


def _torchao_type(quant: QuantConfig, weight_format: WeightFormat) -> object:
    """Weight-only but for torchao_dynamic; a scale a row, or for int4 a group. Of its int4 packings the one that torch
    itself multiplies, where the others need a library more. torchao would also set torch's inductor and its float32
    products for the process.
    """
    library: Any = import_module("torchao.quantization")
    if quant.method is QuantMethod.torchao_dynamic:
        return library.Float8DynamicActivationFloat8WeightConfig(
            granularity=library.PerRow(), set_inductor_config=False
        )
    if weight_format is WeightFormat.int4:
        return library.Int4WeightOnlyConfig(
            group_size=quant.group_size, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    int8 = weight_format is WeightFormat.int8
    return (library.Int8WeightOnlyConfig if int8 else library.Float8WeightOnlyConfig)(set_inductor_config=False)


def steps_can_be_graphs(quant: QuantConfig) -> bool:
    """Whether a decoding step can be captured as a CUDA graph: LLM.int8() looks for outliers on the host in each."""
    return quant.method is not QuantMethod.bnb_int8


def unsavable(quant: QuantConfig) -> str | None:
    """Why the recipe's quantized weights cannot be stored and loaded again; None where they can."""
    match quant.method:
        case (
            QuantMethod.cast
            | QuantMethod.bnb_int8
            | QuantMethod.bnb_4bit
            | QuantMethod.torchao
            | QuantMethod.torchao_dynamic
            | QuantMethod.gptq
            | QuantMethod.awq
            | QuantMethod.fp8
            | QuantMethod.compressed_tensors
        ):
            return None
        case QuantMethod.gguf:
            return "transformers has unpacked the weights, which would be stored in full"
        case QuantMethod.none:
            return "it quantizes nothing"
        case QuantMethod.quanto:
            return "quanto's weights come back from transformers' loader as noise, without an error"
        case QuantMethod.hqq:
            return "transformers' loader does not read hqq's weights"
        case _:
            assert_never(quant.method)


def library(quant: QuantConfig) -> str | None:
    """The distribution that does the quantizing."""
    return LIBRARIES[quant.method]


def lacking_library(quant: QuantConfig) -> str | None:
    """What to install for the recipe; None where nothing. Found, not imported: bitsandbytes alone takes seconds."""
    name = library(quant)
    if name is None or _installed(MODULES[name]):
        return None
    return f"quant '{quant.name}' needs {name}, which is not installed: pip install {INSTALLS[name]}"


def _installed(module: str) -> bool:
    parent, _, _ = module.rpartition(".")
    return (not parent or find_spec(parent) is not None) and find_spec(module) is not None
