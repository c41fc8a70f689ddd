"""A dataset looked at before a model sees it: sizes, labels, duplicates, prompts, and whether they fit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bioquant import answering, datasets, models, prompts, run
from bioquant.config import RunConfig
from bioquant.engine.tokens import PromptTokenizer
from bioquant.records import Answer, Dataset, Example, Row, Span
from bioquant.tasks import kind_of

MOST_COUNTED = 500
"""Prompts whose tokens are counted where there is no smaller `limit`: all of a smaller split, else a seeded sample."""

SHOWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Prompt lengths in a model's tokens over `num_prompts` prompts, before any is shortened to fit its context.

    num_shortened: prompts that a run would shorten to `room` tokens. unfit: the ids of those that stay too long however
    much is left out of them; a run refuses them.
    """

    num_prompts: int
    shortest: int
    median: int
    p95: int
    longest: int
    room: int
    num_shortened: int
    unfit: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What there is to know of a task's data.

    labels: label -> how often it is gold in test and in pool; for NER the entity types, and "(none)" for rows without.
    num_duplicates: rows of the test split and of the pool that ask what an earlier row of the same split asks.
    num_shared: rows that are left out of the pool since the test split holds them too, by id, question or text.
    shown: the first prompts, as a run would ask them, each with its gold answer; none with privacy.log_text=false.
    """

    num_test: int
    num_pool: int
    digest: str
    origin: str
    labels: dict[str, tuple[int, int]]
    num_duplicates: tuple[int, int]
    num_shared: int
    shown: tuple[tuple[str, str], ...]
    lengths: Lengths


def inspect(config: RunConfig) -> Inspection:
    """Read the task, write a run's prompts, count them in the model's tokens. Raises UserError as a run would."""
    dataset = usable(run.read(config))
    limit = min(config.limit or MOST_COUNTED, MOST_COUNTED)
    examples = run.prepare(replace(config, limit=limit), dataset).examples
    tokens = PromptTokenizer(models.tokenizer(config.model), None)

    def length(example: Example) -> int:
        return len(tokens.encode(tokens.text(example.messages)))

    def fits(example: Example) -> bool:
        return length(example) <= answering.room(config)

    asked = {example.id: prompts.fitting(example, config.task, config.prompt, fits) for example in examples}
    return Inspection(
        num_test=len(dataset.test),
        num_pool=len(dataset.pool),
        digest=dataset.digest,
        origin=dataset.origin,
        labels=label_counts(dataset),
        num_duplicates=(num_duplicates(dataset.test), num_duplicates(dataset.pool)),
        num_shared=dataset.num_shared,
        shown=tuple(shown(asked[example.id] or example, config) for example in _shown(examples, config)),
        lengths=lengths([length(example) for example in examples], asked, answering.room(config)),
    )


def usable(dataset: Dataset) -> Dataset:
    """The dataset with the pool that a run draws from: without what the test split holds, by id or by text."""
    pool = prompts.clean_pool(dataset.test, dataset.pool)
    return replace(dataset, pool=pool, num_shared=dataset.num_shared + len(dataset.pool) - len(pool))


def _shown(examples: Sequence[Example], config: RunConfig) -> Sequence[Example]:
    """The examples whose texts are shown: none where texts are kept out of what is printed."""
    return examples[:SHOWN] if config.privacy.log_text else ()


def shown(example: Example, config: RunConfig) -> tuple[str, str]:
    """The user's turn of a prompt, and its gold answer as a few-shot example writes it."""
    return example.messages[-1].content, kind_of(config.task.kind).answer_text(example.row.target)


def label_counts(dataset: Dataset) -> dict[str, tuple[int, int]]:
    """How often each label is gold in the test split and in the pool, the most frequent first."""
    test, pool = (Counter(name for row in rows for name in _names(row.target)) for rows in (dataset.test, dataset.pool))
    names = sorted(test | pool, key=lambda name: (-test[name], name))
    return {name: (test[name], pool[name]) for name in names}


def _names(target: Answer) -> Sequence[str]:
    if isinstance(target, str):
        return [target]
    return [part.label if isinstance(part, Span) else part for part in target] or ["(none)"]


def num_duplicates(rows: Sequence[Row]) -> int:
    """Rows that ask what an earlier one asks, up to case, blanks and punctuation."""
    return len(rows) - len({datasets.asked(row) for row in rows})


def lengths(num_tokens: Sequence[int], asked: Mapping[str, Example | None], room: int) -> Lengths:
    """Percentiles of the prompts' lengths, and what a run would do about those that are longer than there is room for.

    asked: each prompt by its example's id as a run would ask it; None where it cannot be made to fit.
    """
    return Lengths(
        num_prompts=len(num_tokens),
        shortest=min(num_tokens),
        median=int(np.median(num_tokens)),
        p95=int(np.percentile(num_tokens, 95)),
        longest=max(num_tokens),
        room=room,
        num_shortened=sum(form is not None and form.truncated for form in asked.values()),
        unfit=tuple(name for name, form in asked.items() if form is None),
    )
