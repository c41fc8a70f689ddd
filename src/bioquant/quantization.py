"""A quantization recipe → what the transformers loader needs, and what cannot run here. No torch, no loading."""

from importlib.util import find_spec
from typing import assert_never

from bioquant.config import Device, ModelConfig, QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import QuantError, unknown

FORMATS = {
    QuantMethod.none: (WeightFormat.none,),
    QuantMethod.bnb_int8: (WeightFormat.int8,),
    QuantMethod.bnb_4bit: (WeightFormat.nf4, WeightFormat.fp4),
    QuantMethod.quanto: (WeightFormat.int8, WeightFormat.int4),
}
"""The weight formats each method has."""

LIBRARIES = {
    QuantMethod.none: None,
    QuantMethod.bnb_int8: "bitsandbytes",
    QuantMethod.bnb_4bit: "bitsandbytes",
    QuantMethod.quanto: "optimum-quanto",
}
"""The distribution each method needs."""

MODULES = {"bitsandbytes": "bitsandbytes", "optimum-quanto": "optimum.quanto"}
"""What each of these distributions is imported as."""


def check(quant: QuantConfig, device: Device) -> None:
    """Whether the recipe makes sense and can run on this device (cpu or cuda). Raises QuantError."""
    formats = FORMATS[quant.method]
    if quant.weight_format not in formats:
        what = f"quant '{quant.name}': with method '{quant.method}' the weight_format"
        raise QuantError(unknown(what, quant.weight_format, formats))
    if quant.compute_dtype is not None and quant.method is not QuantMethod.bnb_4bit:
        raise QuantError(
            f"quant '{quant.name}': compute_dtype={quant.compute_dtype} has no effect with method '{quant.method}', "
            "which computes in the model's dtype: set model.dtype instead."
        )
    if device not in quant.devices:
        raise QuantError(
            f"quant '{quant.name}' does not run on {device} (quant.devices: {', '.join(quant.devices)}): "
            "choose another recipe or another engine.device."
        )
    _check_library(quant)


def loader_config(quant: QuantConfig, model: ModelConfig) -> object | None:
    """The `quantization_config` for transformers' from_pretrained: BitsAndBytesConfig, QuantoConfig or None.

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
        case _:
            assert_never(quant.method)


def steps_can_be_graphs(quant: QuantConfig) -> bool:
    """Whether a decoding step can be captured as a CUDA graph: LLM.int8() looks for outliers on the host in each."""
    return quant.method is not QuantMethod.bnb_int8


def library(quant: QuantConfig) -> str | None:
    """The distribution that does the quantizing."""
    return LIBRARIES[quant.method]


def _check_library(quant: QuantConfig) -> None:
    """Found, not imported: an import of bitsandbytes takes seconds."""
    name = library(quant)
    if name is not None and not _installed(MODULES[name]):
        raise QuantError(f"quant '{quant.name}' needs {name}, which is not installed: pip install {name}")


def _installed(module: str) -> bool:
    parent, _, _ = module.rpartition(".")
    return (not parent or find_spec(parent) is not None) and find_spec(module) is not None
