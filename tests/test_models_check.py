import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bioquant import models
from bioquant.config import Device, Dtype
from bioquant.errors import BrokenQuantError
from bioquant.models import check
from conftest import Command
from test_models import NONE, QUANTS, SMOLLM2, TINY

NF4 = QUANTS["bnb_nf4"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIOQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checks"


def test_perplexity_is_that_of_the_models_own_loss():
    loaded = models.load(TINY, NONE, Device.cpu)
    found = check.check(loaded, TINY, NONE)
    ids = torch.tensor([loaded.tokenizer.encode(check.TEXT)[: check.MOST_TOKENS]])
    network: Any = loaded.model
    with torch.inference_mode():
        loss = network(input_ids=ids, labels=ids).loss
    assert found.perplexity == pytest.approx(loss.exp().item(), rel=1e-4)
    assert (found.num_tokens, found.baseline_perplexity, found.kl) == (511, None, None)


def test_divergence_by_hand():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    by_hand = (0.5 * torch.tensor(0.5 / 0.25).log() + 0.5 * torch.tensor(0.5 / 0.75).log()).item() / 2
    assert check.divergence(p.log(), q.log()) == pytest.approx(by_hand)
    assert check.divergence(p.log(), p.log()) == 0


def test_a_recipe_is_held_against_the_baseline_and_the_baseline_against_nothing_new(cache: Path):
    expected = check.expected(TINY, Device.cpu)
    same = check.check(models.load(TINY, NONE, Device.cpu), TINY, NONE, expected)
    assert (same.kl, same.perplexity) == (0, same.baseline_perplexity)
    eight, four = (
        check.check(models.load(TINY, QUANTS[name], Device.cpu), TINY, QUANTS[name], expected)
        for name in ("quanto_int8", "bnb_nf4")
    )
    assert eight.kl is not None
    assert four.kl is not None
    assert 0 < eight.kl < four.kl
    assert eight.baseline_perplexity == four.baseline_perplexity == same.perplexity


def test_the_baseline_is_computed_once_for_what_decides_it(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = check.expected(TINY, Device.cpu)
    [kept] = cache.glob("*.safetensors")
    assert kept.name.startswith("tiny_random-")
    other = check.expected(replace(TINY, dtype=Dtype.bfloat16), Device.cpu)
    assert not torch.equal(first, other)
    assert len(list(cache.glob("*.safetensors"))) == 2
    monkeypatch.setattr(models, "load", None)
    assert torch.equal(check.expected(TINY, Device.cpu), first)


def test_logits_that_are_not_finite_end_it():
    loaded = models.load(TINY, NF4, Device.cpu)
    network: Any = loaded.model
    network.model.norm.weight.data[3] = float("inf")
    with pytest.raises(BrokenQuantError) as error:
        check.check(loaded, TINY, NF4)
    assert str(error.value) == (
        "quant 'bnb_nf4' of model 'tiny_random' gives logits that are not finite on cpu in float32: "
        "choose another recipe, or another model.dtype."
    )


def test_weights_that_unpack_themselves_end_it():
    loaded = models.load(TINY, QUANTS["quanto_int8"], Device.cpu)

    def unpack(module: torch.nn.Module, *_: object) -> None:
        module.register_buffer("unpacked", torch.zeros(100_000))

    loaded.model.register_forward_hook(unpack)
    before = loaded.report.bytes_after
    with pytest.raises(BrokenQuantError) as error:
        check.check(loaded, TINY, QUANTS["quanto_int8"])
    assert str(error.value) == (
        "quant 'quanto_int8' of model 'tiny_random' unpacks its weights when they are used: "
        f"{before:,} bytes have become {before + 400_000:,}. Choose another recipe."
    )


def test_a_model_that_has_lost_its_language_is_warned_of(caplog: pytest.LogCaptureFixture):
    loaded = models.load(TINY, NF4, Device.cpu)
    ids = torch.tensor(loaded.tokenizer.encode(check.TEXT)[: check.MOST_TOKENS])
    knows = torch.zeros(len(ids), TINY.architecture["vocab_size"])
    knows[torch.arange(len(ids) - 1), ids[1:]] = 20.0
    with caplog.at_level(logging.WARNING):
        found = check.check(loaded, TINY, NF4, knows.log_softmax(-1))
    [record] = caplog.records
    assert record.getMessage() == (
        f"quant 'bnb_nf4' of model 'tiny_random': perplexity {found.perplexity:.4g}, unquantized 1: "
        "it has lost its language"
    )


def test_a_run_keeps_what_was_checked(bioquant: Command, tmp_path: Path):
    asked = ("run", "quant.check=true", "model=tiny_random", "limit=2", "measure.latency_examples=0")
    result = bioquant(*asked, "quant=bnb_nf4", root=tmp_path, BIOQUANT_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    [scores] = (tmp_path / "multirun").glob("run_*/scores.json")
    found = json.loads(scores.read_text(encoding="utf-8"))["check"]
    assert found["num_tokens"] == 511
    assert found["kl"] > 0
    assert found["baseline_perplexity"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bnb_nf4", "bnb_nf4_dq"])
def test_smollm2_knows_the_text_and_four_bits_cost_it_something(cache: Path, name: str):
    quant = QUANTS[name]
    expected = check.expected(SMOLLM2, Device.cpu)
    found = check.check(models.load(SMOLLM2, quant, Device.cpu), SMOLLM2, quant, expected)
    assert found.kl is not None
    assert found.baseline_perplexity is not None
    assert 5 < found.baseline_perplexity < found.perplexity < 3 * found.baseline_perplexity
    assert 0.05 < found.kl < 1
