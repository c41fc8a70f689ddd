"""The engine over vLLM, for those who have it: token ids in, token ids out, scheduled by vLLM itself.

Written against the source of vLLM 0.33.0; see `bioquant.models.vllm` for how a model gets there. It has not been run
against the library: its tests use a stand-in with the same interface.

What is ours on both sides of it is what the transformers engine does: the prompt's ids, the tokens that end an answer,
the text of the output. A batch is what is handed over together; which of its rows share a pass, and when, is vLLM's
affair (continuous batching). Each batch begins with an empty prefix cache, so that its text does not depend on the
batches before it, which a resumed run leaves out.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, cycle, islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from bioquant.engine import GenerationSettings, TokenTimes, never
from bioquant.engine.batching import Limits, batches, chunks, sha256, unanswered
from bioquant.engine.choices import Scoring, tokenized
from bioquant.engine.sampling import row_seed
from bioquant.engine.tokens import PromptTokenizer, check_lengths
from bioquant.errors import ConfigError, OutOfMemoryError
from bioquant.records import Generation, Message

MOST_TOKEN_IDS = 128
"""Tokens whose log-probability one request can ask for (`MAX_LOGPROB_TOKEN_IDS` in `vllm/sampling_params.py`)."""

TEMPERATURES = (0.01, 2.0)
"""vLLM moves a lower temperature up to the first of these, and refuses one above the second."""

Context = tuple[int, tuple[int, ...]]
"""A prompt's index, and the tokens of a choice that stand behind it so far."""


class VllmModel:
    """A model in vLLM's hands, as `LanguageModel`.

    llm: a `vllm.LLM` whose engine runs in this process. eos_token_id: the checkpoint's, beside the tokenizer's.
    context_length: prompt and answer together, in tokens.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_id: int | list[int] | None,
        device: str,
        context_length: int,
    ) -> None:
        self.device = device
        self._llm = llm
        self._vllm: Any = import_module("vllm")
        self._tokenizer = PromptTokenizer(tokenizer, eos_token_id)
        self._context_length = context_length

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, up to where the model's answer begins."""
        return self._tokenizer.prompt(messages)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        settings: GenerationSettings,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Generation]:
        """Answer prompts batch by batch; all samples of a prompt are in one batch (see `LanguageModel.generate`).

        A batch that was answered in part is answered anew as a whole. Raises ConfigError for a temperature that vLLM
        does not take.
        """
        done = frozenset(skip)
        ids = [self.encode(prompt) for prompt in prompts]
        lengths = [len(prompt) for prompt in ids]
        self._check(lengths, settings)
        rides = batches(
            lengths, settings.limits, num_samples=settings.num_samples, max_new_tokens=settings.max_new_tokens
        )
        for batch_index, indices in unanswered(rides, done, stopped):
            answered = self._generate_batch(batch_index, indices, ids, settings)
            yield from (generation for generation in answered if generation.index not in done)
        self._tokenizer.forget()

    def loglikelihood(
        self,
        prompts: Sequence[Sequence[Message]],
        choices: Sequence[Sequence[str]],
        limits: Limits,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, list[float]]]:
        """Each prompt's index and its choices' summed log-probabilities (see `LanguageModel.loglikelihood`).

        Each token of a choice is asked for as what may come next behind its prompt and the choice's tokens before it,
        `limits.rows` such contexts at a time, of the raw logits in float32. The contexts of a prompt differ in their
        last tokens only; vLLM's prefix cache reads the rest once.
        """
        lengths, rows = tokenized(self._tokenizer, prompts, choices)
        check_lengths(lengths, self._context_length, 0)
        done = frozenset(skip)
        for _, indices in unanswered(batches(lengths, limits), done, stopped):
            questions = asked(row for index in indices for row in rows[index])
            logprobs = dict(chain.from_iterable(map(self._next_tokens, chunks(questions, limits.rows))))
            for index in (index for index in indices if index not in done):
                sums = dict(chain.from_iterable(choice_sums(row, logprobs) for row in rows[index]))
                yield index, [sums[choice] for choice in range(len(choices[index]))]
        self._tokenizer.forget()

    def timed(
        self, prompts: Sequence[Sequence[Message]], settings: GenerationSettings, *, num_warmup: int
    ) -> list[TokenTimes]:
        """Answer prompts in order, a group at a time, with a clock on every token (see `LanguageModel.timed`).

        A token's time is when the step that brings it returns. Each group begins with an empty prefix cache.
        """
        self._check([len(self.encode(prompt)) for prompt in prompts], settings)
        groups = chunks(prompts, settings.limits.rows)
        for group in islice(cycle(groups), num_warmup):
            self._timed_group(group, settings)
        return [times for group in groups for times in self._timed_group(group, settings)]

    def _check(self, lengths: Sequence[int], settings: GenerationSettings) -> None:
        check_lengths(lengths, self._context_length, settings.max_new_tokens)
        lowest, highest = TEMPERATURES
        if settings.temperature != 0 and not lowest <= settings.temperature <= highest:
            raise ConfigError(
                f"prompt.temperature={settings.temperature} is not allowed with engine 'vllm': give 0, or {lowest} to "
                f"{highest}."
            )

    def _generate_batch(
        self, batch_index: int, indices: Sequence[int], ids: Sequence[Sequence[int]], settings: GenerationSettings
    ) -> list[Generation]:
        started = time.perf_counter()
        rows = [(index, sample) for index in indices for sample in range(settings.num_samples)]
        outputs = self._answer([ids[index] for index, _ in rows], [self._sampling(settings, *row) for row in rows])
        seconds = time.perf_counter() - started
        return [
            Generation(
                index=index,
                sample=sample,
                text=self._tokenizer.decode(output.token_ids),
                num_prompt_tokens=len(ids[index]),
                num_output_tokens=len(output.token_ids),
                finish="stop" if output.token_ids[-1] in self._tokenizer.end_ids else "length",
                input_ids_sha256=sha256(ids[index]),
                seconds=seconds,
                batch_index=batch_index,
                batch_size=len(rows),
            )
            for (index, sample), output in zip(rows, outputs, strict=True)
        ]

    def _answer(self, ids: Sequence[Sequence[int]], sampling: Sequence[Any]) -> list[Any]:
        """The `CompletionOutput` of each request, all handed over at once."""
        self._llm.reset_prefix_cache()
        prompts = [self._vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in ids]
        try:
            return [request.outputs[0] for request in self._llm.generate(prompts, sampling, use_tqdm=False)]
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error

    def _sampling(self, settings: GenerationSettings, index: int, sample: int, **given: Any) -> Any:
        """One row's `SamplingParams`: our end tokens and no others, noise that belongs to the row."""
        drawn = (
            {"top_p": settings.top_p, "seed": row_seed(settings.seed, index, sample)} if settings.temperature else {}
        )
        return self._vllm.SamplingParams(
            temperature=settings.temperature,
            max_tokens=settings.max_new_tokens,
            stop_token_ids=list(self._tokenizer.end_ids),
            ignore_eos=True,
            detokenize=False,
            **drawn,
            **given,
        )

    def _next_tokens(self, questions: Sequence["Question"]) -> Iterator[tuple[tuple[Context, int], float]]:
        """By context and token, the log-probability of each token that is asked for."""
        sampling = [
            self._vllm.SamplingParams(
                temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False, logprob_token_ids=question.tokens
            )
            for question in questions
        ]
        outputs = self._answer([question.ids for question in questions], sampling)
        for question, output in zip(questions, outputs, strict=True):
            for token in question.tokens:
                yield (question.context, token), output.logprobs[0][token].logprob

    def _timed_group(self, prompts: Sequence[Sequence[Message]], settings: GenerationSettings) -> list[TokenTimes]:
        self._llm.reset_prefix_cache()
        kind = import_module("vllm.sampling_params").RequestOutputKind.DELTA
        tokens_input, engine = import_module("vllm.inputs").tokens_input, self._llm.llm_engine
        started = time.perf_counter()
        ids = [self.encode(prompt) for prompt in prompts]
        for row, prompt in enumerate(ids):
            engine.add_request(str(row), tokens_input(list(prompt)), self._sampling(settings, row, 0, output_kind=kind))
        arrivals, answers = defaultdict[int, list[float]](list), defaultdict[int, list[int]](list)
        try:
            while engine.has_unfinished_requests():
                for request in engine.step():
                    new = list(request.outputs[0].token_ids)
                    arrivals[int(request.request_id)] += [time.perf_counter() - started] * len(new)
                    answers[int(request.request_id)] += new
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error
        return [self._times(len(prompt), arrivals[row], answers[row]) for row, prompt in enumerate(ids)]

    def _times(self, num_prompt_tokens: int, token_s: Sequence[float], answer: Sequence[int]) -> TokenTimes:
        """The clock of one row: decoding its text is the last thing a request waits for."""
        started = time.perf_counter()
        self._tokenizer.decode(answer)
        total_s = token_s[-1] + time.perf_counter() - started
        return TokenTimes(num_prompt_tokens=num_prompt_tokens, token_s=tuple(token_s), total_s=total_s)

    def _out_of_memory(self) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"out of memory on {self.device}, outside the share that vLLM took when it loaded: lower "
            "engine.gpu_memory_utilization or engine.prefill_tokens."
        )


@dataclass(frozen=True, slots=True)
class Question:
    """Which of some tokens comes next: asked behind the first `length` tokens of a row's input."""

    context: Context
    row: Scoring
    length: int
    tokens: list[int]

    @property
    def ids(self) -> tuple[int, ...]:
        """The input."""
        return self.row.ids[: self.length]


def asked(rows: Iterable[Scoring]) -> list[Question]:
    """What is asked of the model for these rows: each context once, with all tokens that may come next in it."""
    found: dict[Context, tuple[Scoring, int, set[int]]] = {}
    for row in rows:
        before = len(row.ids) - len(row.targets[0]) + 1
        for target in row.targets:
            for place, token in enumerate(target):
                found.setdefault((row.index, target[:place]), (row, before + place, set()))[2].add(token)
    return [
        Question(context, row, length, some)
        for context, (row, length, tokens) in found.items()
        for some in chunks(sorted(tokens), MOST_TOKEN_IDS)
    ]


def choice_sums(row: Scoring, logprobs: Mapping[tuple[Context, int], float]) -> Iterator[tuple[int, float]]:
    """Each choice of a row, by its place among the prompt's, with the sum of its log-probabilities."""
    for choice, target in zip(row.choices, row.targets, strict=True):
        yield choice, sum(logprobs[(row.index, target[:place]), token] for place, token in enumerate(target))
