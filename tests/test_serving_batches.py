"""Requests that come together are answered together: driven by a fake model that waits to be let go."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from bioquant.errors import OutOfMemoryError
from bioquant.records import Prediction, Row
from bioquant.serving.batches import Answered, Batches, BusyError, ClosingError, CrashError
from test_serving_answers import ANSWERED


class Model:
    """Answers with the row's own id, once it is let go; keeps the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def __call__(self, rows: Sequence[Row]) -> list[Answered]:
        self.batches.append([row.id for row in rows])
        self.go.wait(30)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [replace(ANSWERED, example_id=row.id) for row in rows]


def rows(*ids: str) -> list[Row]:
    return [Row(id=name, inputs={"text": name}, target=()) for name in ids]


def ids(found: Sequence[Answered]) -> list[str]:
    return [one.example_id for one in found if isinstance(one, Prediction)]


def driven(test: Callable[[Batches, Model], Awaitable[None]], *, size: int = 3, queue_rows: int = 6) -> Model:
    """Run the test beside the batches' own task, and see both end."""
    model = Model()

    async def both() -> None:
        batches = Batches(model, rows=size, wait_s=0.02, queue_rows=queue_rows)
        running = asyncio.create_task(batches.run())
        await test(batches, model)
        batches.close()
        await asyncio.wait_for(running, 30)

    asyncio.run(both())
    return model


async def started(model: Model, number: int) -> None:
    """Until so many batches are at the model."""
    while len(model.batches) < number:
        await asyncio.sleep(0.001)


def test_each_request_gets_its_own_answers_in_order() -> None:
    async def test(batches: Batches, model: Model) -> None:
        model.go.set()
        found = await asyncio.gather(batches.submit(rows("a", "b")), batches.submit(rows("c")))
        assert [ids(one) for one in found] == [["a", "b"], ["c"]]

    assert driven(test).batches == [["a", "b", "c"]]


def test_what_comes_while_the_model_works_rides_together_and_no_request_is_split() -> None:
    async def test(batches: Batches, model: Model) -> None:
        first = asyncio.create_task(batches.submit(rows("a")))
        await started(model, 1)
        others = [asyncio.create_task(batches.submit(rows(*names))) for names in ("bc", "de", "f")]
        await asyncio.sleep(0)
        model.go.set()
        assert ids(await first) == ["a"]
        assert [ids(await one) for one in others] == [["b", "c"], ["d", "e"], ["f"]]

    assert driven(test).batches == [["a"], ["b", "c"], ["d", "e", "f"]]


def test_a_request_larger_than_a_batch_is_answered_whole() -> None:
    async def test(batches: Batches, model: Model) -> None:
        model.go.set()
        assert ids(await batches.submit(rows(*"abcde"))) == list("abcde")

    assert driven(test).batches == [list("abcde")]


def test_a_full_queue_refuses_and_takes_again_once_there_is_room() -> None:
    async def test(batches: Batches, model: Model) -> None:
        first = asyncio.create_task(batches.submit(rows("a")))
        await started(model, 1)
        waiting = [asyncio.create_task(batches.submit(rows(name))) for name in "bcdefg"]
        await asyncio.sleep(0)
        assert (batches.num_waiting, batches.is_open) == (6, False)
        with pytest.raises(BusyError) as caught:
            await batches.submit(rows("h"))
        assert str(caught.value) == "6 rows wait already, and serve.queue_rows=6: ask again later."
        assert caught.value.status == 429
        model.go.set()
        await asyncio.gather(first, *waiting)
        assert batches.is_open
        assert ids(await batches.submit(rows("h"))) == ["h"]

    assert [name for batch in driven(test).batches for name in batch] == list("abcdefgh")


def test_what_was_asked_before_the_end_is_answered_and_nothing_after_it() -> None:
    async def test(batches: Batches, model: Model) -> None:
        first = asyncio.create_task(batches.submit(rows("a")))
        await started(model, 1)
        second = asyncio.create_task(batches.submit(rows("b")))
        await asyncio.sleep(0)
        batches.close()
        with pytest.raises(ClosingError) as caught:
            await batches.submit(rows("c"))
        assert caught.value.status == 503
        model.go.set()
        assert [ids(await first), ids(await second)] == [["a"], ["b"]]

    driven(test)


def test_a_request_that_was_given_up_does_not_disturb_the_others() -> None:
    async def test(batches: Batches, model: Model) -> None:
        gone = asyncio.create_task(batches.submit(rows("a")))
        stays = asyncio.create_task(batches.submit(rows("b")))
        await started(model, 1)
        gone.cancel()
        model.go.set()
        assert ids(await stays) == ["b"]

    driven(test)


def test_an_error_of_ours_reaches_those_who_asked_and_the_next_batch_has_its_turn() -> None:
    async def test(batches: Batches, model: Model) -> None:
        model.go.set()
        model.error = OutOfMemoryError("the device has no room")
        with pytest.raises(OutOfMemoryError, match="the device has no room"):
            await batches.submit(rows("a"))
        assert batches.failed == ""
        assert ids(await batches.submit(rows("b"))) == ["b"]

    driven(test)


def test_a_crash_is_told_without_its_message_which_may_hold_a_text(caplog: pytest.LogCaptureFixture) -> None:
    async def test(batches: Batches, model: Model) -> None:
        model.go.set()
        model.error = ValueError("cannot read 'Mrs Smith has a cough'")
        with pytest.raises(CrashError) as caught:
            await batches.submit(rows("a"))
        assert str(caught.value) == "the model failed (ValueError): see the service's log."
        assert batches.failed == "ValueError"
        assert ids(await batches.submit(rows("b"))) == ["b"]
        assert batches.failed == ""

    with caplog.at_level(logging.INFO):
        driven(test)
    assert "the model failed (ValueError):" in caplog.text
    assert "test_serving_batches.py" in caplog.text
    assert "Smith" not in caplog.text
