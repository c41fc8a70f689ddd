"""Quantized weights on disk: exactly what was quantized, and nothing of the full-precision checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch

from bioquant import models
from bioquant.config import Device, ModelConfig, QuantConfig
from bioquant.errors import ModelError, QuantError
from bioquant.models import saved
from test_compose import composed

TINY = composed("model=tiny_random").model


def recipe(name: str) -> QuantConfig:
    return composed(f"quant={name}").quant


def checkpoint(folder: Path) -> ModelConfig:
    """The tiny model as a folder of a user's own."""
    loaded = models.load(TINY, recipe("none"), Device.cpu)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return composed("model=tiny_random", "model.source=local", f"model.id={folder}").model


def logits(loaded: models.LoadedModel) -> torch.Tensor:
    ids = torch.tensor([loaded.tokenizer.encode("a cough")])
    with torch.inference_mode():
        return loaded.model(input_ids=ids).logits


@pytest.mark.parametrize("quant", ["bnb_int8", "bnb_nf4", "bnb_nf4_dq", "bnb_fp4"])
def test_the_stored_weights_are_those_that_were_quantized_and_need_no_other(tmp_path: Path, quant: str) -> None:
    model = checkpoint(tmp_path / "full")
    whole = models.load(model, recipe(quant), Device.cpu)
    saved.store(model, recipe(quant), Device.cpu, tmp_path / "stored")
    shutil.rmtree(tmp_path / "full")
    with pytest.raises(ModelError, match="full"):
        models.load(model, recipe(quant), Device.cpu)
    found = saved.load(model, recipe(quant), Device.cpu, tmp_path / "stored")
    assert torch.equal(logits(found), logits(whole))
    assert found.report.replaced == whole.report.replaced
    assert found.report.bytes_after == whole.report.bytes_after
    assert not [
        path for path in (tmp_path / "stored").iterdir() if path.suffix not in (".safetensors", ".json", ".jinja")
    ]


@pytest.mark.parametrize(
    ("quant", "reason"),
    [
        ("none", "it quantizes nothing"),
        ("quanto_int8", "quanto's weights come back from transformers' loader as noise, without an error"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, quant: str, reason: str) -> None:
    with pytest.raises(QuantError) as caught:
        saved.store(TINY, recipe(quant), Device.cpu, tmp_path / "stored")
    assert str(caught.value) == (
        f"registry.save_weights=true: quant '{quant}' cannot be stored: {reason}. Leave it out: the version then "
        "quantizes the model when it is loaded."
    )
    assert not (tmp_path / "stored").exists()


def test_weights_that_come_back_different_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = models.load(TINY, recipe("none"), Device.cpu)
    monkeypatch.setattr(saved, "load", lambda *_: other)
    with pytest.raises(QuantError, match=r"comes back from disk with other logits \(up to .* apart\)"):
        saved.store(TINY, recipe("bnb_nf4"), Device.cpu, tmp_path / "stored")
