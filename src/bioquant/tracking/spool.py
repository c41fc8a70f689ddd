"""The spool: what a run logs is on disk, flushed, before anything is sent; what the server has is remembered beside it.

One folder a store and experiment, under `multirun/.spool` of the project:

    store.json               the store's address (without a password) and the experiment's id
    runs/KEY.jsonl           a run's events, one a line, appended by any process of the project
    runs/KEY.json            how far they are delivered, and the MLflow run id
    runs/ID.key              the key of the run with this MLflow id
    runs/KEY.reserve         room for a terminal status on a disk that is full
    delivered.jsonl          a line for each run whose events were all delivered; its files are gone then
    locks/                   taken around appending and around delivering, each for one run at a time

KEY is a local key, or MLflow's run id where the run was made elsewhere.
"""

import json
import os
import uuid
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bioquant.errors import DiskFullError, TrackingError, is_disk_full
from bioquant.tracking.events import Create, Event, Summary, from_line, summary, to_line

KINDS = ("jsonl", "json", "reserve")

RESERVE_BYTES = 8192
STRIPES = 1024
"""Lock files: a lock that is deleted while another process waits for it guards nothing, so they are few and stay."""

LOCAL = "local-"
"""How a local key begins; MLflow's run ids are hexadecimal."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the server has of a run.

    done: bytes of the events delivered. ended: it has a terminal status.
    tries: how often its creation was sent. tried_s: when last, in seconds since the epoch.
    refused: why the server will not take the next event; None while it may.
    """

    run_id: str | None = None
    done: int = 0
    tries: int = 0
    tried_s: float = 0.0
    ended: bool = False
    refused: str | None = None


def new_key() -> str:
    """A key for a run that has no MLflow id yet. Keys sort by time."""
    return f"{LOCAL}{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class Spool:
    """The spool of one store and experiment."""

    folder: Path

    def remember(self, **address: str) -> None:
        """Keep what is needed to open the store while the server is away."""
        if self.address() != address:
            self._replace(self.folder / "store.json", address)

    def address(self) -> dict[str, str] | None:
        """What `remember` kept; None where the store was never opened."""
        return _read_json(self.folder / "store.json")

    def runs(self) -> list[str]:
        """The keys of the runs that are not yet delivered whole, the oldest first."""
        return sorted(path.stem for path in (self.folder / "runs").glob("*.jsonl"))

    def add(self, run_id: str, events: Sequence[Event], *, last: bool = False) -> None:
        """Append events to a run, all or none, flushed to disk. last: may use up the reserve of a full disk.

        Raises DiskFullError, TrackingError where a local key is not known.
        """
        with self._appending(run_id) as key:
            if not self._events(key).exists() and not isinstance(events[0], Create):
                self._begin_again(key)
            try:
                self._append(key, b"".join(to_line(event) for event in events))
            except DiskFullError:
                reserve = self._path(key, "reserve")
                if not last or not reserve.exists():
                    raise
                reserve.unlink()
                self._append(key, b"".join(to_line(event) for event in events))

    def create(self, events: Sequence[Event]) -> str:
        """Begin a run with its creation and what follows at once; returns its local key. Raises DiskFullError."""
        key = new_key()
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        reserve = self._path(key, "reserve")
        try:
            _append(reserve, bytes(RESERVE_BYTES))
            self.add(key, events)
        except DiskFullError:
            reserve.unlink(missing_ok=True)
            raise
        return key

    def summary(self, key: str) -> Summary:
        """What a run's events come to."""
        return summary(event for event, _ in self.read(key))

    def read(self, key: str, start: int = 0) -> Iterator[tuple[Event, int]]:
        """The run's events from a byte on, each with the byte it ends at. A torn last line is no event."""
        try:
            content = self._events(key).read_bytes()
        except FileNotFoundError:
            return
        end = start
        for line in content[start:].splitlines(keepends=True):
            end += len(line)
            if line.endswith(b"\n"):
                yield from_line(line), end

    def last_sign_s(self, key: str) -> float:
        """When the run logged last, in seconds since the epoch."""
        return self._events(key).stat().st_mtime

    def waiting(self, key: str) -> bool:
        """Whether the run has events that the server does not."""
        events = self._events(key)
        return events.exists() and events.stat().st_size > self.progress(key).done

    def progress(self, key: str) -> Progress:
        """How far the run is delivered."""
        return Progress(**(_read_json(self._path(key, "json")) or {}))

    def link(self, key: str, run_id: str) -> None:
        """Make the run known by its MLflow id too."""
        self._path(run_id, "key").write_text(key, encoding="utf-8")

    def save(self, key: str, progress: Progress) -> None:
        """Remember how far the run is delivered."""
        self._replace(self._path(key, "json"), asdict(progress))

    @contextmanager
    def delivering(self, key: str) -> Generator[bool]:
        """Hold the right to deliver a run; False where another process or thread has it."""
        try:
            with self._lock("deliver", key, timeout=0):
                yield True
        except Timeout:
            yield False

    def forget(self, key: str, record: dict[str, Any], *, unread: bool = False) -> None:
        """Remove a run and keep one line about it, unless something was added meanwhile. unread: even then."""
        with self._lock("append", key):
            if self.waiting(key) and not unread:
                return
            with self._lock("record", "delivered"):
                _append(self.folder / "delivered.jsonl", json.dumps({"key": key, **record}).encode() + b"\n")
            for path in (*(self._path(key, kind) for kind in KINDS), self._path(record["run_id"], "key")):
                path.unlink(missing_ok=True)

    def delivered(self) -> dict[str, dict[str, Any]]:
        """What `forget` kept, by key."""
        path = self.folder / "delivered.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return {record["key"]: record for record in map(json.loads, lines)}

    def key_of(self, run_id: str) -> str:
        """Where the events of a run stand, given its local key or its MLflow id: by the id once all is delivered."""
        try:
            return self._path(run_id, "key").read_text(encoding="utf-8")
        except FileNotFoundError:
            delivered = run_id.startswith(LOCAL) and not self._events(run_id).exists()
            return self.delivered().get(run_id, {}).get("run_id", run_id) if delivered else run_id

    def run_id_of(self, run_id: str) -> str | None:
        """The MLflow id of a run given by either; None where it has none yet."""
        if not run_id.startswith(LOCAL):
            return run_id
        if self._events(run_id).exists():
            return self.progress(run_id).run_id
        return self.delivered().get(run_id, {}).get("run_id")

    def _begin_again(self, key: str) -> None:
        """A run whose events were all delivered, or that was made elsewhere, gets more."""
        run_id = self.run_id_of(key)
        if run_id is None:
            raise TrackingError(f"run '{key}' is not known in the spool {self.folder}: was its folder removed?")
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        self.save(key, Progress(run_id=run_id))

    def _events(self, key: str) -> Path:
        return self._path(key, "jsonl")

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / "runs" / f"{key}.{kind}"

    def _append(self, key: str, content: bytes) -> None:
        _append(self._events(key), content)

    @contextmanager
    def _appending(self, run_id: str) -> Generator[str]:
        """Hold the right to append to a run; gives its key, which may have changed while it was waited for."""
        while True:
            key = self.key_of(run_id)
            with self._lock("append", key):
                if self.key_of(run_id) == key:
                    yield key
                    return

    @contextmanager
    def _lock(self, kind: str, key: str, timeout: float = -1) -> Generator[None]:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{kind}-{zlib.crc32(key.encode()) % STRIPES}", timeout=timeout):
            yield

    def _replace(self, path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
        try:
            draft.write_text(json.dumps(value), encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _append(path: Path, content: bytes) -> None:
    """Append all of it, flushed to disk, or nothing. Raises DiskFullError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        start = _whole_lines(descriptor)
        try:
            os.ftruncate(descriptor, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, start)
            if is_disk_full(error):
                raise DiskFullError.at(path) from error
            raise
    finally:
        os.close(descriptor)


def _whole_lines(descriptor: int) -> int:
    """The size of a file without the torn line that a killed process may have left at its end."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    content = os.pread(descriptor, size, 0)
    return content.rfind(b"\n") + 1


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
