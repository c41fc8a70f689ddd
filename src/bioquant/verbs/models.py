"""`bioquant models`: what can be chosen as `model=`."""

import argparse
from collections.abc import Sequence

from bioquant import checkpoints, compose, tables
from bioquant.config import ModelConfig, ModelSource

HEADINGS = ("model", "domain", "source", "parameters", "dtype", "licence", "gated", "cached", "published as")

UNPACKED = (ModelSource.gguf, ModelSource.wheel)
"""Sources whose weights are in a GGUF file: they are dequantized when it is converted."""

ONLY_JSON = ("source", "dtype")


def main(arguments: Sequence[str]) -> None:
    """List the models."""
    parser = argparse.ArgumentParser(prog="bioquant models", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    models: dict[str, ModelConfig] = compose.options("model", ModelConfig)
    tables.show(HEADINGS, [line(model) for model in models.values()], as_json=options.json, only_json=ONLY_JSON)


def line(model: ModelConfig) -> list[str]:
    """One model's row."""
    cached = "yes" if checkpoints.is_cached(model) else "no"
    gated = "yes" if model.gated else "no"
    return [
        model.name,
        str(model.domain),
        f"{model.source}, dequantized" if model.source in UNPACKED else str(model.source),
        size(model.num_parameters),
        str(model.dtype),
        model.licence,
        gated,
        cached,
        ", ".join(model.calibrated) or "-",
    ]


def size(num_parameters: int | None) -> str:
    """135M, 8.0B, 300K; a dash where it is not known."""
    if num_parameters is None:
        return "-"
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.3g}{letter}"
    return str(num_parameters)
