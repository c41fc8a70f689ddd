"""A cell may take several attempts: whose turn it is, and where the last attempt that did not finish left its journal.

`multirun/cells/` in the project's folder holds, for each unfinished cell by its fingerprint, a file that names that folder
and a lock that is held by the process that owns the cell's run.
"""

import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from bioquant import journal
from bioquant.places import project_root
from bioquant.records import Prediction

POLL_S = 0.5

ELSEWHERE = ("platform", "num_cpus")
"""What of an environment may differ between two attempts: it changes no text."""


@contextmanager
def turn(fingerprint: str) -> Generator[bool]:
    """Whether it is our turn: False where another process works at this cell. Ours until the context ends."""
    lock = _lock(fingerprint)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    with _given_back(lock, fingerprint):
        yield True


@contextmanager
def awaited_turn(fingerprint: str, name: str) -> Generator[None]:
    """As `turn`, but where it is not ours yet we say so and wait."""
    lock = _lock(fingerprint)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{name}: another process is at this very cell: waiting for its end", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=POLL_S)
    with _given_back(lock, fingerprint):
        yield


def take_over(fingerprint: str, folder: Path, environment: Mapping[str, str], *, anew: bool) -> list[Prediction]:
    """What the last attempt that did not finish has journaled, now in this folder's journal too; noted for the next.

    environment: what this attempt runs in. Another device or library can give other text, and a cell's answers must all
    come from one: a journal that was made elsewhere is left. anew: as if there were none, but for a retry in one folder.
    """
    before = _last(fingerprint, environment)
    if before is None or (anew and before != folder):
        (folder / journal.JOURNAL).unlink(missing_ok=True)
        predictions = []
    else:
        predictions = journal.take_over(before, folder)
    copy = _note(fingerprint).with_suffix(".copy")
    copy.write_text(json.dumps({"folder": str(folder), "environment": dict(environment)}), encoding="utf-8")
    copy.replace(_note(fingerprint))
    return predictions


def _last(fingerprint: str, environment: Mapping[str, str]) -> Path | None:
    """The folder of the last attempt, where its journal is and was made in the same environment."""
    if not _note(fingerprint).exists():
        return None
    note = json.loads(_note(fingerprint).read_text(encoding="utf-8"))
    folder = Path(note["folder"])
    same = _deciding(note["environment"]) == _deciding(environment)
    return folder if same and (folder / journal.JOURNAL).exists() else None


def done(fingerprint: str) -> None:
    """The cell is finished: there is nothing left to go on from."""
    _note(fingerprint).unlink(missing_ok=True)


@contextmanager
def _given_back(lock: BaseFileLock, fingerprint: str) -> Generator[None]:
    """Let go of the lock at the end; what is finished leaves no file behind."""
    try:
        yield
    finally:
        if not _note(fingerprint).exists():
            Path(lock.lock_file).unlink()
        lock.release()


def _lock(fingerprint: str) -> BaseFileLock:
    return FileLock(_cells() / f"{fingerprint}.lock", thread_local=False)


def _deciding(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in ELSEWHERE}


def _note(fingerprint: str) -> Path:
    return _cells() / fingerprint


def _cells() -> Path:
    folder = project_root() / "multirun" / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
