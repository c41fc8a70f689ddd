"""Blocks of another size in bitsandbytes' 4-bit formats: read off the loaded model, stored and loaded again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bioquant import memory, models
from bioquant.config import Device, ModelSource
from bioquant.errors import QuantError
from bioquant.models import saved
from recipes import QUANTS
from test_models import NONE, TINY, logits, message


@pytest.mark.parametrize("name", ["bnb_nf4", "bnb_nf4_dq", "bnb_fp4"])
@pytest.mark.parametrize("block_size", [32, 128])
def test_the_loaded_layers_have_blocks_of_that_size(name: str, block_size: int):
    quant = replace(QUANTS[name], block_size=block_size)
    loaded = models.load(TINY, quant, Device.cpu)
    network: Any = loaded.model
    assert network.model.layers[0].mlp.down_proj.weight.quant_state.blocksize == block_size
    assert loaded.report.replaced == {"Linear4bit": 14}
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(TINY), quant, Device.cpu)
    assert not torch.equal(logits(loaded), logits(models.load(TINY, QUANTS[name], Device.cpu)))


def test_its_own_size_said_out_loud_is_the_same_model():
    said, unsaid = (models.load(TINY, replace(QUANTS["bnb_nf4"], block_size=size), Device.cpu) for size in (64, None))
    assert said.report == unsaid.report
    assert torch.equal(logits(said), logits(unsaid))


def test_a_block_that_is_longer_than_a_row():
    quant = replace(QUANTS["bnb_nf4"], block_size=256)
    assert message(QuantError, TINY, quant) == (
        "quant 'bnb_nf4': block_size=256 does not divide the 128 columns of model.layers.0.self_attn.q_proj: "
        "give a smaller one."
    )


def test_stored_blocks_come_back_as_they_were(tmp_path: Path):
    full = models.load(TINY, NONE, Device.cpu)
    full.model.save_pretrained(tmp_path / "full")
    full.tokenizer.save_pretrained(tmp_path / "full")
    model = replace(TINY, source=ModelSource.local, id=str(tmp_path / "full"))
    quant = replace(QUANTS["bnb_nf4_dq"], block_size=128)
    saved.store(model, quant, Device.cpu, tmp_path / "stored")
    found = saved.load(model, quant, Device.cpu, tmp_path / "stored")
    assert torch.equal(logits(found), logits(models.load(model, quant, Device.cpu)))
    assert found.report.bytes_after == memory.weights(memory.anatomy(TINY), quant, Device.cpu)
