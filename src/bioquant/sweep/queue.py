"""Which cell a worker takes next."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bioquant.config import Device
from bioquant.sweep.cells import Cell, groups

MIN_TO_JOIN = 2
"""Helping another worker takes one more load of the model, which fewer cells do not pay back."""


@dataclass(slots=True)
class Group:
    """Cells that share a loaded model: what is left of them, and whether a worker has begun."""

    key: tuple[str, str]
    device: Device
    left: deque[Cell]
    begun: bool = False


class CellQueue:
    """The cells to run, group by group. Safe for threads.

    joining: whether a worker that finds no group of its own helps with the one that has most left.
    """

    def __init__(self, cells: Iterable[Cell], device_of: Callable[[Cell], Device], *, joining: bool) -> None:
        self._groups = [Group(group[0].group, device_of(group[0]), deque(group)) for group in groups(cells)]
        self._joining = joining
        self._lock = threading.Lock()

    def take(self, device: Device, loaded: tuple[str, str] | None) -> Cell | None:
        """The next cell for a worker on this device that has this group's model loaded; None where there is none."""
        with self._lock:
            group = self._next(device, loaded)
            if group is None:
                return None
            group.begun = True
            return group.left.popleft()

    def give_back(self, cell: Cell) -> None:
        """Leave a cell that cannot be run now for later."""
        with self._lock:
            next(group for group in self._groups if group.key == cell.group).left.append(cell)

    def _next(self, device: Device, loaded: tuple[str, str] | None) -> Group | None:
        mine = [group for group in self._groups if group.device is device and group.left]
        same = [group for group in mine if group.key == loaded]
        fresh = [group for group in mine if not group.begun]
        others = [group for group in mine if len(group.left) >= MIN_TO_JOIN] if self._joining else []
        others.sort(key=lambda group: -len(group.left))
        return next(iter((*same, *fresh, *others)), None)
