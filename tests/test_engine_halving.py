import logging
from collections.abc import Iterator, Sequence

import pytest
import torch

from bioquant.engine.halving import halving
from bioquant.errors import OutOfMemoryError


class Device:
    """Takes so many items at a time, and runs out of memory after it has finished some."""

    def __init__(self, room: int, finished: int = 0) -> None:
        self.room = room
        self.finished = finished
        self.tries: list[list[str]] = []
        self.released = 0

    def work(self, items: Sequence[str]) -> Iterator[tuple[str, str]]:
        self.tries.append(list(items))
        for place, item in enumerate(items):
            if len(items) > self.room and place >= self.finished:
                raise torch.OutOfMemoryError("out of memory")
            yield item, item.upper()

    def release(self) -> None:
        self.released += 1


def test_work_that_fits_is_done_once() -> None:
    device = Device(room=4)
    assert list(halving(device.work, list("abc"), device.release, "cpu")) == ["A", "B", "C"]
    assert (device.tries, device.released) == ([["a", "b", "c"]], 0)


def test_halves_until_it_fits_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    device = Device(room=2)
    with caplog.at_level(logging.WARNING):
        assert list(halving(device.work, list("abcde"), device.release, "cuda:0")) == ["A", "B", "C", "D", "E"]
    assert device.tries == [list("abcde"), list("abc"), list("ab"), ["c"], list("de")]
    assert device.released == 2
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on cuda:0 with 5 rows in a batch: it goes on in halves",
        "out of memory on cuda:0 with 3 rows in a batch: it goes on in halves",
    ]


def test_what_was_finished_is_kept_and_not_done_again() -> None:
    device = Device(room=2, finished=3)
    assert list(halving(device.work, list("abcde"), device.release, "cpu")) == ["A", "B", "C", "D", "E"]
    assert device.tries == [list("abcde"), ["d"], ["e"]]


def test_equal_items_are_each_done() -> None:
    assert list(halving(Device(room=1).work, ["a", "a"], lambda: None, "cpu")) == ["A", "A"]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        list(halving(Device(room=0).work, ["a"], lambda: None, "cuda:0"))
    assert str(caught.value) == (
        "out of memory on cuda:0 even at batch size 1."
        " Choose a smaller model, a quant of fewer bits, or fewer prompt.num_shots."
    )
