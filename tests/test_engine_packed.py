from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from bioquant.engine import GenerationSettings
from bioquant.engine.batching import Limits
from bioquant.engine.keyvalues import KeyValues
from bioquant.engine.packed import PackedModel
from bioquant.engine.transformers import TransformersModel
from bioquant.errors import ModelError
from bioquant.models import random
from bioquant.records import Message

COMMON = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": random.BOS_ID,
    "eos_token_id": random.END_ID,
    "pad_token_id": random.PAD_ID,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}

# The families of the model zoo and their relatives. A window of 24 is far shorter than the prompts.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 8},
    "phi3": {"sliding_window": None},
    "gpt2": GPT,
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "biogpt": {},
    "mixtral": {"num_local_experts": 4},
    "granite": {},
}
PROMPTS = [
    [Message(role="system", content="Answer."), Message(role="user", content="aspirin " * count + "?")]
    for count in (3, 1, 7, 1, 5)
]


def network(family: str, **fields: Any) -> Any:
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES.get(family, {}), **fields})
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def plain_answer(model: Any, ids: list[int]) -> str:
    """What transformers' own generate gives at batch 1."""
    rules = GenerationConfig(max_new_tokens=10, do_sample=False, eos_token_id=random.END_ID, pad_token_id=random.PAD_ID)
    given = torch.tensor([ids])
    out = model.generate(given, attention_mask=torch.ones_like(given), generation_config=rules)
    return random.tokenizer().decode(out[0, len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_its_own_generate_does(family: str) -> None:
    engine = TransformersModel(network(family), random.tokenizer(), "cpu", 512)
    settings = GenerationSettings(max_new_tokens=10, limits=Limits(rows=3, prefill_tokens=150))
    found = {g.index: g.text for g in engine.generate(PROMPTS, settings)}
    own = network(family)
    assert [found[place] for place in range(len(PROMPTS))] == [plain_answer(own, engine.encode(p)) for p in PROMPTS]


def refused(model: Any) -> str:
    with pytest.raises(ModelError) as caught:
        PackedModel(model, "cpu")
    return str(caught.value)


def test_an_architecture_with_a_fixed_attention_is_refused() -> None:
    assert refused(network("gptj", **GPT, rotary_dim=8)) == (
        "architecture 'gptj' cannot run on engine 'transformers': its attention cannot be replaced. "
        "Choose engine=vllm, or another model."
    )


def test_an_attention_that_asks_for_more_is_refused() -> None:
    assert refused(network("gpt_oss", num_local_experts=4, sliding_window=24)) == (
        "architecture 'gpt_oss' cannot run on engine 'transformers': its layers ask for an attention of their own "
        "(s_aux). Choose engine=vllm, or another model."
    )


def test_a_layer_that_keeps_another_state_is_refused() -> None:
    assert "its attention cannot be replaced" in refused(network("mamba"))


def test_logits_that_are_not_the_models_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: here the tokens that all prompts share are forgotten."""
    monkeypatch.setattr(KeyValues, "shared", lambda *_: None)
    message = refused(network("llama"))
    assert message.startswith(
        "architecture 'llama' cannot run on engine 'transformers': with a key-value cache of ours its next token "
        "differs by "
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_layers_give_the_same_answers() -> None:
    engine = TransformersModel(network("llama"), random.tokenizer(), "cpu", 512, compiled=True)
    settings = GenerationSettings(max_new_tokens=10, limits=Limits(rows=3))
    found = {g.index: g.text for g in engine.generate(PROMPTS, settings)}
    own = network("llama")
    assert [found[place] for place in range(len(PROMPTS))] == [plain_answer(own, engine.encode(p)) for p in PROMPTS]
