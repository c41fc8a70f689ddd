"""Waiting for the delivery, and delivering by hand."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bioquant import places
from bioquant.errors import TrackingError
from bioquant.tracking.spool import Spool
from bioquant.tracking.store import Store

if TYPE_CHECKING:
    from bioquant.tracking.courier import Courier

FLUSH_S = 15.0
"""How long the end of a run waits for a server that takes nothing. While it takes something, it waits."""

AGAIN_S = 0.5
"""Between two tries by hand of which the first moved nothing."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where the spool stands: runs that wait for delivery, and those refused, each with the server's reason."""

    waiting: int
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Spooled:
    """A store of this project that something waits for. uri: without its password."""

    uri: str
    experiment: str


def spooled() -> list[Spooled]:
    """Every store of this project that something waits for."""
    spools = [Spool(path.parent) for path in sorted(places.spool_root().glob("*/store.json"))]
    waiting = [spool.address() or {} for spool in spools if any(map(spool.waiting, spool.runs()))]
    return [Spooled(address["uri"], address["experiment"]) for address in waiting]


def pending(store: Store) -> Delivery:
    """What is in the spool and not on the server, whoever logged it."""
    return _standing(store, [key for key in store.spool.runs() if store.spool.waiting(key)])


def _standing(store: Store, keys: Sequence[str]) -> Delivery:
    reasons = {key: store.spool.progress(key).refused for key in keys}
    refused = {key: reason for key, reason in reasons.items() if reason is not None}
    return Delivery(len(keys) - len(refused), refused)


def flush(store: Store) -> Delivery:
    """Wait until what this process logged, and dead ones left, is delivered.

    Gives up where the server is away or takes nothing for FLUSH_S seconds.
    `closing` calls it; a sweep that ends its cells with `end_run` calls it once, at its end. Says what is left.
    """
    if store.courier is None:
        return pending(store)
    store.courier.drain(FLUSH_S)
    left = _standing(store, store.courier.left())
    if left.waiting:
        why = store.courier.why_away or store.courier.trouble
        print(
            f"warning: {_runs(left.waiting)} on disk and not yet at the tracking store ({why or 'it is slow'}): "
            "delivered at the next start, or with: bioquant sync",
            file=sys.stderr,
        )
    for key, reason in left.refused.items():
        print(f"warning: the tracking store refuses what {key} logs: {reason}", file=sys.stderr)
    return left


def sync(store: Store) -> int:
    """Deliver all that waits, what was refused before included, in this thread; returns the number of runs delivered.

    Raises TrackingError with what is left and why.
    """
    assert store.courier is not None
    before = [key for key in store.spool.runs() if store.spool.waiting(key)]
    for key in before:
        store.spool.save(key, replace(store.spool.progress(key), refused=None))
    why = _deliver_while_it_moves(store.spool, store.courier)
    left = pending(store)
    if left.refused:
        refusals = "".join(f"\n  {key}: {reason}" for key, reason in left.refused.items())
        raise TrackingError(f"the tracking store refuses {_runs(len(left.refused))}, kept in the spool:{refusals}")
    if left.waiting:
        raise TrackingError(f"{left.waiting} of {_runs(len(before))} still on disk: {why}. Repeat: bioquant sync")
    return len(before)


def _deliver_while_it_moves(spool: Spool, courier: "Courier") -> str:
    """Deliver until nothing is left, or nothing has moved for FLUSH_S seconds; returns why something is left."""
    from bioquant.tracking.calls import AwayError

    before, since = (-1, -1), time.monotonic()
    try:
        while keys := [key for key in spool.runs() if courier.deliverable(key)]:
            if before != (before := (len(keys), courier.moves)):
                since = time.monotonic()
            elif time.monotonic() - since > FLUSH_S:
                return courier.trouble or "another process is delivering them"
            else:
                time.sleep(AGAIN_S)
            courier.deliver(keys)
    except AwayError as away:
        return str(away)
    return ""


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
