"""Checkpoints that are quantized already: which one a recipe loads, and whether it is what the recipe says."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bioquant import checkpoints, quantization
from bioquant.config import ModelConfig, ModelSource, QuantConfig, QuantMethod
from bioquant.errors import QuantError

log = logging.getLogger(__name__)

STORED_AS = {
    QuantMethod.bnb_int8: "bitsandbytes",
    QuantMethod.bnb_4bit: "bitsandbytes",
    QuantMethod.torchao: "torchao",
    QuantMethod.gptq: "gptq",
    QuantMethod.awq: "awq",
    QuantMethod.fp8: "fp8",
    QuantMethod.compressed_tensors: "compressed-tensors",
}
"""What a checkpoint's config.json calls each method (`quantization_config.quant_method`)."""

WEIGHT_FORMATS = {("int", 4): "int4", ("int", 8): "int8", ("float", 8): "fp8"}
"""By compressed-tensors' type of a weight and its bits."""


def source(model: ModelConfig, quant: QuantConfig) -> ModelConfig:
    """The model with the checkpoint whose files are fetched: a published one, else its own. Pure."""
    named = quantization.is_published(quant) and quant.name in model.calibrated
    return checkpoint(model, quant) if named else model


def checkpoint(model: ModelConfig, quant: QuantConfig) -> ModelConfig:
    """The model with the checkpoint that `model.calibrated` names for the recipe in place of its own. Pure.

    Raises QuantError where that is a GGUF file and the recipe's is none, or the other way round.
    """
    named = model.calibrated[quant.name]
    found = _path(model, named) if named.startswith(("/", "~", ".")) else _repository(model, named)
    if (found.source is ModelSource.gguf) is not (quant.method is QuantMethod.gguf):
        wanted = "no .gguf file" if found.source is ModelSource.gguf else "a .gguf file, as org/name/FILE.gguf"
        raise QuantError(f"{_who(found, quant)}: set model.calibrated.{quant.name} to {wanted}.")
    return found


def _path(model: ModelConfig, named: str) -> ModelConfig:
    source = ModelSource.gguf if named.endswith(".gguf") else ModelSource.local
    return replace(model, source=source, id=named, revision=None, file=None, sha256=None)


def _repository(model: ModelConfig, named: str) -> ModelConfig:
    """`org/name@revision`, or with the path of a file in it before the `@`."""
    where, _, revision = named.partition("@")
    parts = where.split("/")
    file = "/".join(parts[2:]) or None
    return replace(
        model,
        source=ModelSource.gguf if file else ModelSource.hub,
        id="/".join(parts[:2]),
        revision=revision or None,
        file=file,
        sha256=None,
    )


def check(model: ModelConfig, quant: QuantConfig, folder: Path, *, quantized: bool) -> None:
    """Whether the files of this checkpoint are what the recipe is to find there. Raises QuantError.

    quantized: whether the weights are to be quantized already.
    """
    stored = checkpoints.stored_quantization(model, folder)
    if not quantized:
        _check_untouched(model, quant, stored)
    elif quant.method is not QuantMethod.gguf:
        _check_method(model, quant, stored)
        _check_settings(model, quant, stored or {})


def _check_untouched(model: ModelConfig, quant: QuantConfig, stored: Mapping[str, Any] | None) -> None:
    if stored is None:
        return
    if quant.method is QuantMethod.none:
        log.warning(
            "model '%s': its checkpoint is quantized already (%s), and stays so: this is no unquantized baseline",
            *(model.name, stored["quant_method"]),
        )
        return
    raise QuantError(
        f"quant '{quant.name}' cannot be applied to model '{model.name}', whose checkpoint is quantized already "
        f"({stored['quant_method']}): choose quant=none, which leaves it as it is."
    )


def _check_method(model: ModelConfig, quant: QuantConfig, stored: Mapping[str, Any] | None) -> None:
    if stored is None:
        raise QuantError(
            f"{_who(model, quant)} is not quantized (no quantization_config in its config.json): name one that is."
        )
    found = str(stored["quant_method"])
    if found != STORED_AS[quant.method]:
        raise QuantError(
            f"{_who(model, quant)} was quantized by {found}, not by {STORED_AS[quant.method]}: name another, or choose "
            "the recipe of that method."
        )


def _check_settings(model: ModelConfig, quant: QuantConfig, stored: Mapping[str, Any]) -> None:
    """What memory is predicted from has to be what the files hold."""
    if quant.method in quantization.GROUPED:
        for key in ("bits", "group_size"):
            if stored[key] != getattr(quant, key):
                raise QuantError(
                    f"{_who(model, quant)} has {key}={stored[key]}: set quant.{key}={stored[key]}, not "
                    f"{getattr(quant, key)}."
                )
    if quant.method is QuantMethod.compressed_tensors:
        found = _weight_formats(stored)
        if found != {str(quant.weight_format)}:
            raise QuantError(
                f"{_who(model, quant)} holds weights of {' and '.join(sorted(found))}: set quant.weight_format to that "
                f"(and quant.bits), not {quant.weight_format}."
            )


def _weight_formats(stored: Mapping[str, Any]) -> set[str]:
    """Of each group of layers; as compressed-tensors writes it where we have no name for it."""
    kinds = [(group["weights"]["type"], group["weights"]["num_bits"]) for group in stored["config_groups"].values()]
    return {WEIGHT_FORMATS.get(kind, f"{kind[0]} with {kind[1]} bits") for kind in kinds}


def _who(model: ModelConfig, quant: QuantConfig) -> str:
    return f"quant '{quant.name}': checkpoint '{model.id}' of model '{model.name}'"
