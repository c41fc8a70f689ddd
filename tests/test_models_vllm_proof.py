"""The proof of quantization, on models as vLLM holds them."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bioquant import compose, models
from bioquant.config import QuantConfig, RunConfig
from bioquant.errors import QuantError, QuantNotAppliedError
from bioquant.models import vllm, vllm_proof
from bioquant.records import QuantizationReport
from vllm_parts import configured

QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
NF4 = ("quant=bnb_nf4_dq", "model.dtype=bfloat16")
LAYERS = 2 * 7


def loaded(config: RunConfig) -> QuantizationReport:
    return vllm.load(config.model, config.quant, config.engine, "cpu").report


def test_an_unquantized_model(vllm_installed: None, checkpoint: Path) -> None:
    config = configured(checkpoint)
    found = loaded(config)
    assert (found.replaced, found.kept) == ({}, {"UnquantizedLinearMethod": LAYERS})
    ours = models.load(config.model, config.quant, config.engine.device).report
    assert (found.bytes_before, found.bytes_after) == (ours.bytes_before, ours.bytes_after)
    assert found.backend == "vllm 0.33.0 cpu"


def test_nf4_has_the_bytes_that_transformers_counts_without_double_quantization(
    vllm_installed: None, checkpoint: Path
) -> None:
    """The scales are held as float32, though double quantization has rounded them."""
    found = loaded(configured(checkpoint, *NF4))
    assert (found.replaced, found.kept) == ({"BitsAndBytesLinearMethod": LAYERS}, {})
    config = configured(checkpoint, "quant=bnb_nf4", "model.dtype=bfloat16", "engine=transformers")
    ours = models.load(config.model, config.quant, config.engine.device).report
    assert (found.bytes_before, found.bytes_after) == (ours.bytes_before, ours.bytes_after)
    assert found.backend.startswith("vllm 0.33.0 vllm-bnb-plugin 0.0.3 bitsandbytes ")
    assert found.backend.endswith(" cpu")


def test_a_checkpoint_quantized_beforehand_counts_plain_attributes_too(
    vllm_installed: None, quantized_beforehand: Path
) -> None:
    found = loaded(configured(quantized_beforehand))
    assert (found.replaced, found.kept) == ({"AutoGPTQLinearMethod": LAYERS}, {})
    rest = 2 * 264 * 128 * 4 + 5 * 128 * 4
    rows = 2 * (128 + 64 + 64 + 128 + 256 + 256 + 128)
    weights = 2 * (128 * (128 + 64 + 64 + 128) + 3 * 128 * 256)
    buffers = found.bytes_after - (rest + weights + rows * 4)
    assert 0 < buffers < 1000
    assert found.bytes_before == rest + weights * 4 + buffers
    assert found.backend == "vllm 0.33.0 gptq cpu"


def fused(states: dict[int, Any], method: str = "BitsAndBytesLinearMethod", *, rows: int = 12) -> nn.Module:
    """One linear layer of vLLM's, several weights fused in it, beside an embedding."""
    linear: Any = import_module("vllm.model_executor.layers.linear")
    layer: Any = linear.LinearBase.__new__(linear.LinearBase)
    nn.Module.__init__(layer)
    layer.input_size, layer.output_size, layer.has_bias = 8, rows, False
    layer.quant_method = type(method, (), {})()
    layer.weight = nn.Parameter(torch.zeros(rows * 8 // 2, 1, dtype=torch.uint8), requires_grad=False)
    layer.weight.bnb_quant_state = states
    return nn.ModuleList([layer, nn.Embedding(4, 8, dtype=torch.bfloat16)])


class State:
    def __init__(self, quant_type: str = "nf4") -> None:
        self.quant_type = quant_type
        self.absmax = torch.zeros(3)
        self.code = torch.zeros(16)


def reported(network: nn.Module, quant: str = "bnb_nf4_dq", stored: str | None = None) -> QuantizationReport:
    config = configured(Path("unused"), "model.dtype=bfloat16")
    return vllm_proof.report(network, config.model, QUANTS[quant], stored, "cuda:0")


def test_a_fused_layer_is_one_layer_with_a_state_for_each_of_its_weights(vllm_installed: None) -> None:
    found = reported(fused({0: State(), 1: State()}, rows=24))
    assert found.replaced == {"BitsAndBytesLinearMethod": 1}
    assert found.bytes_before == (24 * 8 + 4 * 8) * 2
    assert found.bytes_after == 24 * 8 // 2 + 2 * (3 + 16) * 4 + 4 * 8 * 2


def test_scales_of_8_bits_are_counted(vllm_installed: None) -> None:
    found = reported(fused({0: torch.zeros(6), 1: torch.zeros(6)}), "none", "bitsandbytes")
    assert found.bytes_after == 48 + 12 * 4 + 4 * 8 * 2


@pytest.mark.parametrize(
    ("network", "quant", "stored", "message"),
    [
        (
            lambda: fused({}, "UnquantizedLinearMethod"),
            "bnb_nf4_dq",
            None,
            "quant 'bnb_nf4_dq': vLLM loaded no quantized linear layers.",
        ),
        (
            lambda: fused({}, "UnquantizedLinearMethod"),
            "none",
            "awq",
            "quant 'none' of a checkpoint quantized beforehand (awq): vLLM loaded no quantized linear layers.",
        ),
        (
            lambda: fused({0: State()}),
            "none",
            None,
            "quant 'none': vLLM loaded 1 BitsAndBytesLinearMethod quantized linear layers.",
        ),
        (
            lambda: fused({0: State("fp4")}),
            "bnb_nf4_dq",
            None,
            "quant 'bnb_nf4_dq': vLLM loaded 1 BitsAndBytesLinearMethod with weights of type fp4, not "
            "BitsAndBytesLinearMethod with nf4.",
        ),
        (
            lambda: fused({}, "Fp8LinearMethod"),
            "bnb_nf4_dq",
            None,
            "quant 'bnb_nf4_dq': vLLM loaded 1 Fp8LinearMethod with weights of type none, not "
            "BitsAndBytesLinearMethod with nf4.",
        ),
        (
            lambda: fused({number: State() for number in range(4)}),
            "bnb_nf4_dq",
            None,
            "quant 'bnb_nf4_dq' left the weights at 416 bytes (256 unquantized).",
        ),
    ],
)
def test_a_recipe_that_did_not_take_effect_is_found_out(
    vllm_installed: None, network: Callable[[], nn.Module], quant: str, stored: str | None, message: str
) -> None:
    with pytest.raises(QuantNotAppliedError) as caught:
        reported(network(), quant, stored)
    assert str(caught.value) == message


def test_quantized_experts_are_refused(vllm_installed: None) -> None:
    network = fused({0: State()})
    network.append(type("RoutedExperts", (nn.Module,), {})())  # type: ignore[operator]
    with pytest.raises(QuantError) as caught:
        reported(network)
    assert str(caught.value) == "model 'tiny_random': quantized experts are not supported with engine 'vllm'."


def test_the_proof_is_read_off_the_model_and_not_off_the_recipe(
    vllm_installed: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = import_module("vllm.llm")
    monkeypatch.setitem(llm.METHODS, "bitsandbytes", llm.METHODS[None])
    with pytest.raises(QuantNotAppliedError) as caught:
        loaded(configured(checkpoint, *NF4))
    assert str(caught.value) == "quant 'bnb_nf4_dq': vLLM loaded no quantized linear layers."


def test_a_model_in_another_process_cannot_be_looked_at(
    vllm_installed: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "SWITCHES", {**vllm.SWITCHES, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    with pytest.raises(TypeError, match="not serializable"):
        loaded(replace(configured(checkpoint)))
