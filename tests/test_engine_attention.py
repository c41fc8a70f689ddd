from itertools import accumulate, pairwise

import pytest
import torch

from bioquant.engine.attention import Form, Segments, StepPass, causal, packed
from bioquant.engine.keyvalues import KeyValues, Pair, Places

HEADS, KV_HEADS, DIM = 6, 2, 8
FORMS = [
    Form(0.3),
    Form(0.3, window=4),
    Form(0.3, softcap=2.0),
    Form(0.3, window=3, softcap=2.0),
]
ids = [f"window {form.window}, softcap {form.softcap}" for form in FORMS]


def drawn(heads: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(heads, tokens, DIM, generator=torch.Generator().manual_seed(seed))


def pair(tokens: int, seed: int) -> Pair:
    return drawn(KV_HEADS, tokens, seed), drawn(KV_HEADS, tokens, seed + 1)


def segments(lengths: list[int]) -> Segments:
    offsets = tuple(accumulate(lengths, initial=0))
    return Segments(offsets, torch.tensor(offsets, dtype=torch.int32))


def by_definition(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, form: Form) -> torch.Tensor:
    """One query head and token after the other, the last query at the last key; (tokens, heads, dim)."""
    heads, tokens, _ = query.shape
    found = torch.empty(tokens, heads, DIM)
    for head in range(heads):
        kv_head = head // (heads // len(keys))
        for token in range(tokens):
            place = keys.shape[1] - tokens + token
            first = 0 if form.window is None else max(0, place - form.window + 1)
            scores = keys[kv_head, first : place + 1] @ query[head, token] * form.scaling
            if form.softcap is not None:
                scores = form.softcap * torch.tanh(scores / form.softcap)
            found[token, head] = scores.softmax(0) @ values[kv_head, first : place + 1]
    return found


def whole(shared: Pair | None, own: torch.Tensor, which: int) -> torch.Tensor:
    return own if shared is None else torch.cat([shared[which], own], 1)


@pytest.mark.parametrize("num_shared", [0, 7])
@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_packed_prompts_see_what_is_shared_and_their_own_past(form: Form, num_shared: int) -> None:
    lengths = [5, 1, 9]
    query, (keys, values) = drawn(HEADS, sum(lengths), 0), pair(sum(lengths), 1)
    shared = pair(num_shared, 3) if num_shared else None
    found = packed(query, keys, values, segments(lengths), shared, form)
    for start, end in pairwise(accumulate(lengths, initial=0)):
        expected = by_definition(
            query[:, start:end], whole(shared, keys[:, start:end], 0), whole(shared, values[:, start:end], 1), form
        )
        torch.testing.assert_close(found[start:end], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_shared", [0, 7])
@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_a_step_sees_what_is_shared_and_its_rows_past(form: Form, num_shared: int) -> None:
    lengths, width = [3, 0, 6], 8
    keys = KeyValues(len(lengths) * width)
    keys.open(len(lengths), width)
    shared = pair(num_shared, 3) if num_shared else None
    if shared is not None:
        keys.share(0, *shared)
    past = [pair(length, 10 + 2 * row) for row, length in enumerate(lengths)]
    for row, (old_keys, old_values) in enumerate(past):
        columns = torch.arange(lengths[row])
        keys.write(0, Places(torch.full_like(columns, row), columns), old_keys, old_values)
    query, new = drawn(HEADS, len(lengths), 0), pair(len(lengths), 1)
    found = StepPass(keys, torch.tensor(lengths)).attend(0, query, *new, form)
    for row in range(len(lengths)):
        own = [torch.cat([past[row][which], new[which][:, row : row + 1]], 1) for which in (0, 1)]
        expected = by_definition(query[:, row : row + 1], whole(shared, own[0], 0), whole(shared, own[1], 1), form)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-5)


def test_causal_mask_ends_at_the_last_key() -> None:
    seen = causal(2, 4, None, torch.device("cpu"))
    assert seen.tolist() == [[True, True, True, False], [True, True, True, True]]
    windowed = causal(2, 4, 2, torch.device("cpu"))
    assert windowed.tolist() == [[False, True, True, False], [False, False, True, True]]


def test_rows_close_ranks_and_are_copied() -> None:
    keys = KeyValues(6)
    keys.open(3, 2)
    content = pair(6, 1)
    keys.write(0, Places(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1] * 3)), *content)
    before = keys.own(0)[0].clone()
    keys.copy([2], [0])
    assert torch.equal(keys.own(0)[0], before[[2, 1, 2]])
    keys.keep([1, 2])
    assert torch.equal(keys.own(0)[0], before[[1, 2]])
