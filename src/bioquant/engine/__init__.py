"""Text in, text or log-probabilities out. Knows no task; imports no torch until an engine is chosen."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bioquant.engine.batching import Limits
from bioquant.records import Generation, Message


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How text is generated.

    limits: how much goes through the model at once; a row is one sample of one prompt.
    temperature: 0 is greedy. seed: of the samples; without use when greedy.
    """

    max_new_tokens: int
    limits: Limits
    num_samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTimes:
    """One prompt of a group that was answered together, timed from before tokenizing.

    token_s: seconds until each output token was known, in order, the end token included.
    total_s: seconds until the last of them was and the text was decoded.
    """

    num_prompt_tokens: int
    token_s: tuple[float, ...]
    total_s: float


class LanguageModel(Protocol):
    """What every engine offers."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "cuda:0"."""
        ...

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, up to where the model's answer begins; a BOS token stands there exactly once."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        settings: GenerationSettings,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Generation]:
        """Answer prompts batch by batch, `num_samples` generations a prompt, in the order batches finish.

        skip: indices of prompts that are already answered. Batches are formed as if nothing were skipped, so that a
        resumed run gives the same text as one that was never interrupted. stopped: asked before each batch.

        Raises:
            ConfigError: a prompt and `max_new_tokens` do not fit the model's context.
            OutOfMemoryError: not even one row fits the device.
        """
        ...

    def loglikelihood(
        self,
        prompts: Sequence[Sequence[Message]],
        choices: Sequence[Sequence[str]],
        limits: Limits,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, list[float]]]:
        """Each prompt's index and, for each of its choices, the sum of log p(token | what stands before it).

        Skips, stops and raises as `generate` does.
        """
        ...

    def timed(
        self, prompts: Sequence[Sequence[Message]], settings: GenerationSettings, *, num_warmup: int
    ) -> list[TokenTimes]:
        """Answer prompts in order, `limits.rows` at a time, with a clock on every token.

        As a service meets them: nothing is known beforehand of what they share. The first `num_warmup` groups, over the
        same prompts, are not timed. Raises as `generate` does.
        """
        ...
