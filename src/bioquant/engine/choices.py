"""Which tokens of a prompt and its choices are scored, and their sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bioquant.engine.batching import common_prefix
from bioquant.engine.tokens import PromptTokenizer
from bioquant.records import Message


@dataclass(frozen=True, slots=True)
class Scoring:
    """One row of a log-likelihood batch: choices that are asked after the same input.

    ids: the input. choices: their places among the prompt's choices. targets: each one's tokens, predicted by the
    input's last positions, so all of one length; they differ from one another in the last token.
    """

    index: int
    ids: tuple[int, ...]
    choices: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]


ChoiceSum = tuple[tuple[int, int], float]
"""((the prompt's index, the choice's), the sum of its log-probabilities)."""


def tokenized(
    tokenizer: PromptTokenizer, prompts: Sequence[Sequence[Message]], choices: Sequence[Sequence[str]]
) -> tuple[list[int], list[list[Scoring]]]:
    """Each prompt's length with its longest choice, and its rows. Prompt and choice are tokenized as one text."""
    texts = [tokenizer.text(prompt) for prompt in prompts]
    wholes = [
        [tokenizer.encode(tokenizer.answered(text, choice)) for choice in options]
        for text, options in zip(texts, choices, strict=True)
    ]
    lengths = [max(len(whole) for whole in answered) for answered in wholes]
    return lengths, [scorings(i, tokenizer.encode(text), wholes[i]) for i, text in enumerate(texts)]


def scorings(index: int, prompt: Sequence[int], wholes: Sequence[Sequence[int]]) -> list[Scoring]:
    """The rows that score one prompt's choices: choices of one token each need the prompt only once.

    wholes: the tokens of the prompt with each choice behind it. All choices are scored from where the first of them
    leaves the prompt's own tokens, as a tokenizer may join the prompt's end and the choice's start.
    """
    shared = common_prefix([prompt, *wholes])
    members: dict[tuple[int, ...], list[int]] = {}
    for choice, whole in enumerate(wholes):
        members.setdefault(tuple(whole[:-1]), []).append(choice)
    return [
        Scoring(index, ids, tuple(choices), tuple(tuple(wholes[choice][shared:]) for choice in choices))
        for ids, choices in members.items()
    ]


def choice_sums(row: Scoring, logprobs: torch.Tensor) -> list[ChoiceSum]:
    """The sum of each choice of a row; logprobs is (positions, vocabulary) and ends where the row ends."""
    targets = torch.tensor(row.targets, device=logprobs.device)
    tail = logprobs[-targets.shape[1] :]
    picked = tail.expand(len(row.targets), -1, -1).gather(-1, targets[..., None])
    sums: list[float] = picked.sum((1, 2)).tolist()
    return [((row.index, choice), value) for choice, value in zip(row.choices, sums, strict=True)]
