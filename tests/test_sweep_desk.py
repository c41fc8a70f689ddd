"""A slot and its worker: who is hired, who is replaced, what is asked once more."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from bioquant.config import Device
from bioquant.records import Outcome
from bioquant.sweep.desk import MAX_LOSSES, Desk
from bioquant.sweep.devices import Slot
from bioquant.sweep.process import CellError, WorkerDiedError
from test_sweep_cells import OUTCOME, cell

SLOT = Slot("cpu 0", Device.cpu, {})

Answer = Outcome | BaseException


def died(kind: str = "worker_died", *, blameless: bool = False) -> WorkerDiedError:
    return WorkerDiedError(kind, f"the {kind}", blameless=blameless)


class Script:
    """Workers that answer in order; keeps what happened to them."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.log: list[str] = []
        self.places_lost = 0
        self.lost: list[str] = []
        self.stopping = threading.Event()
        self.desk = Desk(SLOT, self._hire, self.stopping)

    def _hire(self, _: Slot, stopping: threading.Event) -> "Scripted":
        assert stopping is self.stopping
        if self.places_lost:
            self.places_lost -= 1
            raise died("node_lost", blameless=True)
        self.log.append("hired")
        return Scripted(self)

    def ask(self, *overrides: str) -> Outcome:
        return self.desk.ask(cell(*overrides), "run", lambda _: None, self.lost.append)


class Scripted:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._alive = True

    def ask(self, request: dict[str, Any], advance: Callable[[int], None]) -> Outcome:
        advance(1)
        assert request["run_id"] == "run"
        self._script.log.append(f"asked {request['config']['task']['name']}")
        answer = self._script.answers.pop(0)
        if isinstance(answer, BaseException):
            self._alive = not isinstance(answer, WorkerDiedError)
            raise answer
        return answer

    def alive(self) -> bool:
        return self._alive

    def stop(self) -> None:
        self._script.log.append("stopped")

    def kill(self) -> None:
        self._script.log.append("killed")
        self._alive = False

    def close(self) -> None:
        self._script.log.append("closed")


def test_a_group_has_one_worker_and_another_group_another() -> None:
    script = Script(OUTCOME, OUTCOME, OUTCOME)
    script.ask("task=demo_qa")
    script.ask("task=demo_re")
    script.ask("quant=bnb_nf4", "task=demo_qa")
    script.desk.close()
    assert script.log == [
        "hired",
        "asked demo_qa",
        "asked demo_re",
        "closed",
        "hired",
        "asked demo_qa",
        "closed",
    ]


def test_a_cell_whose_worker_died_is_asked_once_more_of_a_fresh_one() -> None:
    script = Script(died(), OUTCOME)
    assert script.ask() == OUTCOME
    assert script.log == ["hired", "asked demo_qa", "closed", "hired", "asked demo_qa"]
    assert script.lost == ["the worker_died"]


def test_a_second_death_is_the_cell_s_and_the_next_cell_has_a_fresh_worker() -> None:
    script = Script(died(), died("RuntimeError"), OUTCOME)
    with pytest.raises(WorkerDiedError) as caught:
        script.ask()
    assert caught.value.kind == "RuntimeError"
    assert script.lost == ["the worker_died"]
    assert script.ask("task=demo_re") == OUTCOME
    assert script.log.count("hired") == 3


def test_an_error_that_would_come_again_is_not_asked_again() -> None:
    script = Script(CellError("oom", "too large"), OUTCOME)
    with pytest.raises(CellError, match="too large"):
        script.ask()
    assert script.ask("task=demo_re") == OUTCOME
    assert script.log == ["hired", "asked demo_qa", "asked demo_re"]


def test_a_lost_node_is_not_the_cell_s_fault() -> None:
    lost = [died("node_lost", blameless=True) for _ in range(MAX_LOSSES)]
    script = Script(*lost, died(), OUTCOME)
    assert script.ask() == OUTCOME
    assert len(script.lost) == MAX_LOSSES + 1


def test_but_not_without_end() -> None:
    script = Script(*[died("node_lost", blameless=True) for _ in range(MAX_LOSSES + 1)])
    with pytest.raises(WorkerDiedError, match="node_lost"):
        script.ask()


def test_a_worker_that_was_killed_on_purpose_is_no_failure() -> None:
    script = Script(OUTCOME, died())
    script.ask()
    script.desk.kill()
    with pytest.raises(KeyboardInterrupt):
        script.ask()
    assert script.log == ["hired", "asked demo_qa", "killed", "closed", "hired", "asked demo_qa"]
    assert script.lost == []


def test_a_place_that_is_lost_before_the_worker_begins_is_looked_for_again() -> None:
    script = Script(OUTCOME)
    script.places_lost = MAX_LOSSES
    assert script.ask() == OUTCOME
    script.desk.close()
    script.places_lost = MAX_LOSSES + 1
    with pytest.raises(WorkerDiedError, match="node_lost"):
        script.desk.seat(cell())


def test_nothing_is_asked_once_the_sweep_is_stopping() -> None:
    script = Script(OUTCOME)
    script.stopping.set()
    with pytest.raises(KeyboardInterrupt):
        script.ask()
    assert script.log == ["hired"]
    script.desk.stop()
    assert script.log == ["hired", "stopped"]
