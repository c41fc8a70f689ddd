"""Attention over tokens that all rows share and tokens of their own, behind transformers' AttentionInterface.

Two shapes of work, both with the tokens of all rows one after another and no padding: *packed* prompts, where each
token sees the shared ones and those before it in its own prompt; and *stepping*, one new token a row.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import functional

from bioquant.engine.keyvalues import KeyValues, Pair, Places

WIDEST_FLASH_HEAD = 256


@dataclass(frozen=True, slots=True)
class Form:
    """What a layer asks of its attention.

    window: a token sees those less than so many places back. softcap: scores become softcap·tanh(score / softcap).
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Segments:
    """Where each prompt's tokens lie in a pack: from one offset to the next, on the host and on the device (int32)."""

    offsets: tuple[int, ...]
    on_device: torch.Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(end - start for start, end in pairwise(self.offsets))


def packed(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments, shared: Pair | None, form: Form
) -> torch.Tensor:
    """Causal attention inside each segment, and of every token to all shared ones.

    query: (heads, tokens, head_dim); keys, values: (kv_heads, tokens, head_dim). Returns (tokens, heads, head_dim).
    """
    if not _flash_can(query, values, segments, shared, form):
        parts = [
            _masked(query[:, start:end], keys[:, start:end], values[:, start:end], shared, form)
            for start, end in pairwise(segments.offsets)
        ]
        return torch.cat(parts)
    own, own_lse = _flash(query, (keys, values), segments, segments, form, causal=True)
    if shared is None:
        return own
    asking, asked = (_whole(part.shape[1], query.device) for part in (query, shared[0]))
    of_shared, shared_lse = _flash(query, shared, asking, asked, form, causal=False)
    return _joined(own, own_lse, of_shared, shared_lse)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step's rows may see: 0 where they may, -inf where not.

    own: (rows · kv_heads, 1, width). shared: (rows, 1, 1, shared), None where every row sees all shared tokens.
    """

    own: torch.Tensor
    shared: torch.Tensor | None


def stepping(query: torch.Tensor, own: Pair, shared: Pair | None, seen: Seen, form: Form) -> torch.Tensor:
    """Attention of one token a row: one softmax over the shared tokens and the row's own, in float32.

    The shared keys are read once for all rows, not once a row: the rows' queries stand as one matrix before them.

    query: (heads, rows, head_dim). Returns (rows, heads, head_dim).
    """
    heads, rows, dim = query.shape
    kv_heads, width = own[0].shape[1:3]
    group = heads // kv_heads
    asked = (query * form.scaling).view(kv_heads, group, rows, dim)
    by_row = asked.permute(2, 0, 1, 3).reshape(rows * kv_heads, group, dim)
    scores = _scores(by_row, own[0].flatten(0, 1), seen.own, form).view(rows, kv_heads, group, width)
    num_shared = 0
    if shared is not None:
        num_shared = shared[0].shape[1]
        to_shared = _scores(asked.reshape(kv_heads, group * rows, dim), shared[0], None, form)
        to_shared = to_shared.view(kv_heads, group, rows, num_shared).permute(2, 0, 1, 3)
        scores = torch.cat([to_shared if seen.shared is None else to_shared + seen.shared, scores], -1)
    weights = scores.softmax(-1)
    of_own = _cast(weights[..., num_shared:], query.dtype).view(rows * kv_heads, group, width)
    found = _product(of_own, own[1].flatten(0, 1)).view(rows, kv_heads, group, -1)
    if shared is not None:
        of_shared = _cast(weights[..., :num_shared].permute(1, 2, 0, 3), query.dtype).view(kv_heads, -1, num_shared)
        found += _product(of_shared, shared[1]).view(kv_heads, group, rows, -1).permute(2, 0, 1, 3)
    return found.to(query.dtype).view(rows, heads, -1)


def _scores(query: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor | None, form: Form) -> torch.Tensor:
    """Batched query · keys in float32, capped where the form says so, then biased."""
    if form.softcap is None:
        return _product(query, keys.transpose(1, 2), bias)
    capped = _capped(_product(query, keys.transpose(1, 2)), form)
    return capped if bias is None else capped.add_(bias)


def _product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Batched matrix product with a float32 result: bfloat16 would round scores to 3 digits before the softmax."""
    if left.dtype != torch.float32 and left.is_cuda:
        if bias is None:
            return torch.bmm(left, right, out_dtype=torch.float32)
        return torch.baddbmm(bias, left, right, out_dtype=torch.float32)
    if bias is None:
        return torch.bmm(left.float(), right.float())
    return torch.baddbmm(bias, left.float(), right.float())


def _cast(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In another type and in order in memory, by one copy."""
    return values.to(dtype, memory_format=torch.contiguous_format, copy=True)


def _capped(scores: torch.Tensor, form: Form) -> torch.Tensor:
    return scores if form.softcap is None else scores.div_(form.softcap).tanh_().mul_(form.softcap)


def _masked(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, shared: Pair | None, form: Form
) -> torch.Tensor:
    """`packed` for one segment, by a mask: for what the FlashAttention kernels do not compute."""
    if shared is not None:
        keys, values = torch.cat([shared[0], keys], 1), torch.cat([shared[1], values], 1)
    seen = causal(query.shape[1], keys.shape[1], form.window, query.device)
    if form.softcap is None:
        found = functional.scaled_dot_product_attention(
            query[None], keys[None], values[None], attn_mask=seen, scale=form.scaling, enable_gqa=True
        )
        return found[0].transpose(0, 1)
    group = len(query) // len(keys)
    scores = _scores(query * form.scaling, keys.repeat_interleave(group, 0), None, form)
    weights = scores.masked_fill_(~seen, float("-inf")).softmax(-1).to(query.dtype)
    return torch.bmm(weights, values.repeat_interleave(group, 0)).transpose(0, 1)


def causal(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """(queries, keys): which keys each query sees, where the last query stands at the last key."""
    places = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    others = torch.arange(num_keys, device=device)[None, :]
    seen = others <= places
    return seen if window is None else seen & (others > places - window)


def _flash_can(query: torch.Tensor, values: torch.Tensor, segments: Segments, shared: Pair | None, form: Form) -> bool:
    """Whether the FlashAttention kernels inside torch compute this."""
    num_keys = segments.longest + (0 if shared is None else shared[0].shape[1])
    dim = query.shape[-1]
    fits = not query.is_cuda or (query.element_size() == 2 and dim <= WIDEST_FLASH_HEAD and dim % 8 == 0)
    return (
        fits and dim == values.shape[-1] and form.softcap is None and (form.window is None or num_keys <= form.window)
    )


def _flash(
    query: torch.Tensor, of: Pair, asking: Segments, asked: Segments, form: Form, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """FlashAttention (Dao 2023, arXiv:2307.08691): output (tokens, heads, head_dim), log-sum-exp (heads, tokens).

    torch's own operators, since its public functions either hide the log-sum-exp or, as `varlen_attn`, have had another
    signature in each release since 2.10.
    """
    if not query.is_cuda:
        return _flash_on_cpu(query, of, asking, asked, form, causal=causal)
    found, lse, *_ = torch.ops.aten._flash_attention_forward(
        query.transpose(0, 1),
        of[0].transpose(0, 1),
        of[1].transpose(0, 1),
        asking.on_device,
        asked.on_device,
        asking.longest,
        asked.longest,
        0.0,
        causal,
        False,
        scale=form.scaling,
    )
    return found, lse


def _flash_on_cpu(
    query: torch.Tensor, of: Pair, asking: Segments, asked: Segments, form: Form, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One call a segment: the CPU's operator knows no packs."""
    found = [
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[None, :, start:end],
            *(part[None, :, first:last] for part in of),
            0.0,
            causal,
            scale=form.scaling,
        )
        for (start, end), (first, last) in zip(pairwise(asking.offsets), pairwise(asked.offsets), strict=True)
    ]
    return torch.cat([out[0].transpose(0, 1) for out, _ in found]), torch.cat([lse[0] for _, lse in found], -1)


def _joined(own: torch.Tensor, own_lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor) -> torch.Tensor:
    """One attention of two over disjoint keys, by their log-sum-exps.

    With w = sigmoid(other_lse - own_lse) it is w · other + (1 - w) · own (as in Juravsky et al. 2024, "Hydragen",
    arXiv:2402.05099), in float32.
    """
    share = torch.sigmoid(other_lse - own_lse).transpose(0, 1)[..., None]
    return torch.addcmul(other * share, own, 1 - share, out=torch.empty_like(own))


def _whole(tokens: int, device: torch.device) -> Segments:
    return Segments((0, tokens), torch.tensor([0, tokens], dtype=torch.int32, device=device))


@dataclass(frozen=True, slots=True)
class SharedPass:
    """A forward pass over the tokens that all prompts begin with."""

    keys: KeyValues
    segments: Segments

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, form: Form
    ) -> torch.Tensor:
        """Keep the keys and values for all rows, and attend."""
        self.keys.share(layer, keys, values)
        return packed(query, keys, values, self.segments, None, form)


@dataclass(frozen=True, slots=True)
class PromptPass:
    """A forward pass over what is the prompts' own.

    places: where the tokens are kept; None where only log-probabilities are asked.
    """

    keys: KeyValues
    segments: Segments
    places: Places | None

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, form: Form
    ) -> torch.Tensor:
        """Keep the keys and values in their rows, and attend."""
        if self.places is not None:
            self.keys.write(layer, self.places, keys, values)
        return packed(query, keys, values, self.segments, self.keys.shared(layer), form)


class StepPass:
    """A forward pass over one new token a row.

    lengths: (rows), the tokens that stand in each row before this one.
    """

    def __init__(self, keys: KeyValues, lengths: torch.Tensor) -> None:
        self.keys = keys
        self._lengths = lengths
        self._places = Places(torch.arange(len(lengths), device=lengths.device), lengths)
        self._seen: dict[tuple[int | None, int], Seen] = {}

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, form: Form
    ) -> torch.Tensor:
        """Keep the new token's keys and values, and attend to all before it."""
        self.keys.write(layer, self._places, keys, values)
        key = form.window, keys.shape[0]
        if key not in self._seen:
            self._seen[key] = self._what_is_seen(*key)
        return stepping(query, self.keys.own(layer), self.keys.shared(layer), self._seen[key], form)

    def _what_is_seen(self, window: int | None, kv_heads: int) -> Seen:
        """The same for all layers with this window."""
        own = self._bias(0, self.keys.width, window).repeat_interleave(kv_heads, 0)[:, None]
        if window is None:
            return Seen(own, None)
        return Seen(own, self._bias(-self.keys.num_shared, 0, window)[:, None, None])

    def _bias(self, first: int, end: int, window: int | None) -> torch.Tensor:
        """(rows, places) for places counted from the start of a row's own tokens: the shared ones stand before 0."""
        places = torch.arange(first, end, device=self._lengths.device)[None, :]
        here = self._lengths[:, None]
        seen = places <= here if window is None else (places <= here) & (places > here - window)
        return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, float("-inf"))


class Attending:
    """What a forward pass is about; goes through the model to its attention layers under this name.

    One type for all, and no dataclass: a compiled layer is compiled anew for each type that it is handed, and looks for
    it inside a frozen dataclass.
    """

    def __init__(self, work: SharedPass | PromptPass | StepPass) -> None:
        self.work = work
