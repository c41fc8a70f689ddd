"""Dynamic batching: requests that come together are answered together, in one thread; a bounded queue before it.

A request is never split: one that comes alone is answered by the same batches as an evaluation of its rows would be.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from traceback import format_tb

from bioquant.errors import BioquantError, RequestError
from bioquant.records import Prediction, Row

log = logging.getLogger(__name__)

Answered = Prediction | RequestError
Answer = Callable[[Sequence[Row]], list[Answered]]


class BusyError(RequestError):
    """The queue has no room for the request now."""

    status = 429


class ClosingError(RequestError):
    """The service is about to end and takes no more requests."""

    status = 503


class CrashError(BioquantError):
    """The model failed in a way that nobody foresaw."""

    kind = "crash"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue, and where its answers go."""

    rows: Sequence[Row]
    answers: asyncio.Future[list[Answered]]


class Batches:
    """What forms batches. All methods are for one event loop; `answer` runs in a thread of its own.

    rows: requests are put together up to so many. wait_s: how long the first request of a batch waits for others.
    queue_rows: that may wait. failed: why the last batch failed, where nobody foresaw it; else empty.
    """

    def __init__(self, answer: Answer, *, rows: int, wait_s: float, queue_rows: int) -> None:
        self.failed = ""
        self._answer = answer
        self._rows = rows
        self._wait_s = wait_s
        self._queue_rows = queue_rows
        self._queue = deque[Waiting]()
        self._arrived = asyncio.Event()
        self._closing = False

    @property
    def num_waiting(self) -> int:
        """Rows in the queue."""
        return sum(len(waiting.rows) for waiting in self._queue)

    @property
    def is_open(self) -> bool:
        """Whether a row would find room."""
        return not self._closing and self.num_waiting < self._queue_rows

    async def submit(self, rows: Sequence[Row]) -> list[Answered]:
        """The rows' answers, in order. Raises BusyError, ClosingError, and what failed in the thread."""
        if self._closing:
            raise ClosingError("the service is shutting down: ask another one.")
        if self.num_waiting + len(rows) > self._queue_rows:
            raise BusyError(
                f"{self.num_waiting} rows wait already, and serve.queue_rows={self._queue_rows}: ask again later."
            )
        mine = Waiting(rows, asyncio.get_running_loop().create_future())
        self._queue.append(mine)
        self._arrived.set()
        return await mine.answers

    async def run(self) -> None:
        """Form batches until `close`, and then until the queue is empty."""
        with ThreadPoolExecutor(1, thread_name_prefix="answers") as thread:
            while batch := await self._next():
                await self._answer_batch(batch, thread)

    def close(self) -> None:
        """Take no more requests."""
        self._closing = True
        self._arrived.set()

    async def _next(self) -> list[Waiting]:
        """The next batch: whole requests, one at least; empty once all is done."""
        await self._until(1)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await self._until(self._rows)
        batch = [self._queue.popleft()] if self._queue else []
        taken = sum(len(waiting.rows) for waiting in batch)
        while self._queue and taken + len(self._queue[0].rows) <= self._rows:
            taken += len(self._queue[0].rows)
            batch.append(self._queue.popleft())
        return batch

    async def _until(self, rows: int) -> None:
        """Wait until so many rows are in the queue, or no more will come."""
        while self.num_waiting < rows and not self._closing:
            self._arrived.clear()
            await self._arrived.wait()

    async def _answer_batch(self, batch: Sequence[Waiting], thread: ThreadPoolExecutor) -> None:
        """Whatever fails in the thread, those who wait for it are told, and the next batch has its turn."""
        rows = [row for waiting in batch for row in waiting.rows]
        made = asyncio.get_running_loop().run_in_executor(thread, self._answer, rows)
        await asyncio.wait([made])
        error = made.exception()
        self.failed = "" if error is None or isinstance(error, BioquantError) else type(error).__name__
        answers = iter(() if error is not None else made.result())
        for waiting in batch:
            own = list(islice(answers, len(waiting.rows)))
            if waiting.answers.done():  # its request was given up
                continue
            if error is None:
                waiting.answers.set_result(own)
            else:
                waiting.answers.set_exception(_told(error))
        if self.failed and error is not None:  # where, and not what: a library's message may hold a text
            log.error("the model failed (%s):\n%s", self.failed, "".join(format_tb(error.__traceback__)))


def _told(error: BaseException) -> BioquantError:
    """What those who asked are told. Our own errors name no text; of another one they learn the type alone."""
    if isinstance(error, BioquantError):
        return error
    return CrashError(f"the model failed ({type(error).__name__}): see the service's log.")
