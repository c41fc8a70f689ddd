"""A quantization recipe → what the transformers loader needs, and what cannot run here. No torch, no loading."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, assert_never

from bioquant.config import Device, Dtype, ModelConfig, QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import QuantError, unknown

FORMATS = {
    QuantMethod.none: (WeightFormat.none,),
    QuantMethod.cast: (WeightFormat.bf16, WeightFormat.fp16),
    QuantMethod.bnb_int8: (WeightFormat.int8,),
    QuantMethod.bnb_4bit: (WeightFormat.nf4, WeightFormat.fp4),
    QuantMethod.quanto: (WeightFormat.int8, WeightFormat.int4),
    QuantMethod.hqq: (WeightFormat.int8, WeightFormat.int4, WeightFormat.int3, WeightFormat.int2),
    QuantMethod.torchao: (WeightFormat.int8, WeightFormat.fp8, WeightFormat.int4),
    QuantMethod.torchao_dynamic: (WeightFormat.fp8,),
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
}
"""The distribution each method needs."""

MODULES = {"bitsandbytes": "bitsandbytes", "optimum-quanto": "optimum.quanto", "hqq": "hqq", "torchao": "torchao"}
"""What each of these distributions is imported as."""

INSTALLS = {
    "bitsandbytes": "bitsandbytes",
    "optimum-quanto": "optimum-quanto",
    "hqq": "'bioquant[hqq]'",
    "torchao": "'bioquant[torchao]'",
}
"""What pip is asked for: transformers imports hqq and torchao wherever they are, which takes every process seconds."""


def check(quant: QuantConfig, model: ModelConfig, device: Device, capability: float | None) -> None:
    """Whether the recipe makes sense and can run on this device (see `unmet`). Raises QuantError."""
    check_recipe(quant)
    reason = unmet(quant, model, device, capability)
    if reason is not None:
        raise QuantError(f"{reason}: choose another recipe{_or_device(quant, device)}.")


def unmet(quant: QuantConfig, model: ModelConfig, device: Device, capability: float | None) -> str | None:
    """What of `quant.requires` this model or device has not, in words; None where nothing is missing.

    device: cpu or cuda. capability: the CUDA device's; None where it is not known, and then nothing is said of it.
    """
    return unmet_by_device(quant, device, capability) or _unmet_by_model(quant, model)


def unmet_by_device(quant: QuantConfig, device: Device, capability: float | None) -> str | None:
    """What of `quant.requires` this device has not, whatever the model."""
    needs, who = quant.requires, f"quant '{quant.name}'"
    if device not in needs.devices:
        return f"{who} does not run on {device} (quant.requires.devices: {', '.join(needs.devices)})"
    if needs.compute_capability and capability is not None and capability < needs.compute_capability:
        wanted = f"quant.requires.compute_capability={needs.compute_capability}"
        return f"{who} needs a newer GPU ({wanted}, this one has {capability})"
    return None


def _unmet_by_model(quant: QuantConfig, model: ModelConfig) -> str | None:
    needs, size, who = quant.requires, model.num_parameters, f"quant '{quant.name}'"
    if needs.calibrated and quant.method not in model.calibrated:
        return f"{who} needs a checkpoint calibrated for {quant.method} (model.calibrated of '{model.name}')"
    if needs.dtype is not None and model.dtype is not needs.dtype:
        return f"{who} needs model.dtype={needs.dtype}, not {model.dtype}"
    if quant.method is QuantMethod.cast and model.dtype is CASTS[quant.weight_format]:
        return f"{who} changes nothing in model '{model.name}', whose dtype is {model.dtype}"
    if size is not None and needs.min_parameters is not None and size < needs.min_parameters:
        return f"{who} is for models of at least {needs.min_parameters:,} parameters ('{model.name}': {size:,})"
    if size is not None and needs.max_parameters is not None and size > needs.max_parameters:
        return f"{who} is for models of at most {needs.max_parameters:,} parameters ('{model.name}': {size:,})"
    return None


def _or_device(quant: QuantConfig, device: Device) -> str:
    return " or another engine.device" if device not in quant.requires.devices else ""


def check_recipe(quant: QuantConfig) -> None:
    """Whether the recipe makes sense, wherever it runs, and its library is installed. Raises QuantError."""
    for key, weight_format in (("weight_format", quant.weight_format), *_override_keys(quant)):
        if weight_format not in FORMATS[quant.method]:
            what = f"quant '{quant.name}': with method '{quant.method}' the {key}"
            raise QuantError(unknown(what, weight_format, FORMATS[quant.method]))
    reason = _senseless(quant) or lacking_library(quant)
    if reason is not None:
        raise QuantError(reason)


def _override_keys(quant: QuantConfig) -> Iterator[tuple[str, WeightFormat]]:
    return ((f"overrides.{name}", weight_format) for name, weight_format in quant.overrides.items())


def _senseless(quant: QuantConfig) -> str | None:
    """A setting that its method would ignore or refuse, in words."""
    who, method = f"quant '{quant.name}'", quant.method
    if quant.compute_dtype is not None and method is not QuantMethod.bnb_4bit:
        return (
            f"{who}: compute_dtype={quant.compute_dtype} has no effect with method '{method}', "
            "which computes in the model's dtype: set model.dtype instead."
        )
    if method is QuantMethod.cast and quant.skip_modules:
        return f"{who}: a cast is of every weight, so quant.skip_modules cannot be had: leave it out."
    if quant.overrides and method not in MIXING:
        return (
            f"{who}: method '{method}' quantizes all layers alike, so quant.overrides cannot be had: leave it out, "
            f"or choose a recipe of method {' or '.join(MIXING)}."
        )
    return _wrong_size(quant, who)


def _wrong_size(quant: QuantConfig, who: str) -> str | None:
    """A group or block size that there is not, or not of this size."""
    size, block = quant.group_size, quant.block_size
    if block is not None and quant.method is not QuantMethod.bnb_4bit:
        other = "set quant.group_size instead" if grouped(quant) else "leave it out"
        return f"{who}: block_size={block} has no effect with method '{quant.method}': {other}."
    if block is not None and block not in BNB_BLOCKS:
        return f"{who}: block_size={block} is not one that bitsandbytes has: choose from {_listed(BNB_BLOCKS)}."
    if not grouped(quant):
        other = "set quant.block_size instead" if quant.method is QuantMethod.bnb_4bit else "leave it out"
        return (
            None if size is None else f"{who}: group_size={size} has no effect with method '{quant.method}': {other}."
        )
    if quant.method is QuantMethod.torchao and size not in TORCHAO_GROUPS:
        return f"{who}: group_size={size} is not one that torchao's int4 has: choose from {_listed(TORCHAO_GROUPS)}."
    if size is None or size < 8 or size % 8:
        return f"{who}: group_size={size} is not one that hqq has: give a multiple of 8."
    return None


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def grouped(quant: QuantConfig) -> bool:
    """Whether groups of `quant.group_size` weights share a scale: in hqq, and in torchao's int4."""
    return quant.method is QuantMethod.hqq or (
        quant.method is QuantMethod.torchao and WeightFormat.int4 in formats(quant)
    )


def formats(quant: QuantConfig) -> set[WeightFormat]:
    """All that a model's linear layers are quantized to, for a mixed recipe more than one."""
    return {quant.weight_format, *quant.overrides.values()}


def layer_format(quant: QuantConfig, name: str) -> WeightFormat | None:
    """What the linear layer of this name is quantized to; None where `quant.skip_modules` leaves it alone."""
    if _names(quant.skip_modules, name):
        return None
    return next((found for part, found in quant.overrides.items() if _names([part], name)), quant.weight_format)


def _names(parts: list[str], name: str) -> bool:
    """Whether one of these names the layer, by the rule that transformers applies to the modules it is to skip."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    return not should_convert_module(name, parts)


def check_overrides(quant: QuantConfig, layers: Collection[str]) -> None:
    """Whether each of `quant.overrides` names one of a model's linear layers. Raises QuantError."""
    for part in quant.overrides:
        if not any(_names([part], name) for name in layers):
            last = sorted({name.rpartition(".")[2] for name in layers})
            raise QuantError(unknown(f"quant '{quant.name}': in quant.overrides the module", part, last))


def as_loaded(model: ModelConfig, quant: QuantConfig) -> ModelConfig:
    """The model with the dtype that it has once it is loaded: a cast replaces its own."""
    return replace(model, dtype=CASTS[quant.weight_format]) if quant.method is QuantMethod.cast else model


def computed_in(model: ModelConfig, quant: QuantConfig) -> Dtype:
    """The dtype of the matrix products."""
    return quant.compute_dtype or as_loaded(model, quant).dtype


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
        case QuantMethod.cast | QuantMethod.bnb_int8 | QuantMethod.bnb_4bit:
            return None
        case QuantMethod.torchao | QuantMethod.torchao_dynamic:
            return None
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
