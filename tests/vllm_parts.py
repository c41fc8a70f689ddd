"""vLLM's stand-in on the path, and a small checkpoint for it: fixtures of every test of `engine=vllm`."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bioquant import loading
from bioquant.config import RunConfig
from bioquant.models import random
from bioquant.plan import versions
from test_compose import composed

STAND_IN = Path(__file__).parent / "vllm_stand_in"
VERSIONS = {"vllm": "0.33.0", "vllm_bnb_plugin": "0.0.3"}
CONTEXT = 512


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of safetensors: a tiny model whose answers differ from prompt to prompt."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=random.BOS_ID,
        eos_token_id=random.END_ID,
        pad_token_id=random.PAD_ID,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    random.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def quantized_beforehand(checkpoint: Path, tmp_path: Path) -> Path:
    """The same, its config.json saying that it holds GPTQ weights."""
    folder = tmp_path / "gptq"
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    said = {"quant_method": "gptq", "bits": 8, "group_size": 128}
    path.write_text(json.dumps(fields | {"quantization_config": said}), encoding="utf-8")
    return folder


@pytest.fixture
def vllm_path(tmp_path: Path) -> str:
    """What PYTHONPATH must hold for the stand-in to be installed."""
    for name, version in VERSIONS.items():
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return f"{STAND_IN}{os.pathsep}{tmp_path}"


@pytest.fixture
def vllm_installed(vllm_path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in in this process; afterwards as if it had never been."""
    for place in vllm_path.split(os.pathsep):
        monkeypatch.syspath_prepend(place)
    versions.cache_clear()
    with mock.patch.dict(os.environ):
        yield
    versions.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in VERSIONS]:
        del sys.modules[name]


def configured(folder: Path, *overrides: str) -> RunConfig:
    """A cell of this checkpoint, by vLLM unless the overrides say otherwise."""
    model = ("model=tiny_random", "model.source=local", f"model.id={folder}", f"model.context_length={CONTEXT}")
    return composed(*model, "engine=vllm", "engine.device=cpu", *overrides)


def model_of(folder: Path, *overrides: str) -> Any:
    """The engine around the loaded checkpoint."""
    return loading.load(configured(folder, *overrides)).model
