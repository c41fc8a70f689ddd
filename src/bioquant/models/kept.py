"""Folders that take minutes to fill: filled once, kept in the user's cache, there as a whole or not at all."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)


def kept(target: Path, fill: Callable[[Path], None], broken: Callable[[Path], str | None] = lambda _: None) -> Path:
    """The folder, filled now where it is not there yet, and anew where it is broken.

    Safe when several processes ask at once: one fills it under a lock, in a folder of another name that is renamed when
    it is complete. What a killed process left is removed by the next.

    broken: what is wrong with a folder that is there; None where nothing is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        if target.is_dir() and (reason := broken(target)) is not None:
            log.warning("%s is broken (%s): it is made anew", target, reason)
            shutil.rmtree(target)
        if not target.is_dir():
            _make(target, fill)
    return target


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a partial folder, then give it its name in one step."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        fill(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
