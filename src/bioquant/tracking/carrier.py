"""From the spool to the server, one run at a time: in order, each event once the one before has arrived."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient

from bioquant.tracking import calls
from bioquant.tracking.calls import DeletedError, NotSentError, RefusedError, UnwellError
from bioquant.tracking.events import Create, End, Event, Reopen, Summary
from bioquant.tracking.spool import Progress, Spool

SETTLE_S = 10.0
"""How long a creation without an answer may still be on its way through a slow server."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """Delivers the runs of one spool."""

    spool: Spool
    uri: str
    experiment_id: str

    @property
    def client(self) -> MlflowClient:
        """MLflow's client. Raises AwayError."""
        return calls.asked(lambda: calls.client_of(self.uri))

    def deliverable(self, key: str) -> bool:
        """Whether there is something to do for the run, which was not refused."""
        progress = self.spool.progress(key)
        return progress.refused is None and (progress.ended or self.spool.waiting(key))

    def deliver(self, key: str) -> Generator[None]:
        """Deliver what a run has, yielding after each event; nothing where another process is at it.

        A refusal is kept with the run. Raises AwayError, UnwellError.
        """
        with self.spool.delivering(key) as mine:
            if not mine or not self.deliverable(key):
                return
            try:
                yield from self._deliver(key)
            except RefusedError as refused:
                self.spool.save(key, replace(self.spool.progress(key), refused=str(refused)))
            except DeletedError as deleted:
                self.spool.forget(key, {"run_id": str(deleted), "deleted": True}, unread=True)

    def create(self, key: str) -> bool:
        """Make the run on the server where it is not yet, nothing more; False where another process is at it.

        Raises AwayError, UnwellError.
        """
        with self.spool.delivering(key) as mine:
            if mine and self.deliverable(key):
                try:
                    self._created(key)
                except RefusedError as refused:
                    self.spool.save(key, replace(self.spool.progress(key), refused=str(refused)))
            return mine

    def _deliver(self, key: str) -> Iterator[None]:
        run_id, progress = self._created(key)
        for event, end in self.spool.read(key, progress.done):
            calls.send(self.client, run_id, event)
            progress = after(progress, event, end)
            self.spool.save(key, progress)
            yield
        if progress.ended:
            if progress.tries > 1:
                calls.delete_twins(self.client, self.experiment_id, key, run_id)
            self.spool.forget(key, record(run_id, self.spool.summary(key)))

    def _created(self, key: str) -> tuple[str, Progress]:
        """The run's id and progress; the run is made where it is not yet."""
        progress = self.spool.progress(key)
        if progress.run_id is not None:
            return progress.run_id, progress
        event, end = next(self.spool.read(key))
        assert isinstance(event, Create)
        parent_id = self._parent_id(event.parent) if event.parent else None
        run_id = self._made_before(key, progress) or self._make(key, progress, event, parent_id)
        self.spool.link(key, run_id)
        made = replace(self.spool.progress(key), run_id=run_id, done=end)
        self.spool.save(key, made)
        return run_id, made

    def _made_before(self, key: str, progress: Progress) -> str | None:
        """The run of an earlier try whose answer was lost. It may still come about: better wait than make a second."""
        earlier = calls.with_key(self.client, self.experiment_id, key) if progress.tries else []
        if not earlier and time.time() - progress.tried_s < SETTLE_S:
            raise UnwellError("whether its creation arrived is not clear yet")
        return earlier[0] if earlier else None

    def _make(self, key: str, progress: Progress, event: Create, parent_id: str | None) -> str:
        """A try is noted before it is made: it may arrive, and its answer not."""
        self.spool.save(key, replace(progress, tries=progress.tries + 1, tried_s=time.time()))
        try:
            return calls.create(self.client, self.experiment_id, key, event, parent_id)
        except NotSentError:
            self.spool.save(key, progress)
            raise

    def _parent_id(self, parent: str) -> str | None:
        """The parent's id; the parent is made first where it is not yet."""
        known = self.spool.run_id_of(parent)
        if known is not None or parent not in self.spool.runs():
            return known
        with self.spool.delivering(parent) as mine:
            if not mine:
                raise UnwellError("its parent run is being made by another process")
            return self._created(parent)[0]


def after(progress: Progress, event: Event, end: int) -> Progress:
    """The progress once an event is delivered."""
    return replace(
        progress, done=end, ended=isinstance(event, End) or (progress.ended and not isinstance(event, Reopen))
    )


def record(run_id: str, found: Summary) -> dict[str, Any]:
    """What is kept of a run that is delivered whole: of a finished cell all that `finished` says of it."""
    kept = {"run_id": run_id, "status": found.status, "fingerprint": found.tags.get("fingerprint")}
    if found.status != "FINISHED" or "quality" not in found.metrics:
        return kept
    return kept | {"metrics": dict(found.metrics), "input_ids_sha256": found.tags.get("input_ids_sha256", "")}
