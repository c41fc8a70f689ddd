"""A quantization recipe → what the transformers loader needs, and what cannot run here. No torch, no loading."""

from importlib import import_module
from importlib.util import find_spec
from typing import assert_never

from bioquant.config import Device, ModelConfig, QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import QuantError, unknown

FORMATS = {
    QuantMethod.none: (WeightFormat.none,),
    QuantMethod.bnb_int8: (WeightFormat.int8,),
    QuantMethod.bnb_4bit: (WeightFormat.nf4, WeightFormat.fp4),
    QuantMethod.quanto: (WeightFormat.int8, WeightFormat.int4),
    QuantMethod.torchao: (WeightFormat.int8, WeightFormat.fp8),
}
"""The weight formats each method has."""

LIBRARIES = {
    QuantMethod.none: None,
    QuantMethod.bnb_int8: "bitsandbytes",
    QuantMethod.bnb_4bit: "bitsandbytes",
    QuantMethod.quanto: "optimum-quanto",
    QuantMethod.torchao: "torchao",
}
"""The distribution each method needs."""

MODULES = {"bitsandbytes": "bitsandbytes", "optimum-quanto": "optimum.quanto", "torchao": "torchao"}
"""What each of these distributions is imported as."""

INSTALLS = {"bitsandbytes": "bitsandbytes", "optimum-quanto": "optimum-quanto", "torchao": "'bioquant[torchao]'"}
"""What pip is asked for: transformers imports torchao wherever it is installed, which takes every process 2 s."""


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
    if size is not None and needs.min_parameters is not None and size < needs.min_parameters:
        return f"{who} is for models of at least {needs.min_parameters:,} parameters ('{model.name}': {size:,})"
    if size is not None and needs.max_parameters is not None and size > needs.max_parameters:
        return f"{who} is for models of at most {needs.max_parameters:,} parameters ('{model.name}': {size:,})"
    return None


def _or_device(quant: QuantConfig, device: Device) -> str:
    return " or another engine.device" if device not in quant.requires.devices else ""


def check_recipe(quant: QuantConfig) -> None:
    """Whether the recipe makes sense, wherever it runs, and its library is installed. Raises QuantError."""
    formats = FORMATS[quant.method]
    if quant.weight_format not in formats:
        what = f"quant '{quant.name}': with method '{quant.method}' the weight_format"
        raise QuantError(unknown(what, quant.weight_format, formats))
    if quant.compute_dtype is not None and quant.method is not QuantMethod.bnb_4bit:
        raise QuantError(
            f"quant '{quant.name}': compute_dtype={quant.compute_dtype} has no effect with method '{quant.method}', "
            "which computes in the model's dtype: set model.dtype instead."
        )
    lacking = lacking_library(quant)
    if lacking is not None:
        raise QuantError(lacking)


def loader_config(quant: QuantConfig, model: ModelConfig) -> object | None:
    """The `quantization_config` of from_pretrained: BitsAndBytesConfig, QuantoConfig, TorchAoConfig or None.

    Four-bit recipes multiply in `quant.compute_dtype`, else in the model's dtype. The other methods take no such
    argument: their activations have the model's dtype. LLM.int8() rounds them to float16 and int8 within each product
    (Dettmers et al. 2022, arXiv:2208.07339).
    """
    from transformers import BitsAndBytesConfig, QuantoConfig

    match quant.method:
        case QuantMethod.none:
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
        case QuantMethod.torchao:
            return _torchao_config(quant)
        case _:
            assert_never(quant.method)


def _torchao_config(quant: QuantConfig) -> object:
    """Weight-only, a scale a row. torchao would also set torch's inductor and its float32 products for the process."""
    from transformers import TorchAoConfig

    library = import_module("torchao.quantization")
    # transformers 5.23 holds the names against those of weights here, where a module's own name ends no weight's.
    skipped = [*quant.skip_modules, *(f"{name}.weight" for name in quant.skip_modules)]
    int8 = quant.weight_format is WeightFormat.int8
    weight_only = library.Int8WeightOnlyConfig if int8 else library.Float8WeightOnlyConfig
    return TorchAoConfig(weight_only(set_inductor_config=False), modules_to_not_convert=skipped)


def steps_can_be_graphs(quant: QuantConfig) -> bool:
    """Whether a decoding step can be captured as a CUDA graph: LLM.int8() looks for outliers on the host in each."""
    return quant.method is not QuantMethod.bnb_int8


def unsavable(quant: QuantConfig) -> str | None:
    """Why the recipe's quantized weights cannot be stored and loaded again; None where they can."""
    match quant.method:
        case QuantMethod.bnb_int8 | QuantMethod.bnb_4bit | QuantMethod.torchao:
            return None
        case QuantMethod.none:
            return "it quantizes nothing"
        case QuantMethod.quanto:
            return "quanto's weights come back from transformers' loader as noise, without an error"
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
