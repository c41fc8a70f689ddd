"""Weights that are calibrated here: quantized once, kept in the user's cache with a checksum of each file."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bioquant import checkpoints
from bioquant.config import ModelConfig, QuantConfig
from bioquant.files import write_json
from bioquant.models import gptq
from bioquant.models.kept import kept
from bioquant.places import cache_dir
from bioquant.plan import library_version

log = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
"""In the folder: SHA-256 of each other file."""

LIBRARIES = ("gptqmodel", "optimum", "transformers", "torch")
"""Whose versions decide what the weights become."""


def folder(model: ModelConfig, quant: QuantConfig, texts: Callable[[], Sequence[str]]) -> Path:
    """A checkpoint of the weights that this recipe makes of this model: from the cache where it is whole, else made.

    texts: what it is calibrated on, asked for where the weights are to be made. `quant.calibration.sha256` says which
    they are. Raises what loading the unquantized model raises, and QuantError where it cannot be quantized.
    """
    return kept(place(model, quant), partial(_fill, model, quant, texts), broken)


def _fill(model: ModelConfig, quant: QuantConfig, texts: Callable[[], Sequence[str]], made: Path) -> None:
    log.info("model '%s': quantizing to '%s' once, into %s", model.name, quant.name, made.parent)
    started = time.perf_counter()
    gptq.quantize(model, quant, texts(), made)
    write_json(made / CHECKSUMS, {path.name: checkpoints.sha256(path) for path in sorted(made.iterdir())})
    log.info("model '%s': quantized to '%s' in %.0f s", model.name, quant.name, time.perf_counter() - started)


def broken(made: Path) -> str | None:
    """Which file is absent or not what it was when it was written; None where all are."""
    try:
        sums: dict[str, str] = json.loads((made / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{CHECKSUMS} cannot be read"
    for name, expected in sums.items():
        if not (made / name).is_file():
            return f"{name} is not there"
        if checkpoints.sha256(made / name) != expected:
            return f"{name} has another checksum"
    return None


def place(model: ModelConfig, quant: QuantConfig) -> Path:
    """By all that decides the weights: the model's files, the recipe, the digest of the text, the libraries."""
    text = quant.calibration
    decides = {
        "model": [*checkpoints.identity(model), str(model.dtype)],
        "recipe": [quant.method, quant.weight_format, quant.group_size, quant.desc_act, quant.skip_modules],
        "text": [text.sha256, text.num_samples, text.num_tokens],
        "versions": {name: library_version(name) for name in LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "quantized" / f"{model.name}-{quant.name}-{digest[:16]}"
