"""Whether a recipe makes sense, and whether it can run here on this model. No torch, no loading."""

from collections.abc import Collection, Iterator, Sequence

from bioquant import quantization
from bioquant.config import Device, Dtype, ModelConfig, QuantConfig, QuantMethod, WeightFormat
from bioquant.errors import QuantError, unknown
from bioquant.quantization import (
    BNB_BLOCKS,
    CASTS,
    FORMATS,
    GROUP_SIZES,
    GROUPED,
    MIXING,
    ONLY_PUBLISHED,
    TORCHAO_GROUPS,
    calibrates,
    grouped,
    is_published,
    names,
)


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
    if needs.dtype is not None and model.dtype is not needs.dtype:
        return f"{who} needs model.dtype={needs.dtype}, not {model.dtype}"
    if quant.method is QuantMethod.cast and model.dtype is CASTS[quant.weight_format]:
        return f"{who} changes nothing in model '{model.name}', whose dtype is {model.dtype}"
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
    for key, weight_format in (("weight_format", quant.weight_format), *_override_keys(quant)):
        if weight_format not in FORMATS[quant.method]:
            what = f"quant '{quant.name}': with method '{quant.method}' the {key}"
            raise QuantError(unknown(what, weight_format, FORMATS[quant.method]))
    lacking = None if by_vllm and is_published(quant) else quantization.lacking_library(quant)
    reason = _without_effect(quant) or _wrong_size(quant) or _unset(quant) or lacking
    if reason is not None:
        raise QuantError(reason)


def _override_keys(quant: QuantConfig) -> Iterator[tuple[str, WeightFormat]]:
    return ((f"overrides.{name}", weight_format) for name, weight_format in quant.overrides.items())


def _without_effect(quant: QuantConfig) -> str | None:
    """A setting that this recipe would not heed. What may be given to a sweep over several recipes (group size,
    calibration; block size and compute dtype, by the baseline) is passed over: it is no part of the others' identity.
    """
    who, method = f"quant '{quant.name}'", quant.method
    allowed = method in (QuantMethod.bnb_4bit, QuantMethod.none)
    if quant.compute_dtype is not None and not allowed:
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
    if is_published(quant) and quant.skip_modules != QuantConfig().skip_modules:
        return f"{who}: skip_modules has no effect on a checkpoint that is quantized already: leave it out."
    if quant.block_size is not None and not allowed:
        other = "set quant.group_size instead" if grouped(quant) else "leave it out"
        return f"{who}: block_size={quant.block_size} has no effect with method '{method}': {other}."
    return None


def _wrong_size(quant: QuantConfig) -> str | None:
    """A group or block size that the method has not."""
    who, size, block = f"quant '{quant.name}'", quant.group_size, quant.block_size
    if block is not None and block not in BNB_BLOCKS:
        return f"{who}: block_size={block} is not one that bitsandbytes has: choose from {_listed(BNB_BLOCKS)}."
    if not grouped(quant):
        return None
    if quant.method in GROUPED and size not in GROUP_SIZES:
        return f"{who}: group_size={size} is not one that gptqmodel has: choose from {_listed(GROUP_SIZES)}."
    if quant.method is QuantMethod.torchao and size not in TORCHAO_GROUPS:
        return f"{who}: group_size={size} is not one that torchao's int4 has: choose from {_listed(TORCHAO_GROUPS)}."
    if size is None or size < 8 or size % 8:
        return f"{who}: group_size={size} is not one that hqq has: give a multiple of 8."
    return None


def _unset(quant: QuantConfig) -> str | None:
    """A setting that the recipe cannot do without."""
    who, text = f"quant '{quant.name}'", quant.calibration
    if quant.method in ONLY_PUBLISHED and not is_published(quant):
        return (
            f"{who}: by method '{quant.method}' nothing is quantized here: set quant.requires.calibrated=true, which "
            "loads a published checkpoint."
        )
    if calibrates(quant) and (text.task is None) == (text.file is None):
        return (
            f"{who} needs a text to be calibrated on: set quant.calibration.task=TASK, whose few-shot pool it is then, "
            "or quant.calibration.file=FILE.txt, and not both."
        )
    return None


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def check_overrides(quant: QuantConfig, layers: Collection[str]) -> None:
    """Whether each of `quant.overrides` names one of a model's linear layers. Raises QuantError."""
    for part in quant.overrides:
        if not any(names([part], name) for name in layers):
            last = sorted({name.rpartition(".")[2] for name in layers})
            raise QuantError(unknown(f"quant '{quant.name}': in quant.overrides the module", part, last))
