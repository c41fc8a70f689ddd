"""Dynamic batching: requests that come together are answered together, in one thread; a bounded queue before it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from bioquant.errors import BioquantError, RequestError
from bioquant.records import Prediction, Row

Answered = Prediction | RequestError
Answer = Callable[[Sequence[Row]], list[Answered]]


class BusyError(RequestError):
    """The queue has no room for the request now."""

    status = 429


class ClosingError(RequestError):
    """The service is about to end and takes no more requests."""

    status = 503


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row in the queue, and where its answer goes."""

    row: Row
    answer: asyncio.Future[Answered]


class Batches:
    """What forms batches. All methods are for one event loop; `answer` runs in a thread of its own.

    rows: the most of a batch. wait_s: how long the first row of a batch waits for others. queue_rows: that may wait.
    failed: why the last batch failed, where that was no fault of what was asked; empty where it did not.
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
    def is_open(self) -> bool:
        """Whether a row would find room."""
        return not self._closing and len(self._queue) < self._queue_rows

    async def submit(self, rows: Sequence[Row]) -> list[Answered]:
        """The rows' answers, in order. Raises BusyError, ClosingError, and what failed in the thread."""
        if self._closing:
            raise ClosingError("the service is shutting down: ask another one.")
        if len(self._queue) + len(rows) > self._queue_rows:
            raise BusyError(
                f"{len(self._queue)} rows wait already, and serve.queue_rows={self._queue_rows}: ask again later."
            )
        loop = asyncio.get_running_loop()
        mine = [Waiting(row, loop.create_future()) for row in rows]
        self._queue.extend(mine)
        self._arrived.set()
        return list(await asyncio.gather(*(waiting.answer for waiting in mine)))

    async def run(self) -> None:
        """Form batches until `close`, and then until the queue is empty."""
        with ThreadPoolExecutor(1, thread_name_prefix="answers") as thread:
            while batch := await self._next():
                await self._answer_batch(batch, thread)

    def close(self) -> None:
        """Take no more rows."""
        self._closing = True
        self._arrived.set()

    async def _next(self) -> list[Waiting]:
        """The next batch; empty once all is done."""
        await self._until(1)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await self._until(self._rows)
        return [self._queue.popleft() for _ in range(min(self._rows, len(self._queue)))]

    async def _until(self, rows: int) -> None:
        """Wait until so many rows are in the queue, or no more will come."""
        while len(self._queue) < rows and not self._closing:
            self._arrived.clear()
            await self._arrived.wait()

    async def _answer_batch(self, batch: Sequence[Waiting], thread: ThreadPoolExecutor) -> None:
        """Whatever fails in the thread, those who wait for it are told, and the next batch has its turn."""
        loop = asyncio.get_running_loop()
        made = loop.run_in_executor(thread, self._answer, [waiting.row for waiting in batch])
        await asyncio.wait([made])
        error = made.exception()
        self.failed = "" if error is None or isinstance(error, BioquantError) else type(error).__name__
        for place, waiting in enumerate(batch):
            if waiting.answer.done():  # its request was given up
                continue
            if error is not None:
                waiting.answer.set_exception(error)
            else:
                waiting.answer.set_result(made.result()[place])
