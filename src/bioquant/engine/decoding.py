"""Answers token by token for all rows of a batch, eagerly or replayed from a CUDA graph, launched at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bioquant.engine.batching import packs
from bioquant.engine.keyvalues import KeyValues
from bioquant.engine.packed import PackedModel, Prompt
from bioquant.engine.sampling import Greedy, SeededSampler

Chooser = Greedy | SeededSampler

Pool = Any
"""The handle of the memory that graphs share."""


@dataclass(frozen=True, slots=True)
class Request:
    """A sample of a prompt. ids: the whole prompt's; own: those after the tokens that all prompts share."""

    index: int
    sample: int
    ids: tuple[int, ...]
    own: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A request being answered."""

    request: Request
    answer: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When an answer ends. end_ids: tokens that end it and count as its last."""

    max_new_tokens: int
    end_ids: frozenset[int]

    def ended(self, row: Row) -> bool:
        """Whether the row's answer is complete."""
        return bool(row.answer) and (len(row.answer) == self.max_new_tokens or row.answer[-1] in self.end_ids)


class Ride:
    """A batch under way: its rows, and the newest token of each, which is not read yet.

    Rows that have ended go on being computed until they leave; their tokens are ignored.
    """

    def __init__(self, rows: Sequence[Row], rules: Rules, choose: Chooser) -> None:
        self.rows = list(rows)
        self.tokens = torch.empty(0)
        self.num_tokens = 0
        self.stepper: Stepper | None = None
        self._rules = rules
        self._choose = choose

    @property
    def is_at_its_limit(self) -> bool:
        """Whether the newest tokens are the last ones that are allowed."""
        return self.num_tokens == self._rules.max_new_tokens

    def choose_next(self, logits: torch.Tensor) -> None:
        """Choose the next token of each row."""
        self.tokens = self._choose(logits)
        self.num_tokens += 1

    def take(self, known: Sequence[int]) -> list[Row]:
        """Add the newest tokens to the answers; the rows that end with them."""
        going = self.going()
        for place in going:
            self.rows[place].answer.append(known[place])
        return [self.rows[place] for place in going if self._rules.ended(self.rows[place])]

    def going(self) -> list[int]:
        """Places of the rows whose answers have not ended."""
        return [place for place, row in enumerate(self.rows) if not self._rules.ended(row)]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self.rows = [self.rows[place] for place in places]
        self.tokens = self.tokens[list(places)]
        self.stepper = None
        self._choose.keep(places)


class Decoder:
    """Answers batches of prompts that begin alike: the shared tokens are read once, buffers and graphs are kept.

    shared: the tokens all prompts begin with. capacity: rows x width of the largest batch, in tokens.
    graphs: replay steps from CUDA graphs. A step of an 8B model is some 1,500 kernels, and launching them one by one
    takes longer than running them.
    """

    def __init__(self, model: PackedModel, shared: Sequence[int], capacity: int, *, graphs: bool) -> None:
        self.capacity = capacity
        self._model = model
        self._keys = KeyValues(capacity)
        self._pool: Pool | None = torch.cuda.graph_pool_handle() if graphs else None
        self._worth_leaving = 0.5 if graphs else 0.75
        # On a GPU the next step is launched before the host has read the last one's tokens, so that it never waits.
        self._ahead = model.device.startswith("cuda")
        self._steppers: dict[tuple[int, int], Stepper] = {}
        if shared:
            model.share(self._keys, shared)

    def read(self, requests: Sequence[Request], width: int, prefill_tokens: int) -> torch.Tensor:
        """Read the prompts, each once for all its samples, into rows of `width` tokens; logits (requests, vocab)."""
        self._keys.open(len(requests), width)
        first: dict[int, int] = {}
        for row, request in enumerate(requests):
            first.setdefault(request.index, row)
        prompts = [Prompt(requests[row].own, row) for row in first.values()]
        cuts = packs([len(prompt.ids) for prompt in prompts], prefill_tokens)
        parts = [self._model.read(self._keys, prompts[cut.start : cut.stop])[:, 0] for cut in cuts]
        sources = [first[request.index] for request in requests]
        if len(first) < len(requests):
            self._keys.copy(sources, range(len(requests)))
        of_prompt = {row: number for number, row in enumerate(first.values())}
        return torch.cat(parts)[[of_prompt[row] for row in sources]]

    def answers(
        self,
        requests: Sequence[Request],
        logits: torch.Tensor,
        rules: Rules,
        choose: Chooser,
        *,
        arrived: Callable[[], None] = lambda: None,
        leave: bool = True,
    ) -> Iterator[Row]:
        """Go on from the prompts' logits, which `read` gave; rows as their answers end.

        arrived: called when the next token of every row is known. leave: whether finished rows leave the batch.
        """
        ride = Ride([Row(request) for request in requests], rules, choose)
        ride.choose_next(logits)
        while True:
            known = _on_host(ride.tokens)
            if self._ahead and not ride.is_at_its_limit:
                logits = self._step(ride)
            ended = ride.take(known())
            arrived()
            yield from ended
            staying = ride.going()
            if not staying:
                return
            if leave and len(staying) <= self._worth_leaving * len(ride.rows):
                ride.keep(staying)
                self._keys.keep(staying)
                logits = logits[staying] if self._ahead else logits
            ride.choose_next(logits if self._ahead else self._step(ride))

    def _step(self, ride: "Ride") -> torch.Tensor:
        """The logits after the ride's newest tokens."""
        if ride.stepper is None:
            ride.stepper = self.stepper(len(ride.rows))
            ride.stepper.start([len(row.request.own) + ride.num_tokens - 1 for row in ride.rows])
        return ride.stepper.step(ride.tokens)

    def stepper(self, rows: int) -> "Stepper":
        """Steps of so many rows of the present width; kept, since a captured one is worth a few eager steps."""
        key = rows, self._keys.width
        if key not in self._steppers:
            self._steppers[key] = Stepper(self._model, self._keys, rows, self._pool)
        return self._steppers[key]


def _on_host(tokens: torch.Tensor) -> Callable[[], list[int]]:
    """The numbers; called later, it waits for these tokens and not for what was launched since."""
    copied = tokens.to("cpu", non_blocking=True)
    if not tokens.is_cuda:
        return copied.tolist
    ready = torch.cuda.Event()
    ready.record()

    def wait() -> list[int]:
        ready.synchronize()
        return copied.tolist()

    return wait


class Stepper:
    """Steps of so many rows over fixed buffers.

    The first step runs eagerly. Where there is a pool for graphs, the second is captured and each later one a replay.
    """

    def __init__(self, model: PackedModel, keys: KeyValues, rows: int, pool: Pool | None) -> None:
        self._model = model
        self._keys = keys
        self._ids = torch.zeros(rows, dtype=torch.long, device=model.device)
        self._lengths = torch.zeros(rows, dtype=torch.long, device=model.device)
        self._pool = pool
        self._is_warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None

    def start(self, lengths: Sequence[int]) -> None:
        """Begin with rows of so many tokens of their own."""
        self._lengths.copy_(torch.tensor(lengths))

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The logits (rows, vocab) after these tokens (rows); valid until the next step."""
        self._ids.copy_(ids)
        if self._is_warm:
            self.capture()
        self._is_warm = True
        if self._graph is None:
            return self._forward()
        self._graph.replay()
        assert self._logits is not None
        return self._logits

    def capture(self) -> None:
        """Record a step, without computing it; nothing where it is recorded, or cannot be."""
        if self._graph is not None or self._pool is None:
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._logits = self._forward()
        self._graph = graph

    def _forward(self) -> torch.Tensor:
        logits = self._model.step(self._keys, self._ids, self._lengths)
        self._lengths += 1
        return logits
