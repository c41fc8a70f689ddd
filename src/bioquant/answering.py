"""From prompts to predictions: how an evaluation and a service alike come to their answers."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bioquant import privacy, prompts
from bioquant.config import RunConfig, Scoring
from bioquant.engine import GenerationSettings, LanguageModel
from bioquant.engine.batching import Limits, sha256
from bioquant.records import Audit, Example, Generation, Prediction
from bioquant.tasks import kind_of
from bioquant.tasks.fields import label_names


def ask(
    config: RunConfig,
    examples: Sequence[Example],
    model: LanguageModel,
    skip: frozenset[int] = frozenset(),
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Prediction]]:
    """Each example's place and prediction, as they are made.

    skip: places that are not asked. stopped: looked at between batches. With `privacy.log_text=false` what comes from
    here holds no text.
    """
    method = generated if config.engine.scoring is Scoring.generate else likeliest
    made = method(config, examples, model, skip, stopped)
    if config.privacy.log_text:
        return made
    labels = label_names(config.task)
    return ((index, privacy.without_text(prediction, examples[index], labels)) for index, prediction in made)


def audit(
    config: RunConfig, examples: Sequence[Example], predictions: Sequence[Prediction], model: LanguageModel
) -> Audit | None:
    """Answer the first `engine.audit` examples again, each alone and read whole; None where none is asked for.

    predictions: what the batches gave, in the examples' order.
    """
    number = min(config.engine.audit, len(examples))
    if not number:
        return None
    alone = replace(config, engine=replace(config.engine, batch=1, batch_tokens=None, share_prefix=False))
    others = frozenset(range(number, len(examples)))
    pairs = [(predictions[index], again) for index, again in ask(alone, examples, model, others)]
    return Audit(
        num_examples=number,
        num_changed=sum(one.outputs != again.outputs for one, again in pairs),
        num_flipped=sum(one.correct != again.correct for one, again in pairs),
    )


def generated(
    config: RunConfig,
    examples: Sequence[Example],
    model: LanguageModel,
    skip: frozenset[int],
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Prediction]]:
    """Predictions from generated text, each once all its samples are drawn."""
    samples = defaultdict[int, list[Generation]](list)
    prompted = [example.messages for example in examples]
    for generation in model.generate(prompted, settings(config), skip=skip, stopped=stopped):
        drawn = samples[generation.index]
        drawn.append(generation)
        if len(drawn) == config.prompt.num_samples:
            yield generation.index, predict(config, examples[generation.index], drawn)


def likeliest(
    config: RunConfig,
    examples: Sequence[Example],
    model: LanguageModel,
    skip: frozenset[int],
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Prediction]]:
    """Predictions from the log-probability of each choice: the likeliest is the answer, so none is invalid."""
    prompted = [example.messages for example in examples]
    choices = [example.row.choices for example in examples]
    start = time.perf_counter()
    scored = model.loglikelihood(prompted, choices, limits(config), skip=skip, stopped=stopped)
    for index, logprobs in scored:
        now = time.perf_counter()
        yield index, choose(examples[index], logprobs, model.encode(prompted[index]), now - start, index)
        start = now


def predict(config: RunConfig, example: Example, drawn: Sequence[Generation]) -> Prediction:
    """One example's outputs, parsed and compared with what is right. Pure."""
    kind = kind_of(config.task.kind)
    outputs = tuple(generation.text for generation in drawn)
    finals = [prompts.final_answer(output, config.prompt) for output in outputs]
    parsed = [None if final is None else kind.parse(final, example.row, config.task) for final in finals]
    answer = prompts.vote(parsed)
    first = drawn[0]
    return Prediction(
        example_id=example.id,
        prompt=example.messages[-1].content,
        outputs=outputs,
        answer=answer,
        target=example.row.target,
        correct=answer == example.row.target,
        num_prompt_tokens=first.num_prompt_tokens,
        num_output_tokens=sum(generation.num_output_tokens for generation in drawn),
        finish="length" if any(generation.finish == "length" for generation in drawn) else "stop",
        input_ids_sha256=first.input_ids_sha256,
        seconds=first.seconds,
        batch_index=first.batch_index,
        batch_size=first.batch_size,
        truncated=example.truncated,
    )


def choose(example: Example, logprobs: Sequence[float], ids: Sequence[int], seconds: float, index: int) -> Prediction:
    """The likeliest choice as a prediction. Its text is the choice; no token was generated."""
    answer = example.row.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
    return Prediction(
        example_id=example.id,
        prompt=example.messages[-1].content,
        outputs=(answer,),
        answer=answer,
        target=example.row.target,
        correct=answer == example.row.target,
        num_prompt_tokens=len(ids),
        num_output_tokens=0,
        finish="stop",
        input_ids_sha256=sha256(ids),
        seconds=seconds,
        batch_index=index,
        batch_size=1,
        choice_logprobs=tuple(logprobs),
        truncated=example.truncated,
    )


def fitting(config: RunConfig, example: Example, model: LanguageModel) -> Example | None:
    """The example, shortened where the model's context asks for it; None where it cannot be made to fit."""

    def fits(shown: Example) -> bool:
        return len(model.encode(shown.messages)) <= room(config)

    return prompts.fitting(example, config.task, config.prompt, fits)


def room(config: RunConfig) -> int:
    """The tokens the model's context leaves for a prompt."""
    return config.model.context_length - max_new_tokens(config)


def max_new_tokens(config: RunConfig) -> int:
    """The answer's token limit, reasoning included."""
    answer_tokens = config.engine.max_new_tokens or config.task.max_new_tokens
    return answer_tokens + (config.prompt.reasoning_tokens if config.prompt.chain_of_thought else 0)


def settings(config: RunConfig) -> GenerationSettings:
    """How the engine generates in this cell, whose batch is decided."""
    return GenerationSettings(
        max_new_tokens=max_new_tokens(config),
        limits=limits(config),
        num_samples=config.prompt.num_samples,
        temperature=config.prompt.temperature,
        top_p=config.prompt.top_p,
        seed=config.seed,
    )


def limits(config: RunConfig) -> Limits:
    """How much goes through the model at once in this cell, whose batch is decided."""
    engine = config.engine
    assert isinstance(engine.batch, int)
    return Limits(
        rows=engine.batch,
        tokens=engine.batch_tokens,
        prefill_tokens=engine.prefill_tokens,
        share_prefix=engine.share_prefix,
    )
