"""The engine over vLLM, asked through a stand-in for the library, and held against the engine of ours."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bioquant.engine import GenerationSettings, LanguageModel
from bioquant.engine.batching import Limits, sha256
from bioquant.errors import ConfigError, OutOfMemoryError
from bioquant.records import Generation, Message
from vllm_parts import model_of

GREEDY = GenerationSettings(max_new_tokens=12, limits=Limits(rows=4))
SAMPLED = replace(GREEDY, max_new_tokens=6, num_samples=3, temperature=1.0, top_p=0.95, seed=7)


def asked(text: str) -> list[Message]:
    return [Message(role="system", content="Answer."), Message(role="user", content=text)]


PROMPTS = [asked("aspirin " * n + "?") for n in (3, 1, 7, 1, 5, 2, 4)]
CHOICES = [["yes", "no", "maybe"], ["A", "B"], ["yes"], ["no", "none", "nonsense"], ["A", "B"], ["x"], ["ab", "abc"]]


@pytest.fixture
def model(vllm_installed: None, checkpoint: Path) -> Any:
    return model_of(checkpoint)


@pytest.fixture
def ours(checkpoint: Path) -> Any:
    return model_of(checkpoint, "engine=transformers")


def what_was_said(generation: Generation) -> Generation:
    """All but what depends on the engine's batches."""
    return replace(generation, seconds=0.0, batch_index=0, batch_size=0)


def by_prompt(found: Any) -> dict[tuple[int, int], Generation]:
    return {(generation.index, generation.sample): what_was_said(generation) for generation in found}


def test_is_a_language_model(model: Any) -> None:
    engine: LanguageModel = model
    assert engine.device == "cpu"


def test_prompts_and_greedy_answers_are_those_of_the_transformers_engine(model: Any, ours: Any) -> None:
    assert [model.encode(prompt) for prompt in PROMPTS] == [ours.encode(prompt) for prompt in PROMPTS]
    found = by_prompt(model.generate(PROMPTS, GREEDY))
    assert found == by_prompt(ours.generate(PROMPTS, GREEDY))
    assert len({generation.text for generation in found.values()}) > 3
    assert found[2, 0].input_ids_sha256 == sha256(model.encode(PROMPTS[2]))


def test_log_likelihoods_are_those_of_the_transformers_engine(model: Any, ours: Any) -> None:
    found = dict(model.loglikelihood(PROMPTS, CHOICES, Limits(rows=3)))
    expected = dict(ours.loglikelihood(PROMPTS, CHOICES, Limits(rows=3)))
    assert set(found) == set(range(len(PROMPTS)))
    for index, sums in found.items():
        assert sums == pytest.approx(expected[index], abs=1e-4)


def test_more_next_tokens_than_one_request_can_ask_for(model: Any, ours: Any) -> None:
    letters = [chr(code) for code in range(0x21, 0x7F)] + [chr(code) for code in range(0xC0, 0x100)]
    [(_, found)] = model.loglikelihood([PROMPTS[0]], [letters], Limits(rows=4))
    [(_, expected)] = ours.loglikelihood([PROMPTS[0]], [letters], Limits(rows=4))
    assert found == pytest.approx(expected, abs=1e-4)


def test_choices_share_their_contexts(model: Any) -> None:
    served = model._llm.llm_engine.served
    list(model.loglikelihood([PROMPTS[0]], [["yes", "no", "not"]], Limits(rows=8)))
    prompt = model.encode(PROMPTS[0])
    decode = model._tokenizer.decode
    behind = {decode(request.prompt[len(prompt) :]): request.params.logprob_token_ids for request in served}
    assert {text: sorted(map(decode, zip(ids))) for text, ids in behind.items()} == {
        "": ["n", "y"],
        "n": ["o"],
        "no": ["t"],
        "y": ["e"],
        "ye": ["s"],
    }
    assert len(served) == 5
    assert all(request.num_cached > 0 for request in served[1:])


def test_finish_and_count_at_the_end_token_and_at_the_limit(model: Any) -> None:
    [whole] = model.generate([PROMPTS[0]], replace(GREEDY, max_new_tokens=4))
    assert (whole.finish, whole.num_output_tokens) == ("length", 4)
    third = model._llm.llm_engine.served[-1].out[2]
    model._tokenizer.end_ids.append(third)
    [stopped] = model.generate([PROMPTS[0]], GREEDY)
    assert (stopped.finish, stopped.num_output_tokens) == ("stop", 3)


def test_an_end_token_that_is_not_ours_ends_nothing(model: Any) -> None:
    [whole] = model.generate([PROMPTS[0]], replace(GREEDY, max_new_tokens=4))
    engine = model._llm.llm_engine
    engine._eos_token_id = engine.served[-1].out[1]
    [again] = model.generate([PROMPTS[0]], replace(GREEDY, max_new_tokens=4))
    assert what_was_said(again) == what_was_said(whole)


def test_batches_are_longest_first_and_numbered(model: Any) -> None:
    found = list(model.generate(PROMPTS, GREEDY))
    assert [g.index for g in found] == [2, 4, 6, 0, 5, 1, 3]
    assert [g.batch_index for g in found] == [0, 0, 0, 0, 1, 1, 1]
    assert [g.batch_size for g in found] == [4, 4, 4, 4, 3, 3, 3]
    assert len({g.seconds for g in found}) == 2
    assert all(g.seconds > 0 for g in found)


def test_first_batch_is_there_before_the_second_begins(model: Any) -> None:
    assert next(model.generate(PROMPTS, GREEDY)).batch_index == 0
    assert len(model._llm.llm_engine.served) == 4


def test_skipped_prompts_change_no_other_text_and_nothing_that_is_read_from_the_cache(model: Any) -> None:
    served, settings = model._llm.llm_engine.served, replace(SAMPLED, limits=Limits(rows=6))
    whole = by_prompt(model.generate(PROMPTS, settings))
    cached = [(request.prompt, request.num_cached) for request in served]
    served.clear()
    rest = by_prompt(model.generate(PROMPTS, settings, skip={2, 4, 5}))
    assert {index for index, _ in rest} == {0, 1, 3, 6}
    assert all(generation == whole[key] for key, generation in rest.items())
    assert [(request.prompt, request.num_cached) for request in served] == cached[-len(served) :]
    assert any(number for _, number in cached)


def test_a_batch_whose_prompts_are_all_answered_is_not_run(model: Any) -> None:
    batches = {g.batch_index for g in model.generate(PROMPTS, GREEDY, skip={2, 4, 6, 0})}
    assert batches == {1}
    assert len(model._llm.llm_engine.served) == 3


@pytest.mark.parametrize("name", ["vllm", "transformers"])
def test_stops_between_batches_and_keeps_no_prompt(vllm_installed: None, checkpoint: Path, name: str) -> None:
    engine = model_of(checkpoint, f"engine={name}")
    asked_so_far = iter([False, True])
    found = list(engine.generate(PROMPTS, GREEDY, stopped=lambda: next(asked_so_far)))
    assert {generation.index for generation in found} == {2, 4, 6, 0}
    assert not engine._tokenizer._encoded
    asked_so_far = iter([False, True])
    scored = engine.loglikelihood(PROMPTS, CHOICES, Limits(rows=4), stopped=lambda: next(asked_so_far))
    assert len(dict(scored)) == 4
    assert not engine._tokenizer._encoded


def test_choices_that_are_known_already_are_not_asked_again(model: Any) -> None:
    whole = dict(model.loglikelihood(PROMPTS, CHOICES, Limits(rows=4)))
    served = model._llm.llm_engine.served
    served.clear()
    rest = dict(model.loglikelihood(PROMPTS, CHOICES, Limits(rows=4), skip={2, 4, 6, 0, 1}))
    assert rest == {index: whole[index] for index in (3, 5)}
    longest = model.encode(PROMPTS[2])
    assert not any(request.prompt[: len(longest)] == longest for request in served)


def test_a_sample_has_its_own_noise_whatever_it_rides_with(model: Any) -> None:
    in_one = by_prompt(model.generate(PROMPTS, replace(SAMPLED, limits=Limits(rows=21))))
    alone = by_prompt(model.generate(PROMPTS, replace(SAMPLED, limits=Limits(rows=2))))
    assert Counter(index for index, _ in in_one) == dict.fromkeys(range(7), 3)
    assert in_one == alone
    assert len({generation.text for generation in in_one.values()}) > 15
    other = by_prompt(model.generate(PROMPTS, replace(SAMPLED, seed=8)))
    assert sum(other[key].text != generation.text for key, generation in in_one.items()) > 15


def test_times_each_token_of_a_group_that_begins_with_nothing_cached(model: Any) -> None:
    served = model._llm.llm_engine.served
    settings = replace(GREEDY, limits=Limits(rows=2))
    times = model.timed(PROMPTS[:5], settings, num_warmup=1)
    assert [time.num_prompt_tokens for time in times] == [len(model.encode(prompt)) for prompt in PROMPTS[:5]]
    answers = {g.index: g.num_output_tokens for g in model.generate(PROMPTS, GREEDY)}
    assert [len(time.token_s) for time in times] == [answers[index] for index in range(5)]
    for time in times:
        assert all(earlier < later for earlier, later in pairwise((0.0, *time.token_s, time.total_s)))
    groups = [served[:2], *([*served[2:7]][start : start + 2] for start in (0, 2, 4))]
    assert [len(group) for group in groups] == [2, 2, 2, 1]
    assert all(group[0].num_cached == 0 for group in groups)


def test_a_refused_temperature_is_named(model: Any) -> None:
    for temperature in (0.001, 2.5):
        with pytest.raises(ConfigError) as caught:
            next(model.generate(PROMPTS, replace(SAMPLED, temperature=temperature)))
        assert str(caught.value) == (
            f"prompt.temperature={temperature} is not allowed with engine 'vllm': give 0, or 0.01 to 2.0."
        )
    with pytest.raises(ConfigError, match=r"^prompt\.temperature=2\.5 "):
        model.timed(PROMPTS, replace(SAMPLED, temperature=2.5), num_warmup=0)


def test_too_long_a_prompt_is_named(model: Any) -> None:
    long = asked("x" * 600)
    message = (
        f"example 1 has {len(model.encode(long))} prompt tokens, but the model's context of 512 leaves 500 beside "
        "max_new_tokens=12. Lower prompt.num_shots or engine.max_new_tokens, or choose a model with a longer context."
    )
    with pytest.raises(ConfigError) as caught:
        next(model.generate([PROMPTS[0], long], GREEDY))
    assert str(caught.value) == message
    with pytest.raises(ConfigError, match=r"^example 0 has "):
        model.timed([long], GREEDY, num_warmup=0)
    with pytest.raises(ConfigError, match=r"^example 0 has "):
        next(model.loglikelihood([long], [["yes"]], Limits(rows=1)))


def test_memory_that_runs_out_is_named(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model._llm.llm_engine, "step", refuse)
    message = (
        "out of memory on cpu, outside the share that vLLM took when it loaded: lower engine.gpu_memory_utilization or "
        "engine.prefill_tokens."
    )
    for work in (
        lambda: next(model.generate(PROMPTS, GREEDY)),
        lambda: next(model.loglikelihood(PROMPTS, CHOICES, Limits(rows=1))),
        lambda: model.timed(PROMPTS, GREEDY, num_warmup=0),
    ):
        with pytest.raises(OutOfMemoryError) as caught:
            work()
        assert str(caught.value) == message
