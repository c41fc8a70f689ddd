"""From messages to token ids and back."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bioquant.engine.batching import common_prefix
from bioquant.errors import ConfigError, ModelError
from bioquant.privacy import told
from bioquant.records import Message

# Some templates print today's date (Llama 3.2) or let the model think at length before it answers (Qwen3). A prompt
# must be the same tomorrow, and reasoning is a prompting method here, so both are pinned; other templates ignore them.
TEMPLATE_VARIABLES: dict[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}

TEMPLATE_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)
"""What a chat template can raise: it comes with the checkpoint, and runs in Jinja's sandbox."""

SPEAKERS = {"system": "", "user": "User: ", "assistant": "Assistant: "}
"""Before each turn's text where the tokenizer has no chat template."""


class TemplateRefusedError(ModelError):
    """A chat template that does not take these turns, or no turns at all."""


class PromptTokenizer:
    """A tokenizer that knows how a prompt becomes text.

    end_ids: all tokens that end an answer. pad_id: fills up short rows; masked, so any token will do.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_token_id: int | list[int] | None) -> None:
        """eos_token_id: the checkpoint's, beside the tokenizer's: a chat model often ends a turn with another token."""
        self._tokenizer: Any = tokenizer
        listed = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
        known: set[int | None] = {self._tokenizer.eos_token_id, *listed}
        self.end_ids = sorted(token for token in known if token is not None)
        pad: int | None = self._tokenizer.pad_token_id
        self.pad_id = min(self.end_ids, default=0) if pad is None else pad
        self._bos_id = _own_bos(self._tokenizer)
        self._encoded: dict[tuple[Message, ...], list[int]] = {}

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, up to where the model's answer begins.

        Kept, since a cell's prompts are asked for by each of its stages: a millisecond each is as much as a GPU takes.
        To be forgotten once they are answered: a service must not grow with, or hold on to, what it was asked.
        """
        key = tuple(messages)
        if key not in self._encoded:
            self._encoded[key] = self.encode(self.text(messages))
        return self._encoded[key]

    def forget(self) -> None:
        """Keep no prompt any longer."""
        self._encoded.clear()

    def encode(self, text: str) -> list[int]:
        """The text's token ids, after exactly one BOS token where this tokenizer puts one before every text."""
        ids: list[int] = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._bos_id is None:
            return ids
        written = common_prefix([ids, [self._bos_id] * len(ids)])  # by the chat template: once, twice or not at all
        return [self._bos_id, *ids[written:]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the answer begins: the chat template's, or plain turns where there is none."""
        if not self._tokenizer.chat_template:
            return "\n\n".join([*(SPEAKERS[message.role] + message.content for message in messages), "Assistant:"])
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._templated(turns)
        except TemplateRefusedError:  # Gemma's and older Mistral templates refuse a system turn
            if len(turns) < 2 or turns[0]["role"] != "system":
                raise
            first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
            return self._templated([first, *turns[2:]])

    def answered(self, text: str, answer: str) -> str:
        """The prompt's text with an answer after it."""
        # "Assistant:" ends without the space that the answer begins with: a space alone would be another token.
        return text + answer if self._tokenizer.chat_template else f"{text} {answer}"

    def _templated(self, turns: list[dict[str, str]]) -> str:
        """Raises TemplateRefusedError."""
        try:
            return self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False, **TEMPLATE_VARIABLES
            )
        except TEMPLATE_FAULTS as error:
            raise TemplateRefusedError(
                f"the chat template of the model's tokenizer fails ({type(error).__name__}: {told(error)}): set "
                "model.chat_template=false for plain turns, or choose another checkpoint."
            ) from error


def check_lengths(lengths: Sequence[int], context_length: int, max_new_tokens: int) -> None:
    """Raise ConfigError for the first prompt that, with its answer, is longer than the model's context."""
    limit = context_length - max_new_tokens
    for index, length in enumerate(lengths):
        if length > limit:
            raise ConfigError(
                f"example {index} has {length} prompt tokens, but the model's context of {context_length}"
                f" leaves {limit} beside max_new_tokens={max_new_tokens}."
                " Lower prompt.num_shots or engine.max_new_tokens, or choose a model with a longer context."
            )


def _own_bos(tokenizer: Any) -> int | None:
    """The BOS token if this tokenizer puts it before every text."""
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else None
