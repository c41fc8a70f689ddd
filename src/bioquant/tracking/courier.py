"""The courier: a thread of the process that owns runs, which brings what is in the spool to the server.

What logs a run never waits for the server longer than it asks to: writing to the spool is all it has to do.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import closing

from bioquant.errors import is_disk_full
from bioquant.tracking import calls, owner
from bioquant.tracking.calls import AwayError, DeletedError, RefusedError, UnwellError
from bioquant.tracking.carrier import Carrier
from bioquant.tracking.events import Batch

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Between tries while the server is away."""

POLL_S = 0.05
"""While a run's start waits for its id, which another process may be getting."""

LOOK_AGAIN_S = 0.5
"""After a pass that left something: a run that another process is delivering, or a server that is unwell."""


class Courier:
    """Delivers in the background what this process logs and what dead ones left, and beats for the runs it owns.

    What another living process logs is that one's to deliver. moves: counts what was delivered. why_away: the reason
    while the server is away, else empty. trouble: what the server failed of last.
    """

    def __init__(self, carrier: Carrier) -> None:
        self.moves = 0
        self.why_away = ""
        self.trouble = ""
        self._carrier = carrier
        self._mine: set[str] = set()
        self._looked_around = 0.0
        self._owned: dict[str, float] = {}
        self._urgent: deque[str] = deque()
        self._failures = 0
        self._next_try = 0.0
        self._left_over = False
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def own(self, key: str) -> None:
        """Beat for this run until it is disowned; the first beat is told with what is delivered next."""
        self._owned.setdefault(key, 0.0)

    def disown(self, key: str) -> None:
        """No more beats: the run ends."""
        self._owned.pop(key, None)

    def nudge(self, run_id: str) -> None:
        """There is something to deliver for a run."""
        self._mine.add(self._carrier.spool.key_of(run_id))
        self._start()

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._loop, name="bioquant-courier", daemon=True)
            self._thread.start()
        self._wake.set()

    def created(self, key: str, patience_s: float) -> str | None:
        """Have a run made before all else; its MLflow id, or None where that takes longer or the server is away."""
        self._urgent.append(key)
        self.nudge(key)
        deadline = time.monotonic() + patience_s
        while (found := self._carrier.spool.run_id_of(key)) is None and not self.why_away:
            if time.monotonic() > deadline:
                return None
            self._wait(POLL_S)
        return found

    def drain(self, patience_s: float) -> None:
        """Wait until all is delivered; give up when the server is away, or nothing has moved for patience_s."""
        self._look_around()
        self._next_try, self.why_away = 0.0, ""
        self._start()
        moves, since = self.moves, time.monotonic()
        while any(map(self._carrier.deliverable, list(self._mine))) and not self.why_away:
            self._wait(LOOK_AGAIN_S)
            if self.moves != moves:
                moves, since = self.moves, time.monotonic()
            if time.monotonic() - since > patience_s:
                return

    def deliverable(self, key: str) -> bool:
        """Whether there is something to do for a run, which was not refused."""
        return self._carrier.deliverable(key)

    def left(self) -> list[str]:
        """The runs of this process that are not delivered."""
        return sorted(key for key in list(self._mine) if self._carrier.spool.waiting(key))

    def deliver(self, keys: Iterable[str]) -> None:
        """One pass over these runs, in the calling thread. Raises AwayError."""
        self._left_over = False
        self._create_urgent()
        for key in keys:
            try:
                with closing(self._carrier.deliver(key)) as steps:
                    for _ in steps:
                        self._moved()
                        self._create_urgent()
            except UnwellError as unwell:
                self._left_over, self.trouble = True, str(unwell)
            self._left_over |= self._carrier.deliverable(key)

    def _loop(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            if time.monotonic() >= self._next_try:
                self._try()

    def _pause(self) -> float:
        """Seconds until there is something to do without being told."""
        if self._failures:
            return max(0.0, self._next_try - time.monotonic())
        return LOOK_AGAIN_S if self._left_over else owner.HEARTBEAT_S / 4

    def _try(self) -> None:
        try:
            if time.monotonic() - self._looked_around > owner.HEARTBEAT_S:
                self._look_around()
            self.deliver(sorted(self._mine))
            self._beat()
            self._failures, self.why_away = 0, ""
        except AwayError as away:
            self._back_off(str(away))
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._back_off(str(error))
        self._moved(0)

    def _look_around(self) -> None:
        """Take over what nobody else will deliver, and let go what is delivered."""
        self._looked_around = time.monotonic()
        spool = self._carrier.spool
        known, there = set(self._mine), set(spool.runs())
        self._mine -= known - there
        for key in there - known:
            tags = spool.summary(key).tags
            if owner.gone(tags) or owner.is_this_process(tags):
                self._mine.add(key)

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _back_off(self, why: str) -> None:
        self._next_try = time.monotonic() + PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
        self._failures, self.why_away = self._failures + 1, why

    def _create_urgent(self) -> None:
        for _ in range(len(self._urgent)):
            key = self._urgent.popleft()
            try:
                if not self._carrier.create(key):
                    self._urgent.append(key)
            except UnwellError:
                self._left_over = True
            self._moved()

    def _beat(self) -> None:
        """Beats are not spooled: a late one says nothing."""
        for key, last in list(self._owned.items()):
            run_id = self._carrier.spool.run_id_of(key)
            if run_id is None or time.monotonic() - last < owner.HEARTBEAT_S:
                continue
            try:
                calls.send(self._carrier.client, run_id, Batch(tags={"owner.heartbeat": owner.heartbeat()}))
            except (UnwellError, RefusedError, DeletedError):
                continue
            if key in self._owned:
                self._owned[key] = time.monotonic()

    def _moved(self, number: int = 1) -> None:
        with self._changed:
            self.moves += number
            self._changed.notify_all()
