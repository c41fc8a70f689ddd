"""Keys and values of a batch: what all prompts begin with is held once, and each row has places of its own."""

from collections.abc import Sequence

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer."""


class Places:
    """Where the tokens of a pass are kept: each one's row and its column in the row, (tokens) both."""

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        self._rows = rows
        self._columns = columns
        self._index: dict[tuple[int, int], torch.Tensor] = {}

    def index(self, kv_heads: int, width: int) -> torch.Tensor:
        """(tokens, kv_heads): lines of a buffer that is seen as rows x kv_heads x width. Worked out once a pass."""
        key = kv_heads, width
        if key not in self._index:
            heads = torch.arange(kv_heads, device=self._rows.device)
            self._index[key] = (self._rows[:, None] * kv_heads + heads) * width + self._columns[:, None]
        return self._index[key]


class KeyValues:
    """Per layer: the shared tokens' (kv_heads, shared, head_dim), the rows' own (rows, kv_heads, width, head_dim).

    The own places lie in one buffer a layer, allocated at its first use for `capacity` tokens and seen as rows x width
    by each batch in turn: addresses stay, so that a captured CUDA graph stays valid.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_shared = 0
        self.rows = 0
        self.width = 0
        self._shared: dict[int, Pair] = {}
        self._buffers: dict[int, Pair] = {}

    def share(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep (kv_heads, tokens, head_dim) for all rows."""
        self._shared[layer] = keys.contiguous(), values.contiguous()
        self.num_shared = keys.shape[1]

    def shared(self, layer: int) -> Pair | None:
        """What all rows share; None where they share nothing."""
        return self._shared.get(layer)

    def open(self, rows: int, width: int) -> None:
        """See the buffers as `rows` rows of `width` tokens; what stood there is void."""
        assert rows * width <= self.capacity
        self.rows, self.width = rows, width

    def own(self, layer: int) -> Pair:
        """(rows, kv_heads, width, head_dim) of keys and of values."""
        keys, values = self._buffers[layer]
        return self._seen(keys), self._seen(values)

    def write(self, layer: int, places: Places, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put (kv_heads, tokens, head_dim) at these places."""
        if layer not in self._buffers:
            self._buffers[layer] = self._allocated(keys), self._allocated(values)
        index = places.index(keys.shape[0], self.width)
        for buffer, new in zip(self._buffers[layer], (keys, values), strict=True):
            buffer[index] = new.transpose(0, 1)

    @torch.inference_mode()
    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Put what stands in the source rows into the target rows too."""
        for layer in self._buffers:
            for part in self.own(layer):
                part[list(targets)] = part[list(sources)]

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Close ranks: only these rows stay, in this order."""
        for layer in self._buffers:
            for part in self.own(layer):
                part[: len(rows)] = part[list(rows)]
        self.rows = len(rows)

    def _allocated(self, like: torch.Tensor) -> torch.Tensor:
        """A buffer of (capacity x kv_heads, head_dim)."""
        return like.new_zeros(self.capacity * like.shape[0], like.shape[2])

    def _seen(self, buffer: torch.Tensor) -> torch.Tensor:
        heads = len(buffer) // self.capacity
        return buffer[: self.rows * heads * self.width].view(self.rows, heads, self.width, -1)
