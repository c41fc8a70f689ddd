"""Speed: latency from a probe of its own, throughput from the evaluation itself."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TypedDict

import numpy as np

from bioquant.engine import GenerationSettings, LanguageModel, TokenTimes
from bioquant.records import Latency, Message, Percentiles, Prediction

MIN_FOR_TAIL = 20
"""Timed examples that p95 and p99 need."""


class Throughput(TypedDict):
    """Per second of the evaluation's batches; None where nothing was evaluated."""

    examples_per_s: float | None
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None


def probe(
    model: LanguageModel,
    prompts: Sequence[Sequence[Message]],
    settings: GenerationSettings,
    *,
    batch_size: int,
    num_examples: int,
    num_warmup: int,
) -> Latency:
    """Time the first `num_examples` prompts `batch_size` at a time, from the start again where there are fewer.

    Whole groups are timed, so there may be a few more; `num_warmup` prompts at least are answered before and not timed.
    Raises OutOfMemoryError.
    """
    together = replace(settings, limits=replace(settings.limits, rows=batch_size), num_samples=1)
    groups, warm_groups = (-(-number // batch_size) for number in (num_examples, num_warmup))
    asked = list(islice(cycle(prompts), groups * batch_size))
    return summarise(model.timed(asked, together, num_warmup=warm_groups), batch_size)


def summarise(times: Sequence[TokenTimes], batch_size: int) -> Latency:
    """Time to first token, time per output token and whole examples, in milliseconds.

    Time per output token is (last - first) / (n - 1) of each example's n tokens, so the prompt's prefill is not in it.
    """
    rates = [(t.token_s[-1] - t.token_s[0]) / (len(t.token_s) - 1) for t in times if len(t.token_s) > 1]
    return Latency(
        batch_size=batch_size,
        ttft_ms=percentiles_ms([t.token_s[0] for t in times]),
        tpot_ms=percentiles_ms(rates) if rates else None,
        example_ms=percentiles_ms([t.total_s for t in times]),
    )


def percentiles_ms(seconds: Sequence[float]) -> Percentiles:
    """Percentiles by numpy's linear interpolation, in milliseconds."""
    p50, p95, p99 = (float(value) for value in np.percentile(np.asarray(seconds) * 1000, [50, 95, 99]))
    enough = len(seconds) >= MIN_FOR_TAIL
    return Percentiles(p50=p50, p95=p95 if enough else None, p99=p99 if enough else None, count=len(seconds))


def throughput(predictions: Iterable[Prediction]) -> Throughput:
    """Examples, real (unpadded) prompt tokens and output tokens a second; a batch's time counts once.

    Self-consistency's samples all count as output tokens; their common prompt counts once.
    """
    made = list(predictions)
    batches = {prediction.batch_index: prediction.seconds for prediction in made}
    seconds = sum(batches.values())
    if seconds == 0:
        return Throughput(examples_per_s=None, prompt_tokens_per_s=None, output_tokens_per_s=None)
    return Throughput(
        examples_per_s=len(made) / seconds,
        prompt_tokens_per_s=sum(prediction.num_prompt_tokens for prediction in made) / seconds,
        output_tokens_per_s=sum(prediction.num_output_tokens for prediction in made) / seconds,
    )
