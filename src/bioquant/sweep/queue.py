"""Which cell a worker takes next."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean

from bioquant.config import Device
from bioquant.sweep.cells import Cell, groups

MIN_TO_JOIN = 2
"""Helping another worker takes one more load of the model, which fewer cells do not pay back."""


@dataclass(slots=True)
class Pace:
    """How long cells took. fresh_s: those whose worker had to load first. ready_s: those whose worker went on."""

    fresh_s: list[float] = field(default_factory=list[float])
    ready_s: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class Group:
    """Cells that share a loaded model: what is left of them, and whether a worker has begun."""

    key: tuple[str, str]
    device: Device
    left: deque[Cell]
    begun: bool = False
    pace: Pace = field(default_factory=Pace)


class CellQueue:
    """The cells to run, group by group. Safe for threads.

    joining: whether a worker that finds no group of its own helps with the one that has most left, where what is left
    there takes longer than one more load.
    """

    def __init__(self, cells: Iterable[Cell], device_of: Callable[[Cell], Device], *, joining: bool) -> None:
        self._groups = [Group(group[0].group, device_of(group[0]), deque(group)) for group in groups(cells)]
        self._joining = joining
        self._pace = Pace()
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

    def took(self, cell: Cell, seconds: float, *, fresh: bool) -> None:
        """Note how long a cell took. fresh: whether its worker had no model of its group loaded."""
        with self._lock:
            group = next(group for group in self._groups if group.key == cell.group)
            for pace in (group.pace, self._pace):
                (pace.fresh_s if fresh else pace.ready_s).append(seconds)

    def _next(self, device: Device, loaded: tuple[str, str] | None) -> Group | None:
        mine = [group for group in self._groups if group.device is device and group.left]
        same = [group for group in mine if group.key == loaded]
        fresh = [group for group in mine if not group.begun]
        others = [group for group in mine if self._pays(group)] if self._joining else []
        others.sort(key=lambda group: -len(group.left))
        return next(iter((*same, *fresh, *others)), None)

    def _pays(self, group: Group) -> bool:
        """Whether the rest of a group takes longer than a load, by its own cells or else by all; a guess before any."""
        fresh_s = group.pace.fresh_s or self._pace.fresh_s
        ready_s = group.pace.ready_s or self._pace.ready_s
        enough = len(group.left) >= MIN_TO_JOIN
        if not fresh_s or not ready_s:
            return enough
        load_s = fmean(fresh_s) - fmean(ready_s)
        return enough and len(group.left) * fmean(ready_s) > load_s
