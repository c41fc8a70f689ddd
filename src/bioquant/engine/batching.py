"""Which prompts ride together, and how they stand in a batch. Pure: numbers only, no torch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TypeVar

import numpy as np

Row = TypeVar("Row")

FEWEST_SHARED = 16
"""Shared tokens below which a pass of their own does not pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may ride together.

    rows: samples of prompts. tokens: rows times the width of a row, what the key-value cache has room for; None is any
    number. prefill_tokens: of prompts that are read in one forward pass. share_prefix: whether tokens that all
    prompts begin with are read once for all.
    """

    rows: int
    tokens: int | None = None
    prefill_tokens: int = 8192
    share_prefix: bool = True


def batches(
    lengths: Sequence[int], limits: Limits, *, num_samples: int = 1, max_new_tokens: int = 0
) -> list[list[int]]:
    """Indices of prompts in batches, by descending length, ties by index; all samples of a prompt ride together.

    Neighbours are alike in length, so little room is wasted, and a batch that does not fit fails at the start of a run.
    A batch holds one prompt at least. lengths: each prompt's own tokens.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rows = (len(found[-1]) + 1) * num_samples if found else 0
        tokens = rows * row_width(lengths[found[-1][0]] + max_new_tokens) if found else 0
        if found and rows <= limits.rows and (limits.tokens is None or tokens <= limits.tokens):
            found[-1].append(index)
        else:
            found.append([index])
    return found


def unanswered(
    rides: Sequence[Sequence[int]], done: frozenset[int], stopped: Callable[[], bool]
) -> Iterator[tuple[int, Sequence[int]]]:
    """The batches, by their number, in which a prompt is not done; none after it was stopped."""
    for number, indices in enumerate(rides):
        if stopped():
            return
        if not done.issuperset(indices):
            yield number, indices


def row_width(tokens: int) -> int:
    """Places a row gets for so many tokens: the next of 64, 96, 128, 192, 256, 384, …

    Few widths, since each is a CUDA graph of its own; at most half as many places again as are needed above 64.
    """
    step = 64
    while step < tokens:
        step *= 2
    return step * 3 // 4 if tokens <= step * 3 // 4 and step > 64 else step


def packs(lengths: Sequence[int], max_tokens: int) -> list[range]:
    """Prompts in order, cut where a pack would hold more than so many tokens; a longer prompt is a pack of its own."""
    starts, tokens = list[int](), max_tokens
    for index, length in enumerate(lengths):
        tokens += length
        if tokens > max_tokens:
            starts.append(index)
            tokens = length
    return [range(start, end) for start, end in pairwise([*starts, len(lengths)])]


def chunks(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Rows in order, `size` at a time."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def shareable(rows: Sequence[Sequence[int]], *, kept: int = 1) -> int:
    """How many leading tokens are worth reading once for all rows; each row keeps `kept` tokens of its own or more."""
    if len(rows) < 2:
        return 0
    found = min(common_prefix(rows), min(len(row) for row in rows) - kept)
    return found if found >= FEWEST_SHARED else 0


def sha256(ids: Sequence[int]) -> str:
    """SHA-256 of the ids as little-endian int32."""
    return hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()
