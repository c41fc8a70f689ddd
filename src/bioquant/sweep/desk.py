"""One slot of a sweep and its worker: hired for a group, replaced when it dies, asked once more for a lost cell."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from bioquant.compose import to_mapping
from bioquant.records import Outcome
from bioquant.sweep.cells import Cell
from bioquant.sweep.devices import Slot
from bioquant.sweep.process import Worker, WorkerDiedError

MAX_LOSSES = 3
"""A cell that was lost with so many nodes is given up."""

Hire = Callable[[Slot, threading.Event], Worker]
"""Starts a worker in a slot. Raises KeyboardInterrupt where the sweep is stopped before there is room for it, and
WorkerDiedError where that room is lost before it could begin."""


class Desk:
    """Room for one worker at a time. Used by one thread; `stop` and `kill` by another."""

    def __init__(self, slot: Slot, hire: Hire, stopping: threading.Event) -> None:
        self.slot = slot
        self._group: tuple[str, str] | None = None
        self._hire, self._stopping = hire, stopping
        self._worker: Worker | None = None
        self._killed = False

    def seat(self, cell: Cell) -> None:
        """Have a worker for this cell: a group gets one of its own, and a dead one is replaced.

        Raises WorkerDiedError where its place was lost again and again before it could begin.
        """
        if self._worker is not None and self._group == cell.group and self._worker.alive():
            return
        self.close()
        for losses in count():
            try:
                self._worker, self._group = self._hire(self.slot, self._stopping), cell.group
                return
            except WorkerDiedError:
                if losses == MAX_LOSSES:
                    raise

    def ask(self, cell: Cell, run_id: str, advance: Callable[[int], None], lost: Callable[[str], None]) -> Outcome:
        """The cell's outcome; where its worker dies, from one more worker. lost: told of each that died.

        Raises CellError, and KeyboardInterrupt where it was stopped.
        """
        request = {"config": to_mapping(cell.plan.config), "folder": str(cell.folder), "run_id": run_id}
        deaths = losses = 0
        while True:
            try:
                self.seat(cell)
                return self._asked(request, advance)
            except WorkerDiedError as error:
                deaths, losses = deaths + (not error.blameless), losses + error.blameless
                if deaths > 1 or losses > MAX_LOSSES:
                    raise
                lost(str(error))

    def stop(self) -> None:
        """Have the worker stop after the examples in flight."""
        if self._worker is not None:
            self._worker.stop()

    def kill(self) -> None:
        """Have the worker gone at once."""
        self._killed = True
        if self._worker is not None:
            self._worker.kill()

    def close(self) -> None:
        """Let the worker go."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._group = None

    def _asked(self, request: dict[str, Any], advance: Callable[[int], None]) -> Outcome:
        assert self._worker is not None
        try:
            if self._stopping.is_set():
                raise KeyboardInterrupt
            return self._worker.ask(request, advance)
        except WorkerDiedError as error:
            if self._killed:
                raise KeyboardInterrupt from error
            raise
