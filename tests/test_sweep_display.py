"""What is seen of a sweep: on a terminal and in a file."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from bioquant.config import Device
from bioquant.errors import ConfigError
from bioquant.sweep.devices import Slot
from bioquant.sweep.display import Display, weight
from test_sweep_cells import OUTCOME, cell

ONE, TWO = Slot("gpu 0", Device.cuda, {}), Slot("gpu 1", Device.cuda, {})
CELLS = [cell("task=demo_qa"), cell("task=demo_re"), cell("task=demo_mlc")]
NAMES = [found.plan.name for found in CELLS]


class Clock:
    """Time as a test tells it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("bioquant.sweep.display.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_elsewhere_than_on_a_terminal_there_is_a_line_a_cell(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=40)
    display = Display(console, CELLS)
    with display.shown():
        display.start(ONE, CELLS[0])
        clock.now += 10
        display.end(ONE, CELLS[0], OUTCOME, None)
        display.start(ONE, CELLS[1])
        clock.now += 5
        display.again(ONE, CELLS[1], "its worker died.")
        display.end(ONE, CELLS[1], None, ConfigError("too long"))
        display.end(TWO, CELLS[2], OUTCOME, None)
    assert text(console).splitlines() == [
        f"[1/3, about 20 s left] {NAMES[0]}: 0.500, 10 s",
        f"[1/3, about 30 s left] {NAMES[1]}: its worker died. Once more, in a fresh worker.",
        f"[2/3, 1 failed, about 8 s left] {NAMES[1]}: failed: too long",
        f"[3/3, 1 failed, about 0 s left] {NAMES[2]}: 0.500, by another sweep",
    ]


def test_what_workers_do_is_told_when_nothing_else_was_for_a_while(clock: Clock) -> None:
    console = Console(file=io.StringIO())
    many = [
        replace(found, plan=replace(found.plan, dataset=replace(found.plan.dataset, num_test=40))) for found in CELLS
    ]
    display = Display(console, many)
    display.start(ONE, many[0])
    display.start(TWO, many[1])
    display.advance(TWO, 8)
    clock.now += 31
    display.advance(ONE, 8)
    display.advance(ONE, 8)
    assert text(console).splitlines() == [
        f"[0/3, about 3 min left] gpu 0: {NAMES[0]}: 8/40",
        f"[0/3, about 3 min left] gpu 1: {NAMES[1]}: 8/40",
    ]


def test_on_a_terminal_one_display_shows_counts_and_workers(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = Display(console, CELLS)
    with display.shown():
        display.start(ONE, CELLS[0])
        display.end(ONE, CELLS[0], OUTCOME, None)
        display.start(TWO, CELLS[1])
        clock.now += 60
        display.stop(TWO)
        display.start(ONE, CELLS[2])
    seen = text(console)
    assert "1 done · 0 failed · 2 to do · 60 s so far · about 2 min left" in seen
    assert NAMES[2] in seen
    assert "gpu 0" in seen
    assert f"{NAMES[0]}: 0.500" not in seen


def test_a_sample_counts_as_an_answer() -> None:
    assert weight(cell("prompt=self_consistency")) == 5 * weight(cell())
