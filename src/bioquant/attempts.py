"""A cell may take several attempts: whose turn it is, and where the last one that did not finish left its journal.

`multirun/.cells/` in the project's folder holds for each unfinished cell, by its fingerprint, a note of that folder,
and a lock that is held by the process that owns the cell's run; and the list of all that were finished. Sweeps have
notes and locks of their own there.
"""

import json
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from bioquant import journal
from bioquant.places import project_root
from bioquant.records import Prediction

POLL_S = 0.5

ELSEWHERE = ("platform", "num_cpus")
"""What of an environment may differ between two attempts: it changes no text."""


@contextmanager
def turn(key: str) -> Generator[bool]:
    """Whether it is our turn: False where another process is at this cell or sweep. Ours until the context ends."""
    lock = _lock(key)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    with _given_back(lock, key):
        yield True


@contextmanager
def awaited_turn(key: str, name: str) -> Generator[None]:
    """As `turn`, but where it is not ours yet we say so and wait."""
    lock = _lock(key)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{name}: another process is at this very cell: waiting for its end", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=POLL_S)
    with _given_back(lock, key):
        yield


def take_over(fingerprint: str, folder: Path, environment: Mapping[str, str], *, anew: bool) -> list[Prediction]:
    """What the last attempt that did not finish has journaled, now in this folder's journal too; noted for the next.

    environment: what this attempt runs in. Another device or library can give other text, and a cell's answers must
    all come from one: a journal that was made elsewhere is left. anew: as if there were none, but for this folder's.
    """
    before = _last(fingerprint, environment)
    if before is None or (anew and before != folder):
        (folder / journal.JOURNAL).unlink(missing_ok=True)
        predictions = []
    else:
        predictions = journal.take_over(before, folder)
    remember(fingerprint, {"folder": str(folder), "environment": dict(environment)})
    return predictions


def _last(fingerprint: str, environment: Mapping[str, str]) -> Path | None:
    """The folder of the last attempt, where its journal is and was made in the same environment."""
    note = recall(fingerprint)
    if note is None or _deciding(note["environment"]) != _deciding(environment):
        return None
    folder = Path(note["folder"])
    return folder if (folder / journal.JOURNAL).exists() else None


def _deciding(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in ELSEWHERE}


def done(fingerprint: str) -> None:
    """The cell is finished: there is nothing left to go on from, and other sweeps may know."""
    with _done().open("a", encoding="utf-8") as file:
        file.write(fingerprint + "\n")
    forget(fingerprint)


def mark() -> int:
    """A point in time, for `done_since`."""
    return _done().stat().st_size if _done().exists() else 0


def done_since(mark: int) -> set[str]:
    """The fingerprints of this project's cells that were finished since then, by any process."""
    if not _done().exists():
        return set()
    with _done().open("rb") as file:
        file.seek(mark)
        return set(file.read().decode().split())


def forget_finished(fingerprints: Iterable[str]) -> None:
    """Whoever finished these cells may have been killed before it could `forget` them; unless one is under way anew."""
    for fingerprint in fingerprints:
        if _note(fingerprint).exists():
            with turn(fingerprint) as ours:
                if ours:
                    forget(fingerprint)


def remember(key: str, note: Mapping[str, Any]) -> None:
    """Keep a note, whole or not at all, until it is forgotten."""
    copy = _note(key).with_suffix(".copy")
    copy.write_text(json.dumps(note), encoding="utf-8")
    copy.replace(_note(key))


def recall(key: str) -> dict[str, Any] | None:
    """The note that was kept; None where there is none."""
    return json.loads(_note(key).read_text(encoding="utf-8")) if _note(key).exists() else None


def forget(key: str) -> None:
    """The note is of no use any more."""
    _note(key).unlink(missing_ok=True)


@contextmanager
def _given_back(lock: BaseFileLock, key: str) -> Generator[None]:
    """Let go of the lock at the end; what is finished leaves no file behind."""
    try:
        yield
    finally:
        if not _note(key).exists():
            Path(lock.lock_file).unlink()
        lock.release()


def _lock(key: str) -> BaseFileLock:
    return FileLock(_cells() / f"{key}.lock", thread_local=False)


def _note(key: str) -> Path:
    return _cells() / f"{key}.json"


def _done() -> Path:
    return _cells() / "done"


def _cells() -> Path:
    folder = project_root() / "multirun" / ".cells"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
