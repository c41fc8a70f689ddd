"""Sampling whose noise belongs to a prompt and a sample, not to the batch they ride in."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper


class SeededSampler:
    """Samples of softmax(logits / temperature) within top-p, as the arg max of noisy scores.

    The Gumbel-max trick: arg max(log p + g), with g drawn from the standard Gumbel distribution, is distributed as p
    (Gumbel 1954; Maddison, Tarlow and Minka, "A* Sampling", 2014). Each row draws from its own generator, so a prompt's
    samples depend neither on its neighbours nor on the order of the batches. -log of an exponential variate is Gumbel.

    seeds: one a row of the batch.
    """

    def __init__(self, *, temperature: float, top_p: float, seeds: Sequence[int], device: str) -> None:
        self._warpers: tuple[Any, ...] = (TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p))
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, (rows), from logits of shape (rows, vocabulary)."""
        scores = logits.float()
        for warper in self._warpers:
            scores = warper(None, scores)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return (scores - noise.log_()).argmax(-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._generators = [self._generators[row] for row in rows]


class Greedy:
    """The likeliest token of each row."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, (rows), from logits of shape (rows, vocabulary)."""
        return logits.argmax(-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Every row is treated alike."""


def row_seed(seed: int, index: int, sample: int) -> int:
    """A generator's seed for one sample of one prompt; unlike seed + index, two runs' seeds do not overlap."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}:{sample}".encode()).digest()[:7])
