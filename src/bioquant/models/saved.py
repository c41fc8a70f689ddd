"""Quantized weights on disk: stored once, loaded without the full-precision checkpoint. A save counts only when a
reload gives the same logits: some libraries give noise, and no error.
"""

import shutil
from pathlib import Path

import torch

from bioquant import checkpoints, models, quantization
from bioquant.config import Device, ModelConfig, QuantConfig
from bioquant.errors import QuantError
from bioquant.models import LoadedModel

PROBE = "A 54-year-old woman was given 20 mg of lisinopril for hypertension and developed a dry cough."
"""What both are asked. Read as it stands: no chat template, no task."""


def store(model: ModelConfig, quant: QuantConfig, device: Device, folder: Path, *, quantized: bool = False) -> None:
    """Quantize the model and write its weights, configuration and tokenizer to the folder, as safetensors.

    quantized: the model's checkpoint holds weights that this recipe has quantized: its files are copied, since a loaded
    layer may hold them in another order.
    Never holds the model twice. Raises QuantError where the recipe cannot be stored, or comes back different; what
    `models.load` raises.
    """
    reason = quantization.unsavable(quant)
    if reason is not None:
        raise QuantError(
            f"registry.save_weights=true: quant '{quant.name}' cannot be stored: {reason}. Leave it out: the version "
            "then quantizes the model when it is loaded."
        )
    written = models.prepare(model) if quantized else None
    expected = _save(models.load(model, quant, device, quantized=quantized), written, folder)
    found = _logits(load(model, quant, device, folder))
    if not torch.equal(expected, found):
        apart = (expected - found).abs().max().item()
        raise QuantError(
            f"registry.save_weights=true: quant '{quant.name}' of model '{model.name}' comes back from disk with other "
            f"logits (up to {apart:.3g} apart). Leave it out: the version then quantizes the model when it is loaded."
        )


def load(model: ModelConfig, quant: QuantConfig, device: Device, folder: Path) -> LoadedModel:
    """The model from its stored weights; the full-precision checkpoint is not looked for."""
    return models.load(checkpoints.in_folder(model, folder), quant, device, quantized=True)


def _save(loaded: LoadedModel, written: Path | None, folder: Path) -> torch.Tensor:
    """Its logits, computed once it is saved: bitsandbytes packs its layers anew when they compute.

    written: where the files are already.
    """
    if written is not None:
        shutil.copytree(written, folder, dirs_exist_ok=True)
        return _logits(loaded)
    with models.quiet():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return _logits(loaded)


@torch.inference_mode()
def _logits(loaded: LoadedModel) -> torch.Tensor:
    """(tokens, vocabulary), on the CPU."""
    ids = torch.tensor([loaded.tokenizer.encode(PROBE)], device=loaded.device)
    return loaded.model(input_ids=ids).logits[0].float().cpu()
