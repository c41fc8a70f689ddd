"""How far a sweep is: cells done, failed and to do, the time left, and what each worker does.

On a terminal a live display; elsewhere a line as each cell ends, and one now and then. Writes to stderr.
"""

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bioquant.errors import BioquantError
from bioquant.records import Outcome
from bioquant.sweep.cells import Cell
from bioquant.sweep.devices import Slot
from bioquant.sweep.preview import duration

PLAIN_EVERY_S = 30.0
"""Seconds without news after which a plain line says what the workers do."""


@dataclass(slots=True)
class Running:
    """A cell at work, and how many of its examples are done."""

    cell: Cell
    since: float
    done: int = 0


def weight(cell: Cell) -> int:
    """Answers to draw: what the time left is reckoned by."""
    return cell.plan.num_examples * cell.plan.config.prompt.num_samples


class Display:
    """What is seen of a sweep. Safe for threads."""

    def __init__(self, console: Console, cells: Sequence[Cell]) -> None:
        self._console = console
        self._number, self._left = len(cells), sum(map(weight, cells))
        self._weight_done = self._done = self._failed = 0
        self._running: dict[str, Running] = {}
        self._lock = threading.RLock()
        self._start = self._last_line = time.monotonic()

    @contextmanager
    def shown(self) -> Generator[None]:
        """The live display where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=4):
            yield

    def start(self, slot: Slot, cell: Cell) -> None:
        """A worker begins a cell."""
        with self._lock:
            self._running[slot.name] = Running(cell, time.monotonic())

    def advance(self, slot: Slot, number: int) -> None:
        """So many more of its examples are done."""
        with self._lock:
            self._running[slot.name].done += number
            if not self._console.is_terminal and time.monotonic() - self._last_line > PLAIN_EVERY_S:
                for name, running in self._running.items():
                    self._say(f"{name}: {running.cell.plan.name}: {running.done}/{running.cell.plan.num_examples}")

    def again(self, slot: Slot, cell: Cell, why: str) -> None:
        """Its worker died; a fresh one goes on with it."""
        with self._lock:
            self._running[slot.name].done = 0
            self._say(f"{cell.plan.name}: {why} Once more, in a fresh worker.")

    def stop(self, slot: Slot) -> None:
        """Its cell was stopped."""
        with self._lock:
            del self._running[slot.name]

    def end(self, slot: Slot, cell: Cell, outcome: Outcome | None, error: BioquantError | None) -> None:
        """Its cell is finished, or has failed."""
        with self._lock:
            running = self._running.pop(slot.name, None)
            took = f", {duration(time.monotonic() - running.since)}" if running else ", by another sweep"
            self._weight_done += weight(cell)
            self._done += outcome is not None
            self._failed += error is not None
            what = f"failed: {error}" if outcome is None else f"{outcome.metrics.get('quality', 0):.3f}{took}"
            if outcome is None or not self._console.is_terminal:
                self._say(f"{cell.plan.name}: {what}")

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        line = (
            text if self._console.is_terminal else f"[{self._done + self._failed}/{self._number}{self._rest()}] {text}"
        )
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _rest(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        left = self._seconds_left()
        return failed + ("" if left is None else f", about {duration(left)} left")

    def _seconds_left(self) -> float | None:
        """At the rate so far; None before anything is done."""
        samples = ((running.done * running.cell.plan.config.prompt.num_samples) for running in self._running.values())
        done = self._weight_done + sum(samples)
        return (time.monotonic() - self._start) / done * (self._left - done) if done else None

    def _render(self) -> Group:
        with self._lock:
            to_do = self._number - self._done - self._failed
            counts = f"{self._done} done · {self._failed} failed · {to_do} to do"
            left = self._seconds_left()
            spent = duration(time.monotonic() - self._start)
            head = Text(f"{counts} · {spent} so far" + ("" if left is None else f" · about {duration(left)} left"))
            return Group(head, self._workers())

    def _workers(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name, running in self._running.items():
            total = running.cell.plan.num_examples
            bar = ProgressBar(total=total, completed=running.done, width=20)
            table.add_row(name, bar, f"{running.done}/{total}", running.cell.plan.name)
        return table
