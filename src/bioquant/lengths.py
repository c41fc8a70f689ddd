"""How long a cell's prompts are in a model's tokens, before the model or even its tokenizer is on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from bioquant import answering, checkpoints, datasets, models, prompts, run
from bioquant.config import ModelConfig, ModelSource, RunConfig
from bioquant.engine.batching import shareable
from bioquant.engine.tokens import PromptTokenizer
from bioquant.errors import DataError
from bioquant.estimates import Tokens, estimated
from bioquant.records import Dataset, Message

MOST_READ = 1000
"""Prompts that are looked at: all of a smaller split, else a seeded sample."""

MOST_COUNTED = 100
"""Of these the longest, whose tokens are counted one by one."""


class Source(StrEnum):
    """Where lengths come from: the model's tokenizer, its number of characters, or nothing at all."""

    counted = "counted"
    estimated = "estimated"
    assumed = "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The prompts of a cell, in tokens.

    num_examples: None where the task's files are not here. shared: tokens that all prompts begin with. longest, mean:
    of what is a prompt's own. characters: of all prompts together.
    """

    num_examples: int | None
    shared: int
    longest: int
    mean: float
    characters: int
    source: Source


ASSUMED = Lengths(num_examples=None, shared=512, longest=512, mean=512.0, characters=0, source=Source.assumed)
"""Prompts of 1,024 tokens, half of them shared, where the task's files are not here."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The prompts of a cell, whatever the model: `read` of its `num_examples` prompts."""

    num_examples: int
    read: tuple[tuple[Message, ...], ...]

    def after(self, system_prompt: str | None) -> "Texts":
        """As a model is asked that has this system prompt."""
        system = prompts.system_turn(system_prompt)
        return replace(self, read=tuple((*system, *messages) for messages in self.read))


class Reader:
    """Lengths of many cells: each task's files are read once, each prompt is written once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset | None] = {}
        self._texts: dict[str, Texts] = {}
        self._tokenizers: dict[str, PromptTokenizer] = {}
        self._lengths: dict[str, Lengths] = {}

    def lengths(self, config: RunConfig) -> Lengths:
        """The cell's. Raises ConfigError where the task and the prompting method do not go together."""
        system_prompt, room = config.model.system_prompt, max(1, answering.room(config))
        asked = repr((config.task, config.prompt, config.data, config.limit, config.seed))
        key = repr((asked, system_prompt, _vocabulary(config.model), room))
        if key not in self._lengths:
            dataset = self._dataset(config)
            if dataset is not None and asked not in self._texts:
                self._texts[asked] = _texts(config, dataset)
            self._lengths[key] = (
                measure(self._texts[asked].after(system_prompt), self._tokenizer(config.model), room)
                if asked in self._texts
                else ASSUMED
            )
        return self._lengths[key]

    def _dataset(self, config: RunConfig) -> Dataset | None:
        """None where the task's files are not here."""
        key = repr((config.task, config.data))
        if key not in self._datasets:
            try:
                dataset = run.read(config)
                pool = prompts.clean_pool(dataset.test, dataset.pool)  # once: it looks at every text
                self._datasets[key] = replace(dataset, pool=pool)
            except DataError:
                self._datasets[key] = None
        return self._datasets[key]

    def _tokenizer(self, model: ModelConfig) -> PromptTokenizer | None:
        """None where it is not here: reading a plan must not download."""
        key = _vocabulary(model)
        if key and key not in self._tokenizers:
            self._tokenizers[key] = PromptTokenizer(models.tokenizer(model), None)
        return self._tokenizers.get(key)


def measure(texts: Texts, tokenizer: PromptTokenizer | None, room: int) -> Lengths:
    """The lengths of these prompts; one that is longer than there is room for counts as shortened."""
    written = ["".join(message.content for message in prompt) for prompt in texts.read]
    found = estimated(written) if tokenizer is None else _counted(texts.read, written, tokenizer)
    shared = min(found.shared, room - 1)
    characters = sum(map(len, written)) * texts.num_examples // len(written)
    return Lengths(
        num_examples=texts.num_examples,
        shared=shared,
        longest=min(found.longest, room) - shared,
        mean=max(1.0, min(characters / texts.num_examples * found.per_character, room) - shared),
        characters=characters,
        source=Source.estimated if tokenizer is None else Source.counted,
    )


def _counted(read: Sequence[Sequence[Message]], written: Sequence[str], tokenizer: PromptTokenizer) -> Tokens:
    """Of the longest prompts."""
    longest_first = sorted(range(len(written)), key=lambda index: -len(written[index]))[:MOST_COUNTED]
    ids = [tokenizer.encode(tokenizer.text(read[index])) for index in longest_first]
    per_character = sum(map(len, ids)) / sum(len(written[index]) for index in longest_first)
    return Tokens(shareable(ids), max(map(len, ids)), per_character)


def _texts(config: RunConfig, dataset: Dataset) -> Texts:
    """Raises ConfigError where the task and the prompting method do not go together."""
    number = len(dataset.test) if config.limit is None else min(config.limit, len(dataset.test))
    rows = datasets.sample(dataset.test, min(number, MOST_READ), config.seed)
    examples = prompts.build(rows, dataset.pool, config.task, config.prompt, system_prompt=None, seed=config.seed)
    return Texts(number, tuple(example.messages for example in examples))


def _vocabulary(model: ModelConfig) -> str:
    """What tells apart the models whose tokens can be counted here; empty for all others."""
    here = model.source is ModelSource.random or checkpoints.is_cached(model)
    return repr((model.source, model.id, model.revision, model.chat_template)) if here else ""
