"""The workers of a sweep at work: one at a time in each slot, each run ended with what really happened."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from bioquant import attempts, progress, tables, tracking
from bioquant.errors import BioquantError
from bioquant.records import Outcome
from bioquant.sweep.cells import Cell
from bioquant.sweep.desk import Desk, Hire
from bioquant.sweep.devices import Slot
from bioquant.sweep.display import Display
from bioquant.sweep.queue import CellQueue
from bioquant.tables import Row

LOOK_S = 0.2

BUSY_S = 1.0
"""Between two looks whether another sweep has left a cell."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep under way: where it is logged, the run its cells hang under.

    mark: the point in time of its planning, for `attempts.done_since`.
    """

    id: str
    store: tracking.Store
    run_id: str
    mark: int


class Crew:
    """Runs the queue's cells. rows: gets one of each that ended. stopped: whether it was told to stop."""

    def __init__(self, sweep: Sweep, queue: CellQueue, hire: Hire, display: Display, rows: list[Row]) -> None:
        self.stopped = threading.Event()
        self._sweep, self._queue, self._hire, self._display, self._rows = sweep, queue, hire, display, rows

    def run(self, slots: Sequence[Slot]) -> None:
        """Until no cell is left, or Ctrl-C: once ends it after the examples in flight, twice kills the workers."""
        desks = [Desk(slot, self._hire, self.stopped) for slot in slots]
        with ThreadPoolExecutor(len(slots)) as pool, progress.gently() as asked:
            futures = [pool.submit(self._work, desk) for desk in desks]
            try:
                while wait(futures, LOOK_S).not_done:
                    if asked() and not self.stopped.is_set():
                        self.stopped.set()
                        for desk in desks:
                            desk.stop()
            except KeyboardInterrupt:
                self.stopped.set()
                for desk in desks:
                    desk.kill()
        for future in futures:
            future.result()

    def _work(self, desk: Desk) -> None:
        """One slot's life: cell after cell, until none is left for it."""
        group = None
        try:
            while not self.stopped.is_set():
                cell = self._queue.take(desk.slot.device, group)
                if cell is None:
                    return
                fresh, group, began = cell.group != group, cell.group, time.monotonic()
                with attempts.turn(cell.plan.fingerprint) as ours:
                    if ours:
                        self._settle(desk, cell)
                        self._queue.took(cell, time.monotonic() - began, fresh=fresh)
                if not ours:
                    self._queue.give_back(cell)
                    self.stopped.wait(BUSY_S)
        finally:
            desk.close()

    def _settle(self, desk: Desk, cell: Cell) -> None:
        """Run the cell, unless another sweep has finished it since this one was planned."""
        outcome = self._finished_elsewhere(cell)
        if outcome is not None:
            self._end(desk, cell, outcome)
            return
        self._display.start(desk.slot, cell)
        try:
            desk.seat(cell)
            outcome = self._logged(desk, cell)
        except KeyboardInterrupt:
            self._display.stop(desk.slot)
        except BioquantError as error:
            self._end(desk, cell, None, error)
        else:
            attempts.done(cell.plan.fingerprint)
            self._end(desk, cell, outcome)

    def _finished_elsewhere(self, cell: Cell) -> Outcome | None:
        fingerprint = cell.plan.fingerprint
        if fingerprint not in attempts.done_since(self._sweep.mark):
            return None
        return tracking.finished(self._sweep.store, [fingerprint]).get(fingerprint)

    def _logged(self, desk: Desk, cell: Cell) -> Outcome:
        """One cell in a worker, its MLflow run opened before and ended after. Raises what ended it."""
        store, sweep = self._sweep.store, self._sweep
        run_id = tracking.start_run(store, cell.plan, cell.folder, sweep_id=sweep.id, parent_run_id=sweep.run_id)
        try:
            outcome = desk.ask(
                cell,
                run_id,
                advance=lambda number: self._display.advance(desk.slot, number),
                lost=lambda why: self._display.again(desk.slot, cell, why),
            )
        except KeyboardInterrupt:
            tracking.end_run(store, run_id, "KILLED")
            raise
        except BioquantError as error:
            tracking.log_failure(store, run_id, cell.folder)
            tracking.end_run(store, run_id, "FAILED", error)
            raise
        tracking.end_run(store, run_id, "FINISHED")
        return outcome

    def _end(self, desk: Desk, cell: Cell, outcome: Outcome | None, error: BioquantError | None = None) -> None:
        self._rows.append(tables.row(cell.plan, outcome, error=error, command=cell.command))
        self._display.end(desk.slot, cell, outcome, error)
