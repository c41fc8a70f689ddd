"""The engine over transformers models: packed prompts, a shared prefix read once, halved when memory runs out."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from bioquant.engine import GenerationSettings, TokenTimes, never
from bioquant.engine.batching import Limits, batches, chunks, packs, row_width, sha256, shareable, unanswered
from bioquant.engine.choices import ChoiceSum, Scoring, choice_sums, tokenized
from bioquant.engine.decoding import Chooser, Decoder, Request, Rules
from bioquant.engine.halving import Work, halving
from bioquant.engine.keyvalues import KeyValues
from bioquant.engine.packed import PackedModel, Prompt
from bioquant.engine.sampling import Greedy, SeededSampler, row_seed
from bioquant.engine.tokens import PromptTokenizer, check_lengths
from bioquant.errors import OutOfMemoryError
from bioquant.records import Generation, Message


@dataclass(frozen=True, slots=True)
class Output:
    """A request's output tokens, and how many rows went through the model with it."""

    request: Request
    ids: list[int]
    num_rows: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The prompts of a call: their tokens, how many they all begin with, and who rides with whom."""

    ids: Sequence[Sequence[int]]
    num_shared: int
    batches: Sequence[Sequence[int]]
    settings: GenerationSettings

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], settings: GenerationSettings) -> "Schedule":
        """Batches by the length of what is a prompt's own."""
        num_shared = shareable(ids) if settings.limits.share_prefix else 0
        own = [len(prompt) - num_shared for prompt in ids]
        rides = batches(own, settings.limits, num_samples=settings.num_samples, max_new_tokens=settings.max_new_tokens)
        return cls(ids, num_shared, rides, settings)

    def requests(self, indices: Sequence[int]) -> list[Request]:
        """All samples of these prompts."""
        return [
            Request(index, sample, tuple(self.ids[index]), tuple(self.ids[index][self.num_shared :]))
            for index in indices
            for sample in range(self.settings.num_samples)
        ]

    def parts(self, indices: Sequence[int]) -> list[list[Request]]:
        """The requests of a batch; several parts where one prompt has more samples than rows may ride together."""
        return chunks(self.requests(indices), self.settings.limits.rows)

    def width(self, requests: Sequence[Request]) -> int:
        """Tokens each row of these has room for."""
        return row_width(max(len(request.own) for request in requests) + self.settings.max_new_tokens)

    def capacity(self) -> int:
        """Rows x width of the largest part, in tokens."""
        parts = chain.from_iterable(self.parts(indices) for indices in self.batches)
        return max((len(part) * self.width(part) for part in parts), default=0)


class TransformersModel:
    """A causal language model and its tokenizer, as `LanguageModel`.

    model: a transformers model in evaluation mode and on `device`. Nothing of its own generation settings is used.
    context_length: prompt and answer together, in tokens.
    graphs: whether its steps can be CUDA graphs: not on a CPU, and not where a kernel waits for the host.
    compiled: see `PackedModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        device: str,
        context_length: int,
        *,
        graphs: bool = False,
        compiled: bool = False,
    ) -> None:
        self.device = device
        self._model = PackedModel(model, device, compiled=compiled)
        self._tokenizer = PromptTokenizer(tokenizer, model.generation_config.eos_token_id)
        self._context_length = context_length
        self._graphs = graphs
        self._decoder: Decoder | None = None
        self._is_short = False

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

        Where memory runs out, that batch alone goes on in halves: what the others ride in, and so their text, does not
        depend on where a run was interrupted.
        """
        done = frozenset(skip)
        ids = [self.encode(prompt) for prompt in prompts]
        check_lengths([len(prompt) for prompt in ids], self._context_length, settings.max_new_tokens)
        schedule = Schedule.of(ids, settings)
        try:
            for batch_index, indices in unanswered(schedule.batches, done, stopped):
                answered = self._generate_batch(batch_index, indices, schedule)
                yield from (generation for generation in answered if generation.index not in done)
        finally:
            self._release()
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

        Prompt and choice are tokenized as one text and scored in float32, all choices from the same context (see
        `scorings`). The sums are not divided by length, and no end token is added, so a choice that another one
        begins with is never the less likely of the two.
        """
        lengths, asked = tokenized(self._tokenizer, prompts, choices)
        check_lengths(lengths, self._context_length, 0)
        work = self._scorer([row for rows in asked for row in rows], limits)
        done = frozenset(skip)
        try:
            for _, indices in unanswered(batches(lengths, limits), done, stopped):
                rows = [row for index in indices for row in asked[index]]
                found = dict(chain.from_iterable(halving(work, rows, empty_cache, self.device)))
                left = [index for index in indices if index not in done]
                yield from ((i, [found[i, choice] for choice in range(len(choices[i]))]) for i in left)
        finally:
            self._tokenizer.forget()

    def timed(
        self, prompts: Sequence[Sequence[Message]], settings: GenerationSettings, *, num_warmup: int
    ) -> list[TokenTimes]:
        """Answer prompts in order, a group at a time, with a clock on every token (see `LanguageModel.timed`)."""
        ids = [self.encode(prompt) for prompt in prompts]
        check_lengths([len(prompt) for prompt in ids], self._context_length, settings.max_new_tokens)
        groups = chunks(prompts, settings.limits.rows)
        width = row_width(max(map(len, ids)) + settings.max_new_tokens)
        self._decoder = Decoder(self._model, (), settings.limits.rows * width, graphs=self._graphs)
        try:
            for group in islice(cycle(groups), num_warmup):
                self._timed_group(group, width, settings)
                self._decoder.stepper(len(group)).capture()  # a short answer has not come to it
            return [times for group in groups for times in self._timed_group(group, width, settings)]
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"out of memory on {self.device} with {settings.limits.rows} requests") from error
        finally:
            self._release()

    def _generate_batch(self, batch_index: int, indices: Sequence[int], schedule: Schedule) -> list[Generation]:
        start = self._clock()
        self._is_short = False
        outputs = [
            output
            for part in schedule.parts(indices)
            for output in halving(partial(self._answer, schedule), part, self._shrink, self.device)
        ]
        seconds = self._clock() - start
        return [self._generation(output, batch_index, seconds) for output in outputs]

    def _answer(self, schedule: Schedule, requests: Sequence[Request]) -> Iterator[tuple[Request, Output]]:
        settings, width = schedule.settings, schedule.width(requests)
        decoder = self._decoder_for(schedule, len(requests) * width)
        logits = decoder.read(requests, width, settings.limits.prefill_tokens)
        rows = decoder.answers(requests, logits, self._rules(settings), self._chooser(requests, settings))
        yield from ((row.request, Output(row.request, row.answer, len(requests))) for row in rows)

    def _decoder_for(self, schedule: Schedule, tokens: int) -> Decoder:
        """The call's decoder: for its largest batch, unless that has just been found too large."""
        if self._decoder is None or self._decoder.capacity < tokens:
            self._decoder = None
            capacity = tokens if self._is_short else schedule.capacity()
            shared = schedule.ids[0][: schedule.num_shared]
            self._decoder = Decoder(self._model, shared, capacity, graphs=self._graphs)
        return self._decoder

    def _generation(self, output: Output, batch_index: int, seconds: float) -> Generation:
        request = output.request
        return Generation(
            index=request.index,
            sample=request.sample,
            text=self._tokenizer.decode(output.ids),
            num_prompt_tokens=len(request.ids),
            num_output_tokens=len(output.ids),
            finish="stop" if output.ids[-1] in self._tokenizer.end_ids else "length",
            input_ids_sha256=sha256(request.ids),
            seconds=seconds,
            batch_index=batch_index,
            batch_size=output.num_rows,
        )

    def _rules(self, settings: GenerationSettings) -> Rules:
        return Rules(max_new_tokens=settings.max_new_tokens, end_ids=frozenset(self._tokenizer.end_ids))

    def _chooser(self, requests: Sequence[Request], settings: GenerationSettings) -> Chooser:
        if settings.temperature == 0:
            return Greedy()
        seeds = [row_seed(settings.seed, request.index, request.sample) for request in requests]
        return SeededSampler(temperature=settings.temperature, top_p=settings.top_p, seeds=seeds, device=self.device)

    def _scorer(self, rows: Sequence[Scoring], limits: Limits) -> Work[Scoring, list[ChoiceSum]]:
        """What scores rows: after the tokens that all of them begin with, in packs."""
        kept = max(len(row.targets[0]) for row in rows)
        num_shared = shareable([row.ids for row in rows], kept=kept) if limits.share_prefix else 0
        keys = KeyValues(0)
        if num_shared:
            self._model.share(keys, rows[0].ids[:num_shared])

        def work(some: Sequence[Scoring]) -> Iterator[tuple[Scoring, list[ChoiceSum]]]:
            own = [row.ids[num_shared:] for row in some]
            for cut in packs([len(ids) for ids in own], limits.prefill_tokens):
                prompts = [Prompt(own[place], None) for place in cut]
                tables = self._model.read(keys, prompts, kept).float().log_softmax(-1)
                for place, table in zip(cut, tables, strict=True):
                    yield some[place], choice_sums(some[place], table)

        return work

    def _timed_group(
        self, prompts: Sequence[Sequence[Message]], width: int, settings: GenerationSettings
    ) -> list[TokenTimes]:
        assert self._decoder is not None
        arrivals: list[float] = []
        start = self._clock()
        ids = [tuple(self.encode(prompt)) for prompt in prompts]
        requests = [Request(index, 0, prompt, prompt) for index, prompt in enumerate(ids)]
        logits = self._decoder.read(requests, width, settings.limits.prefill_tokens)
        rows = self._decoder.answers(
            requests,
            logits,
            self._rules(settings),
            self._chooser(requests, settings),
            arrived=lambda: arrivals.append(time.perf_counter() - start),
            leave=False,
        )
        answers = {row.request.index: row.answer for row in rows}
        return [self._times(len(prompt), arrivals, answers[index]) for index, prompt in enumerate(ids)]

    def _times(self, num_prompt_tokens: int, arrivals: Sequence[float], answer: Sequence[int]) -> TokenTimes:
        """The clock of one row: decoding its text is the last thing a request waits for."""
        start = time.perf_counter()
        self._tokenizer.decode(answer)
        decoding = time.perf_counter() - start
        token_s = tuple(arrivals[: len(answer)])
        return TokenTimes(num_prompt_tokens=num_prompt_tokens, token_s=token_s, total_s=token_s[-1] + decoding)

    def _shrink(self) -> None:
        self._is_short = True
        self._release()

    def _release(self) -> None:
        """Give back buffers and graphs."""
        self._decoder = None
        empty_cache()

    def _clock(self) -> float:
        """Seconds, read once the device has done all it was asked."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def empty_cache() -> None:
    """Give memory that nobody holds back to the device; nothing where there is none."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
