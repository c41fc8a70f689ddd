"""The engine over `model.generate`: left-padded batches, longest first, halved when memory runs out."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from bioquant.engine import GenerationSettings, TokenTimes, never
from bioquant.engine.batching import chunks, left_padded, longest_first, sha256, until_end
from bioquant.engine.choices import ChoiceSum, Scoring, choice_sums, scorings
from bioquant.engine.sampling import SeededSampler, row_seed
from bioquant.engine.tokens import PromptTokenizer
from bioquant.errors import ConfigError, OutOfMemoryError
from bioquant.records import Generation, Message

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Request:
    """One row of a batch: a sample of a prompt."""

    index: int
    sample: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """A request's output tokens, and how many rows went through the model with it."""

    request: Request
    ids: list[int]
    num_rows: int


class TransformersModel:
    """A causal language model and its tokenizer, as `LanguageModel`.

    model: a transformers model with `generate`, in evaluation mode and on `device`. Its generation settings are
        replaced: what a request leaves open must not come from the checkpoint.
    context_length: prompt and answer together, in tokens.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, device: str, context_length: int) -> None:
        self.device = device
        self._model = model
        self._tokenizer = PromptTokenizer(tokenizer, model.generation_config.eos_token_id)
        self._context_length = context_length
        self._warned = False
        # generate() fills every field that a request leaves at None from here, a repetition penalty included.
        model.generation_config = GenerationConfig(
            eos_token_id=self._tokenizer.end_ids or None, pad_token_id=self._tokenizer.pad_id
        )

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, up to where the model's answer begins."""
        return self._tokenizer.encode(self._tokenizer.text(messages))

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        settings: GenerationSettings,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Generation]:
        """Answer prompts batch by batch; all samples of a prompt are in one batch (see `LanguageModel.generate`).

        A batch holds as many whole prompts as `batch_size` has room for, and at least one, whose samples then go
        through the model `batch_size` at a time. Where memory runs out, that batch alone is halved: what the others
        ride in, and so their text, does not depend on where a run was interrupted.
        """
        done = frozenset(skip)
        ids = [self.encode(prompt) for prompt in prompts]
        self._check_lengths([len(prompt) for prompt in ids], settings.max_new_tokens)
        num_prompts = max(1, settings.batch_size // settings.num_samples)
        for batch_index, indices in enumerate(longest_first([len(prompt) for prompt in ids], num_prompts)):
            if stopped():
                return
            if not done.issuperset(indices):
                rows = [Request(i, sample, tuple(ids[i])) for i in indices for sample in range(settings.num_samples)]
                answered = self._generate_batch(batch_index, rows, settings)
                yield from (generation for generation in answered if generation.index not in done)

    def loglikelihood(
        self,
        prompts: Sequence[Sequence[Message]],
        choices: Sequence[Sequence[str]],
        *,
        batch_size: int,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, list[float]]]:
        """Each prompt's index and its choices' summed log-probabilities (see `LanguageModel.loglikelihood`).

        Prompt and choice are tokenized as one text and scored in float32, all choices from the same context (see
        `scorings`). The sums are not divided by length, and no end token is added, so a choice that another one
        begins with is never the less likely of the two.
        """
        texts = [self._tokenizer.text(prompt) for prompt in prompts]
        wholes = [
            [self._tokenizer.encode(self._tokenizer.answered(text, choice)) for choice in options]
            for text, options in zip(texts, choices, strict=True)
        ]
        lengths = [max(len(whole) for whole in answered) for answered in wholes]
        self._check_lengths(lengths, 0)
        done = frozenset(skip)
        for indices in longest_first(lengths, batch_size):
            if stopped():
                return
            left = [i for i in indices if i not in done]
            if not left:
                continue
            rows = [row for i in indices for row in scorings(i, self._tokenizer.encode(texts[i]), wholes[i])]
            found = dict(chain.from_iterable(self._in_batches(self._score, rows, batch_size)))
            yield from ((i, [found[i, choice] for choice in range(len(choices[i]))]) for i in left)

    def timed(self, prompt: Sequence[Message], settings: GenerationSettings) -> TokenTimes:
        """Answer one prompt alone, with a clock on every token."""
        start = self._clock()
        request = Request(0, 0, tuple(self.encode(prompt)))
        self._check_lengths([len(request.ids)], settings.max_new_tokens)
        watch = Stopwatch(self._clock)
        [output] = self._halving(partial(self._decode, settings=settings, streamer=watch), [request])
        self._tokenizer.decode(output.ids)
        return TokenTimes(
            num_prompt_tokens=len(request.ids),
            token_s=tuple(arrival - start for arrival in watch.arrivals[1:]),
            total_s=self._clock() - start,
        )

    def _check_lengths(self, lengths: Sequence[int], max_new_tokens: int) -> None:
        limit = self._context_length - max_new_tokens
        for index, length in enumerate(lengths):
            if length > limit:
                raise ConfigError(
                    f"example {index} has {length} prompt tokens, but the model's context of {self._context_length}"
                    f" leaves {limit} beside max_new_tokens={max_new_tokens}."
                    " Lower prompt.num_shots or engine.max_new_tokens, or choose a model with a longer context."
                )

    def _generate_batch(
        self, batch_index: int, rows: Sequence[Request], settings: GenerationSettings
    ) -> list[Generation]:
        start = self._clock()
        outputs = self._in_batches(partial(self._decode, settings=settings), rows, settings.batch_size)
        seconds = self._clock() - start
        return [self._generation(output, batch_index, seconds) for output in outputs]

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

    def _decode(
        self, rows: Sequence[Request], *, settings: GenerationSettings, streamer: BaseStreamer | None = None
    ) -> list[Output]:
        ids, mask = self._tensors([row.ids for row in rows])
        with torch.inference_mode():
            sequences: torch.Tensor = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._greedy(settings.max_new_tokens),
                logits_processor=self._sampler(rows, settings),
                streamer=streamer,
            )
        answers: list[list[int]] = sequences[:, ids.shape[1] :].tolist()
        return [
            Output(row, until_end(answer, self._tokenizer.end_ids), len(rows))
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=self._tokenizer.end_ids or None,
            pad_token_id=self._tokenizer.pad_id,
        )

    def _sampler(self, rows: Sequence[Request], settings: GenerationSettings) -> LogitsProcessorList:
        if settings.temperature == 0:
            return LogitsProcessorList()
        seeds = [row_seed(settings.seed, row.index, row.sample) for row in rows]
        sampler = SeededSampler(temperature=settings.temperature, top_p=settings.top_p, seeds=seeds, device=self.device)
        return LogitsProcessorList([sampler])

    def _score(self, rows: Sequence[Scoring]) -> list[list[ChoiceSum]]:
        ids, mask = self._tensors([row.ids for row in rows])
        kept = max(len(row.targets[0]) for row in rows)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),  # a padded row counts from its own first token
                logits_to_keep=kept,
                use_cache=False,
            ).logits
            logprobs = logits[:, -kept:].float().log_softmax(-1)
            return [choice_sums(row, table) for row, table in zip(rows, logprobs, strict=True)]

    def _tensors(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = left_padded(rows, self._tokenizer.pad_id)
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _in_batches(self, work: Callable[[Sequence[Item]], list[Out]], rows: Sequence[Item], size: int) -> list[Out]:
        return [out for part in chunks(rows, size) for out in self._halving(work, part)]

    def _halving(self, work: Callable[[Sequence[Item]], list[Out]], rows: Sequence[Item]) -> list[Out]:
        """work(rows), in halves where the device has not the memory for all of them."""
        try:
            return work(rows)
        except torch.OutOfMemoryError:
            pass  # go on outside: in here the error's traceback keeps the failed batch's tensors alive
        if len(rows) == 1:
            raise OutOfMemoryError(
                f"out of memory on {self.device} even at batch size 1."
                " Choose a smaller model, a quant of fewer bits, or fewer prompt.num_shots."
            )
        self._release(len(rows))
        middle = (len(rows) + 1) // 2
        return self._halving(work, rows[:middle]) + self._halving(work, rows[middle:])

    def _release(self, num_rows: int) -> None:
        if not self._warned:
            log.warning("out of memory on %s with %d rows in a batch: halved where it happens", self.device, num_rows)
            self._warned = True
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _clock(self) -> float:
        """Seconds, read once the device has done all it was asked."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Stopwatch(BaseStreamer):
    """Notes when `generate` hands something over: the prompt, then every token once it is known."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.arrivals: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """One arrival; what arrived is of no interest."""
        del value
        self.arrivals.append(self._clock())

    def end(self) -> None:
        """Nothing is held back."""
