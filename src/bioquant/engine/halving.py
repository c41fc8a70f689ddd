"""Work on many rows that goes on in halves where the device has not the memory for all of them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from bioquant.errors import OutOfMemoryError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Out = TypeVar("Out")

Work = Callable[[Sequence[Item]], Iterable[tuple[Item, Out]]]
"""What is done for some items; gives each item back with its result, as soon as there is one."""


def halving(work: Work[Item, Out], items: Sequence[Item], release: Callable[[], None], device: str) -> Iterator[Out]:
    """The results of all items. What was finished when memory ran out is kept and not done again.

    release: gives memory back before the next try. Raises OutOfMemoryError where a single item does not fit.
    """
    finished: set[int] = set()
    places = {id(item): place for place, item in enumerate(items)}
    try:
        for item, out in work(items):
            finished.add(places[id(item)])
            yield out
        return
    except torch.OutOfMemoryError:
        pass  # go on outside: in here the error's traceback keeps the failed work's tensors alive
    if len(items) == 1:
        raise OutOfMemoryError(
            f"out of memory on {device} even at batch size 1."
            " Choose a smaller model, a quant of fewer bits, or fewer prompt.num_shots."
        )
    log.warning("out of memory on %s with %d rows in a batch: it goes on in halves", device, len(items))
    release()
    left = [item for place, item in enumerate(items) if place not in finished]
    middle = (len(left) + 1) // 2
    for half in (left[:middle], left[middle:]):
        if half:
            yield from halving(work, half, release, device)
