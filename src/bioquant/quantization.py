"""A quantization recipe → what the transformers loader needs, and what cannot run here. No torch, no loading."""

from importlib import import_module
from importlib.util import find_spec
from typing import assert_never

from bioquant.config import (
    Device,
    Dtype,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    WeightFormat,
)
from bioquant.errors import QuantError, unknown

FORMATS = {
    QuantMethod.none: (WeightFormat.none,),
    QuantMethod.bnb_int8: (WeightFormat.int8,),
    QuantMethod.bnb_4bit: (WeightFormat.nf4, WeightFormat.fp4),
    QuantMethod.quanto: (WeightFormat.int8, WeightFormat.int4),
    QuantMethod.torchao: (WeightFormat.int8, WeightFormat.fp8),
    QuantMethod.gptq: (WeightFormat.int4,),
    QuantMethod.awq: (WeightFormat.int4,),
    QuantMethod.fp8: (WeightFormat.fp8,),
    QuantMethod.compressed_tensors: (WeightFormat.int4, WeightFormat.int8, WeightFormat.fp8),
    QuantMethod.gguf: (WeightFormat.gguf,),
}
"""The weight formats each method has."""

LIBRARIES = {
    QuantMethod.none: None,
    QuantMethod.bnb_int8: "bitsandbytes",
    QuantMethod.bnb_4bit: "bitsandbytes",
    QuantMethod.quanto: "optimum-quanto",
    QuantMethod.torchao: "torchao",
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
    "torchao": "torchao",
    "gptqmodel": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
    "gguf": "gguf",
}
"""What each of these distributions is imported as."""

INSTALLS = {
    "bitsandbytes": "bitsandbytes",
    "optimum-quanto": "optimum-quanto",
    "torchao": "'bioquant[torchao]'",
    "gptqmodel": "'bioquant[gptq]'",
    "compressed-tensors": "'bioquant[compressed-tensors]'",
    "gguf": "gguf",
}
"""What pip is asked for: transformers imports torchao wherever it is installed, which takes every process 2 s."""

ONLY_PUBLISHED = frozenset({QuantMethod.awq, QuantMethod.fp8, QuantMethod.compressed_tensors, QuantMethod.gguf})
"""Methods that nothing here quantizes by."""

GROUPED = frozenset({QuantMethod.gptq, QuantMethod.awq})
"""Methods that need `quant.group_size`."""

GROUP_SIZES = (16, 32, 64, 128)
"""Those that gptqmodel's kernels have on a CPU and on CUDA alike."""


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
    return (
        unmet_by_device(quant, device, capability)
        or _unmet_by_model(quant, model)
        or _unmet_dtype(quant, model, device)
    )


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
    if needs.calibrated and quant.name not in model.calibrated:
        named = ", ".join(model.calibrated) or "none"
        return (
            f"{who} needs a published checkpoint, of which model '{model.name}' names {named} "
            f"(++model.calibrated.{quant.name}=org/name@commit adds one)"
        )
    if size is not None and needs.min_parameters is not None and size < needs.min_parameters:
        return f"{who} is for models of at least {needs.min_parameters:,} parameters ('{model.name}': {size:,})"
    if size is not None and needs.max_parameters is not None and size > needs.max_parameters:
        return f"{who} is for models of at most {needs.max_parameters:,} parameters ('{model.name}': {size:,})"
    return None


def _unmet_dtype(quant: QuantConfig, model: ModelConfig, device: Device) -> str | None:
    """Transformers would load the model in float16 without a word, and the baseline in another dtype."""
    if quant.method is not QuantMethod.awq or device is not Device.cuda or model.dtype is Dtype.float16:
        return None
    return (
        f"quant '{quant.name}' computes in float16 on cuda, the model in {model.dtype} (model.dtype=float16 makes them "
        "alike)"
    )


def _or_device(quant: QuantConfig, device: Device) -> str:
    return " or another engine.device" if device not in quant.requires.devices else ""


def check_recipe(quant: QuantConfig, *, by_vllm: bool = False) -> None:
    """Whether the recipe makes sense, wherever it runs, and its library is installed. Raises QuantError.

    by_vllm: it is vLLM that loads the weights, which needs no library for those that are quantized already.
    """
    formats = FORMATS[quant.method]
    if quant.weight_format not in formats:
        what = f"quant '{quant.name}': with method '{quant.method}' the weight_format"
        raise QuantError(unknown(what, quant.weight_format, formats))
    lacking = None if by_vllm and is_published(quant) else lacking_library(quant)
    reason = _without_effect(quant) or _unset(quant) or lacking
    if reason is not None:
        raise QuantError(reason)


def _without_effect(quant: QuantConfig) -> str | None:
    """A setting that this recipe would not heed. What only GPTQ has (group size, calibration) may be given to a sweep
    over several recipes: it is no part of the others' identity.
    """
    who = f"quant '{quant.name}'"
    if quant.compute_dtype is not None and quant.method is not QuantMethod.bnb_4bit:
        return (
            f"{who}: compute_dtype={quant.compute_dtype} has no effect with method '{quant.method}', "
            "which computes in the model's dtype: set model.dtype instead."
        )
    if is_published(quant) and quant.skip_modules != QuantConfig().skip_modules:
        return f"{who}: skip_modules has no effect on a checkpoint that is quantized already: leave it out."
    return None


def _unset(quant: QuantConfig) -> str | None:
    """A setting that the recipe cannot do without."""
    who, text = f"quant '{quant.name}'", quant.calibration
    if quant.method in ONLY_PUBLISHED and not is_published(quant):
        return (
            f"{who}: by method '{quant.method}' nothing is quantized here: set quant.requires.calibrated=true, which "
            "loads a published checkpoint."
        )
    if quant.method in GROUPED and quant.group_size not in GROUP_SIZES:
        return (
            f"{who}: quant.group_size={quant.group_size} is not allowed with method '{quant.method}'. Choose from: "
            f"{', '.join(map(str, GROUP_SIZES))}."
        )
    if calibrates(quant) and (text.task is None) == (text.file is None):
        return (
            f"{who} needs a text to be calibrated on: set quant.calibration.task=TASK, whose few-shot pool it is then, "
            "or quant.calibration.file=FILE.txt, and not both."
        )
    return None


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


def loading_options(quant: QuantConfig) -> dict[str, bool]:
    """What is added to a published checkpoint's own quantization_config, so that it is loaded as `dequantizes` says."""
    match quant.method:
        case QuantMethod.fp8:
            return {"dequantize": True}
        case QuantMethod.compressed_tensors:
            return {"use_optimized_inference": True}
        case _:
            return {}


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
        case QuantMethod.gptq | QuantMethod.awq | QuantMethod.fp8 | QuantMethod.compressed_tensors | QuantMethod.gguf:
            raise AssertionError(f"{quant.name}: its weights are quantized before they are loaded")
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
    """Whether a decoding step can be captured as a CUDA graph: LLM.int8() looks for outliers on the host in each.

    Of gptqmodel's kernels it is not known: they were not run on a GPU.
    """
    return quant.method not in (QuantMethod.bnb_int8, QuantMethod.gptq, QuantMethod.awq)


def unsavable(quant: QuantConfig) -> str | None:
    """Why the recipe's quantized weights cannot be stored and loaded again; None where they can."""
    match quant.method:
        case (
            QuantMethod.bnb_int8
            | QuantMethod.bnb_4bit
            | QuantMethod.torchao
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
