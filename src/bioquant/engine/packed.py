"""Forward passes of a transformers model over packed prompts: one row of tokens, no padding, no cache of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from transformers import AttentionInterface

from bioquant.engine.attention import Attending, Form, PromptPass, Segments, SharedPass, StepPass
from bioquant.engine.keyvalues import KeyValues, Places
from bioquant.errors import ModelError

NAME = "bioquant"
"""Of our attention among transformers' implementations."""

WITHOUT_EFFECT = {"dropout", "position_ids", "use_cache", "output_router_logits"}
"""What models hand to an attention and ours has no use for."""

LAYER_TYPES = {"full_attention", "sliding_attention"}

CHECK_TOKENS = 48
MAX_DIVERGENCE = 0.05
"""Nats between our next-token distribution and the model's own: rounding gives 1e-3, a wrong cache more than 1."""


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    attending: Attending | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: (1, heads, tokens, head_dim) in, (1, tokens, heads, head_dim) out."""
    asked = {name for name, value in others.items() if value is not None} - WITHOUT_EFFECT
    if attending is None or attention_mask is not None or asked:
        raise NotImplementedError(f"its layers ask for an attention of their own ({', '.join(asked) or 'a mask'})")
    form = Form(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    return attending.work.attend(module.layer_idx, query[0], key[0], value[0], form)[None], None


AttentionInterface.register(NAME, torch.compiler.disable(_attention))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is a prompt's own, and the row that keeps it; None where nothing needs to be kept."""

    ids: Sequence[int]
    row: int | None


class PackedModel:
    """A causal language model, in evaluation mode on `device`, under our attention.

    compiled: what stands between a layer's matrix products becomes a few kernels of its own, by torch.compile. One
    compilation serves all layers and numbers of tokens, another one single tokens.

    Raises ModelError where the architecture does not take another attention, or gives other logits under it.
    """

    def __init__(self, model: Any, device: str, *, compiled: bool = False) -> None:
        self.device = device
        self._model = model
        expected = self._own_logits(_check_ids(model))
        model.set_attn_implementation(NAME)
        config = model.config.get_text_config()
        if config._attn_implementation != NAME or not set(getattr(config, "layer_types", None) or ()) <= LAYER_TYPES:
            raise _unsupported(model, "its attention cannot be replaced")
        if compiled:
            torch.compiler.reset()  # what was compiled for an earlier model counts against a limit of 8
            for layer in (module for module in model.modules() if type(module).__name__ in model._no_split_modules):
                layer.compile(dynamic=True)
        try:
            found = self._checked_logits(_check_ids(model))
        except NotImplementedError as error:
            raise _unsupported(model, str(error)) from error
        _check(model, expected, found)

    @torch.inference_mode()
    def share(self, keys: KeyValues, ids: Sequence[int]) -> None:
        """Read the tokens that all prompts begin with."""
        segments = self._segments([ids])
        positions = torch.arange(len(ids), device=self.device)
        self._logits(self._tensor(ids), positions, self._tensor([len(ids) - 1]), SharedPass(keys, segments))

    @torch.inference_mode()
    def read(self, keys: KeyValues, prompts: Sequence[Prompt], num_logits: int = 1) -> torch.Tensor:
        """Read what is the prompts' own; logits after each one's last tokens, (prompts, num_logits, vocab)."""
        segments = self._segments([prompt.ids for prompt in prompts])
        columns = torch.cat([torch.arange(len(prompt.ids), device=self.device) for prompt in prompts])
        ids = self._tensor(list(chain.from_iterable(prompt.ids for prompt in prompts)))
        last = [end - back for end in segments.offsets[1:] for back in range(num_logits, 0, -1)]
        work = PromptPass(keys, segments, self._places(prompts, columns))
        logits = self._logits(ids, columns + keys.num_shared, self._tensor(last), work)
        return logits.unflatten(0, (len(prompts), num_logits))

    def _places(self, prompts: Sequence[Prompt], columns: torch.Tensor) -> Places | None:
        rows = [prompt.row for prompt in prompts for _ in prompt.ids if prompt.row is not None]
        return Places(self._tensor(rows), columns) if rows else None

    @torch.inference_mode()
    def step(self, keys: KeyValues, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """One more token a row: ids and lengths are (rows); logits (rows, vocab) in the model's dtype."""
        return self._logits(ids, lengths + keys.num_shared, 0, StepPass(keys, lengths))

    def _logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        keep: torch.Tensor | int,
        work: SharedPass | PromptPass | StepPass,
    ) -> Any:
        """keep: the places whose logits are wanted; 0 is all."""
        return self._model(
            input_ids=ids[None],
            position_ids=positions[None],
            logits_to_keep=keep,
            use_cache=False,
            attending=Attending(work),
        ).logits[0]

    def _segments(self, rows: Sequence[Sequence[int]]) -> Segments:
        offsets = tuple(accumulate((len(row) for row in rows), initial=0))
        return Segments(offsets, torch.tensor(offsets, dtype=torch.int32, device=self.device))

    def _tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self.device)

    @torch.inference_mode()
    def _own_logits(self, ids: list[int]) -> torch.Tensor:
        """(2, vocab) of the model as it was loaded: after all tokens but one, and after all."""
        given = self._tensor(ids)[None]
        positions = torch.arange(len(ids), device=self.device)[None]
        return self._model(input_ids=given, position_ids=positions, use_cache=False).logits[0, -2:]

    def _checked_logits(self, ids: list[int]) -> torch.Tensor:
        """The same by our passes: a third is shared, a third a prompt's own, and the last one is a step."""
        third = len(ids) // 3
        keys = KeyValues(capacity=len(ids))
        keys.open(1, len(ids))
        self.share(keys, ids[:third])
        first = self.read(keys, [Prompt(ids[third:-1], row=0)])[0]
        second = self.step(keys, self._tensor(ids[-1:]), self._tensor([len(ids) - 1 - third]))
        return torch.cat([first, second])


def _check_ids(model: Any) -> list[int]:
    """Tokens spread over the vocabulary; any will do."""
    vocabulary = model.get_input_embeddings().num_embeddings
    return [(7 + 7919 * place) % vocabulary for place in range(CHECK_TOKENS)]


def _check(model: Any, expected: torch.Tensor, found: torch.Tensor) -> None:
    ours, own = (logits.float().log_softmax(-1) for logits in (found, expected))
    divergence = float((own.exp() * (own - ours)).sum(-1).max())
    if not divergence <= MAX_DIVERGENCE:
        raise _unsupported(model, f"with a key-value cache of ours its next token differs by {divergence:.2g} nats")


def _unsupported(model: Any, reason: str) -> ModelError:
    return ModelError(
        f"architecture '{model.config.model_type}' cannot run on engine 'transformers': {reason}. "
        "Choose engine=vllm, or another model."
    )
