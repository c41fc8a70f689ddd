"""Prompt lengths from characters alone: the same whichever tokenizers are on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from bioquant.config import ModelConfig, ModelSource
from bioquant.engine.batching import FEWEST_SHARED, common_prefix

CHARACTERS_PER_TOKEN = 3.5
"""SmolLM2's tokenizer has 3.5 to 4.8 on the benchmark tasks: an estimate is rather too long."""

TEMPLATE_TOKENS = 40
"""What a chat template adds to an estimate."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that all prompts begin with, those of the longest whole prompt, and tokens a character."""

    shared: int
    longest: int
    per_character: float


def estimated(written: Sequence[str], characters_per_token: float = CHARACTERS_PER_TOKEN) -> Tokens:
    """Of these texts."""
    ends = [min(written).encode(), max(written).encode()]  # what these two begin with, all in between do
    shared = int(common_prefix(ends) / characters_per_token) if len(written) > 1 else 0
    longest = int(max(map(len, written)) / characters_per_token) + TEMPLATE_TOKENS
    return Tokens(shared if shared >= FEWEST_SHARED else 0, longest, 1 / characters_per_token)


def characters_per_token(model: ModelConfig) -> float:
    """Of a model whose tokenizer is not asked; random weights come with a byte-level one."""
    return 1.0 if model.source is ModelSource.random else CHARACTERS_PER_TOKEN
