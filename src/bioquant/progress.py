"""How far a cell is: a bar with rate and time left on a terminal, plain lines elsewhere. Writes to stderr."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_EVERY_S = 10.0
"""Seconds between plain lines."""


@contextmanager
def gently() -> Generator[Callable[[], bool]]:
    """Ctrl-C once makes the yielded function True, so that the examples in flight can be finished; twice interrupts."""
    asked = threading.Event()

    def ask(_: int, __: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nstopping after the examples in flight; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _Rate(ProgressColumn):
    """Examples a second since the start."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "")


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks at a cell while its examples run.

    show: label and number of examples -> what is told how many more are done.
    stopping: gives what says whether to stop after the examples in flight.
    """

    show: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    stopping: Callable[[], AbstractContextManager[Callable[[], bool]]]


@contextmanager
def examples(label: str, total: int) -> Generator[Callable[[int], None]]:
    """Show progress over `total` examples; the caller reports each batch's size to the yielded function."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _lines(label, total)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _lines(label: str, total: int) -> Callable[[int], None]:
    """Plain lines, at most one every ten seconds, and one at the end."""
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done < total and now - last < PLAIN_EVERY_S:
            return
        last = now
        rate = done / (now - start)
        left = f"about {(total - done) / rate:.0f} s left" if done < total else "done"
        print(f"{label}: {done}/{total} examples, {rate:.2f}/s, {left}", file=sys.stderr, flush=True)

    return advance


ALONE = Watch(examples, gently)
"""A cell on its own, in the foreground."""
