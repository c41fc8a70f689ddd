import hashlib
import logging
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from bioquant import answering, models, run
from bioquant.config import Device, ModelConfig, conf_dir
from bioquant.engine import GenerationSettings, LanguageModel
from bioquant.engine.attention import SharedPass
from bioquant.engine.batching import Limits, sha256
from bioquant.engine.choices import scorings
from bioquant.engine.sampling import SeededSampler, row_seed
from bioquant.engine.tokens import PromptTokenizer
from bioquant.engine.transformers import TransformersModel
from bioquant.errors import ConfigError, OutOfMemoryError
from bioquant.models import random
from bioquant.plan import BASELINE
from bioquant.records import Message
from test_compose import composed

CONTEXT = 512
GREEDY = GenerationSettings(max_new_tokens=12, limits=Limits(rows=4))
SAMPLED = replace(GREEDY, num_samples=3, temperature=1.0, seed=7)


def network() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        bos_token_id=random.BOS_ID,
        eos_token_id=random.END_ID,
        pad_token_id=random.PAD_ID,
    )
    return LlamaForCausalLM(config).eval()


def asked(text: str) -> list[Message]:
    return [Message(role="system", content="Answer."), Message(role="user", content=text)]


PROMPTS = [asked("aspirin " * n + "?") for n in (3, 1, 7, 1, 5, 2, 4)]


@pytest.fixture
def model() -> TransformersModel:
    return TransformersModel(network(), random.tokenizer(), "cpu", CONTEXT)


def reference(ids: list[int], max_new_tokens: int) -> list[int]:
    """Plain `generate` at batch 1."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=random.END_ID, pad_token_id=random.PAD_ID
    )
    given = torch.tensor([ids])
    out = network().generate(given, attention_mask=torch.ones_like(given), generation_config=config)
    return out[0, len(ids) :].tolist()


def test_is_a_language_model(model: TransformersModel) -> None:
    engine: LanguageModel = model
    assert engine.device == "cpu"


def test_batched_greedy_text_is_that_of_plain_generate_at_batch_1(model: TransformersModel) -> None:
    found = {g.index: g for g in model.generate(PROMPTS, GREEDY)}
    for index, prompt in enumerate(PROMPTS):
        ids = model.encode(prompt)
        expected = reference(ids, GREEDY.max_new_tokens)
        assert found[index].text == random.tokenizer().decode(expected, skip_special_tokens=True)
        assert found[index].num_output_tokens == len(expected)
        assert found[index].num_prompt_tokens == len(ids)
        assert found[index].input_ids_sha256 == sha256(ids)


def test_two_calls_give_the_same_text(model: TransformersModel) -> None:
    for settings in (GREEDY, SAMPLED):
        first, second = ([g.text for g in model.generate(PROMPTS, settings)] for _ in range(2))
        assert first == second


def test_batches_are_longest_first_and_numbered(model: TransformersModel) -> None:
    found = list(model.generate(PROMPTS, GREEDY))
    assert [g.index for g in found] == [2, 4, 6, 0, 5, 1, 3]
    assert [g.batch_index for g in found] == [0, 0, 0, 0, 1, 1, 1]
    assert [g.batch_size for g in found] == [4, 4, 4, 4, 3, 3, 3]
    assert len({g.seconds for g in found}) == 2
    assert all(g.seconds > 0 for g in found)


def test_first_batch_is_there_before_the_second_begins(model: TransformersModel) -> None:
    answers = model.generate(PROMPTS, GREEDY)
    assert next(answers).batch_index == 0


def test_answers_that_are_no_longer_wanted_leave_no_prompt_behind(
    model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = list[PromptTokenizer]()
    monkeypatch.setattr(PromptTokenizer, "forget", lambda self: forgotten.append(self))
    asked = model.generate(PROMPTS, GREEDY)
    next(iter(asked))
    del asked
    assert len(forgotten) == 1


def test_skipped_prompts_change_no_other_text(model: TransformersModel) -> None:
    whole = {g.index: g for g in model.generate(PROMPTS, SAMPLED) if g.sample == 1}
    rest = {g.index: g for g in model.generate(PROMPTS, SAMPLED, skip={2, 4, 5}) if g.sample == 1}
    assert set(rest) == {0, 1, 3, 6}
    for index, generation in rest.items():
        assert replace(generation, seconds=0.0) == replace(whole[index], seconds=0.0)


def test_a_batch_whose_prompts_are_all_answered_is_not_run(model: TransformersModel) -> None:
    batches = {g.batch_index for g in model.generate(PROMPTS, GREEDY, skip={2, 4, 6, 0})}
    assert batches == {1}


def test_finish_and_count_at_the_end_token_and_at_the_limit(model: TransformersModel) -> None:
    first = reference(model.encode(PROMPTS[0]), 4)
    assert len(set(first)) == 4
    ending = network()
    ending.generation_config.eos_token_id = [random.END_ID, first[2]]
    [stopped] = TransformersModel(ending, random.tokenizer(), "cpu", CONTEXT).generate([PROMPTS[0]], GREEDY)
    assert (stopped.finish, stopped.num_output_tokens) == ("stop", 3)
    [cut] = model.generate([PROMPTS[0]], replace(GREEDY, max_new_tokens=4))
    assert (cut.finish, cut.num_output_tokens) == ("length", 4)


def test_the_checkpoints_own_generation_settings_do_not_leak(model: TransformersModel) -> None:
    biased = network()
    biased.generation_config = GenerationConfig(
        do_sample=True, temperature=0.3, top_k=5, repetition_penalty=8.0, no_repeat_ngram_size=1, max_length=3
    )
    leaking = TransformersModel(biased, random.tokenizer(), "cpu", CONTEXT)
    assert [g.text for g in leaking.generate(PROMPTS, GREEDY)] == [g.text for g in model.generate(PROMPTS, GREEDY)]


def test_samples_do_not_depend_on_their_batch(model: TransformersModel) -> None:
    in_one = {(g.index, g.sample): g.text for g in model.generate(PROMPTS, replace(SAMPLED, limits=Limits(rows=21)))}
    alone = {(g.index, g.sample): g.text for g in model.generate(PROMPTS, replace(SAMPLED, limits=Limits(rows=2)))}
    assert Counter(index for index, _ in in_one) == dict.fromkeys(range(7), 3)
    assert in_one == alone
    assert len(set(in_one.values())) > 15
    other_seed = {(g.index, g.sample): g.text for g in model.generate(PROMPTS, replace(SAMPLED, seed=8))}
    assert all(other_seed[key] != text for key, text in in_one.items())


def test_all_samples_of_a_prompt_are_in_one_batch(model: TransformersModel) -> None:
    for batch_size, rows in ((2, {2, 1}), (4, {3}), (7, {6, 3})):
        found = list(model.generate(PROMPTS, replace(SAMPLED, limits=Limits(rows=batch_size))))
        assert all(len({g.batch_index for g in found if g.index == index}) == 1 for index in range(7))
        assert {g.batch_size for g in found} == rows


def test_sampler_draws_from_softmax_within_top_p() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    probabilities = torch.softmax(logits[0] / 0.8, 0)
    kept = (probabilities[:3] / probabilities[:3].sum()).tolist()
    rows = 20_000
    sampler = SeededSampler(
        temperature=0.8, top_p=0.95, seeds=[row_seed(0, index, 0) for index in range(rows)], device="cpu"
    )
    drawn = sampler(logits.repeat(rows, 1))
    shares = (torch.bincount(drawn, minlength=4) / rows).tolist()
    assert shares[3] == 0
    assert shares[:3] == pytest.approx(kept, abs=4 * math.sqrt(0.25 / rows))


def test_too_long_a_prompt_is_named(model: TransformersModel) -> None:
    long = asked("x" * 600)
    num_tokens = len(model.encode(long))
    with pytest.raises(ConfigError) as caught:
        next(model.generate([PROMPTS[0], long], GREEDY))
    assert str(caught.value) == (
        f"example 1 has {num_tokens} prompt tokens, but the model's context of 512 leaves 500 beside max_new_tokens=12."
        " Lower prompt.num_shots or engine.max_new_tokens, or choose a model with a longer context."
    )
    with pytest.raises(ConfigError, match=r"^example 0 has "):
        model.timed([long], GREEDY, num_warmup=0)
    with pytest.raises(ConfigError, match=r"^example 0 has "):
        next(model.loglikelihood([long], [["yes"]], Limits(rows=1)))


def small_device(max_rows: int) -> TransformersModel:
    """Stands in for a GPU that holds so many rows: there is none here to fill."""
    limited = network()
    engine = TransformersModel(limited, random.tokenizer(), "cpu", CONTEXT)

    def refuse(_: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        attending = named["attending"].work
        rows = attending.keys.rows or len(attending.segments.offsets) - 1
        if not isinstance(attending, SharedPass) and rows > max_rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    limited.register_forward_pre_hook(refuse, with_kwargs=True)
    return engine


def test_out_of_memory_halves_the_batch_and_goes_on(model: TransformersModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = list(small_device(3).generate(PROMPTS, GREEDY))
    expected = list(model.generate(PROMPTS, GREEDY))
    assert [(g.index, g.text, g.batch_index) for g in found] == [(g.index, g.text, g.batch_index) for g in expected]
    assert [g.batch_size for g in found] == [2, 2, 2, 2, 3, 3, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on cpu with 4 rows in a batch: it goes on in halves"
    ]


def test_out_of_memory_halves_log_likelihood_batches(model: TransformersModel) -> None:
    choices = [["yes", "no", "maybe"]] * 7
    found = dict(small_device(2).loglikelihood(PROMPTS, choices, Limits(rows=8)))
    for index, sums in model.loglikelihood(PROMPTS, choices, Limits(rows=8)):
        assert found[index] == pytest.approx(sums, abs=1e-4)


def test_out_of_memory_at_batch_1_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        list(small_device(0).generate(PROMPTS, GREEDY))
    assert str(caught.value) == (
        "out of memory on cpu even at batch size 1."
        " Choose a smaller model, a quant of fewer bits, or fewer prompt.num_shots."
    )
    assert caught.value.kind == "oom"


def sum_of_logprobs(prompt: list[int], answer: list[int]) -> float:
    """One row, no padding, all positions: by definition."""
    given = torch.tensor([prompt + answer])
    with torch.inference_mode():
        logprobs = network()(given).logits[0].log_softmax(-1)
    return sum(logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer))


def test_loglikelihood_by_definition(model: TransformersModel) -> None:
    choices = [["yes", "no"], ["A", "B", "C", "D"], ["a", "ab", "b"], ["x"], ["yes"], ["no"], ["maybe", "maybf"]]
    found = dict(model.loglikelihood(PROMPTS, choices, Limits(rows=3)))
    assert sorted(found) == list(range(7))
    for index, options in enumerate(choices):
        prompt = model.encode(PROMPTS[index])
        answers = [random.tokenizer()(option, add_special_tokens=False)["input_ids"] for option in options]
        expected = [sum_of_logprobs(prompt, answer) for answer in answers]
        assert found[index] == pytest.approx(expected, abs=1e-4)


def test_padding_does_not_shift_absolute_positions() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=2, n_positions=256, initializer_range=0.5)
    model = TransformersModel(GPT2LMHeadModel(config).eval(), random.tokenizer(), "cpu", 256)
    alone, together = (dict(model.loglikelihood(PROMPTS, [["yes", "no"]] * 7, Limits(rows=size))) for size in (1, 7))
    for index, sums in alone.items():
        assert together[index] == pytest.approx(sums, abs=1e-4)


def test_one_token_choices_need_the_prompt_once() -> None:
    [row] = scorings(5, [1, 2], [[1, 2, 7], [1, 2, 8], [1, 2, 9]])
    assert (row.index, row.ids, row.choices, row.targets) == (5, (1, 2), (0, 1, 2), ((7,), (8,), (9,)))


def test_choices_that_a_tokenizer_joins_with_the_prompt_are_scored_from_before_the_join() -> None:
    rows = scorings(0, [1, 2, 3], [[1, 2, 30], [1, 2, 3, 4, 5]])
    assert [(row.ids, row.targets) for row in rows] == [((1, 2), ((30,),)), ((1, 2, 3, 4), ((3, 4, 5),))]


def test_bos_is_there_once_whatever_the_template_writes() -> None:
    tokenizer: Any = random.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", random.BOS_ID)]
    )
    own = tokenizer.chat_template
    for template in (own, "{{ bos_token }}" + own, "{{ bos_token }}{{ bos_token }}" + own, None):
        tokenizer.chat_template = template
        ids = TransformersModel(network(), tokenizer, "cpu", CONTEXT).encode(PROMPTS[0])
        assert ids.count(random.BOS_ID) == 1
        assert ids[0] == random.BOS_ID


def test_no_bos_where_the_tokenizer_puts_none(model: TransformersModel) -> None:
    assert random.BOS_ID not in model.encode(PROMPTS[0])


def encoded_text(template: str | None, messages: list[Message]) -> str:
    tokenizer: Any = random.tokenizer()
    tokenizer.chat_template = template
    return tokenizer.decode(TransformersModel(network(), tokenizer, "cpu", CONTEXT).encode(messages))


def test_plain_turns_where_there_is_no_template() -> None:
    shots = [*PROMPTS[1], Message(role="assistant", content="yes"), Message(role="user", content="And now?")]
    assert encoded_text(None, shots) == "Answer.\n\nUser: aspirin ?\n\nAssistant: yes\n\nUser: And now?\n\nAssistant:"


def test_system_turn_joins_the_first_user_turn_where_a_template_refuses_it() -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    )
    assert encoded_text(template, PROMPTS[1]) == "[user]Answer.\n\naspirin ?"


def test_a_templates_date_does_not_change() -> None:
    template = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    assert encoded_text(template + "{{ date_string }}", PROMPTS[0]) == "26 Jul 2024"


def test_timed_has_one_time_a_token(model: TransformersModel) -> None:
    times = model.timed([PROMPTS[2], PROMPTS[1]], replace(GREEDY, limits=Limits(rows=1)), num_warmup=1)
    alone = {g.index: g for g in model.generate(PROMPTS, GREEDY)}
    for prompt, timed in zip((2, 1), times, strict=True):
        assert timed.num_prompt_tokens == alone[prompt].num_prompt_tokens
        assert len(timed.token_s) == alone[prompt].num_output_tokens
        assert list(timed.token_s) == sorted(timed.token_s)
        assert 0 < timed.token_s[0] < timed.token_s[-1] < timed.total_s


def test_prompts_of_a_timed_group_share_its_clock(model: TransformersModel) -> None:
    first, second, third = model.timed(PROMPTS[:3], replace(GREEDY, limits=Limits(rows=2)), num_warmup=0)
    common = min(len(first.token_s), len(second.token_s))
    assert first.token_s[:common] == second.token_s[:common] != third.token_s[:common]


def test_sha256_is_over_little_endian_int32() -> None:
    assert sha256([1, 258]) == hashlib.sha256(bytes([1, 0, 0, 0, 2, 1, 0, 0])).hexdigest()


@pytest.mark.slow
def test_a_real_models_batched_answers_are_those_of_batch_1() -> None:
    """In float32 and with text of very different lengths beside one another."""
    file = OmegaConf.load(conf_dir() / "model" / "smollm2_135m.yaml")
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), file))
    loaded = models.load(config, BASELINE, Device.cpu)
    engine = TransformersModel(loaded.model, loaded.tokenizer, loaded.device, config.context_length)
    texts = [
        "Name the capital of France.",
        "Does aspirin thin the blood? " * 9,
        "Is warfarin an anticoagulant? yes or no",
    ]
    prompts = [[Message(role="user", content=text)] for text in texts]
    settings = replace(GREEDY, max_new_tokens=16)
    reference_model = models.load(config, BASELINE, Device.cpu).model
    together = {g.index: g for g in engine.generate(prompts, settings)}
    for index, prompt in enumerate(prompts):
        assert together[index].text == greedily(reference_model, loaded.tokenizer, engine.encode(prompt))
    assert "Paris" in together[0].text
    letters = dict(engine.loglikelihood(prompts, [["Paris", "London", "Berlin"]] * 3, Limits(rows=8)))
    assert max(letters[0]) == letters[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["demo_ner", "demo_re", "demo_mlc", "demo_qa"])
def test_a_real_models_answers_to_a_tasks_prompts_are_those_of_plain_generate_at_batch_1(task: str) -> None:
    """In float32, five-shot: what the prompts share is read once, the rest packed, and rows decode together."""
    config = composed(
        "model=smollm2_135m",
        "model.dtype=float32",
        f"task={task}",
        "prompt=five_shot",
        "limit=5",
        "engine.batch=3",
        "engine.max_new_tokens=16",
    )
    prompts = [example.messages for example in run.prepare(config, run.read(config)).examples]
    loaded = models.load(config.model, BASELINE, Device.cpu)
    network: Any = loaded.model
    engine = TransformersModel(network, loaded.tokenizer, loaded.device, config.model.context_length)
    found = {g.index: g.text for g in engine.generate(prompts, answering.settings(config))}
    plain = models.load(config.model, BASELINE, Device.cpu).model
    for index, prompt in enumerate(prompts):
        assert found[index] == greedily(plain, loaded.tokenizer, engine.encode(prompt))


def greedily(network: Any, tokenizer: Any, ids: list[int]) -> str:
    given = torch.tensor([ids])
    out = network.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=16, do_sample=False)
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
