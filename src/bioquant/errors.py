"""What can go wrong, as a tree. A message is one line: the thing, the bad value, what is allowed, what to do.

BioquantError                 anything this package raises on purpose; ends a run as FAILED
├── UserError                 a mistake in what was asked for; the command exits with 2
│   ├── ConfigError           an unknown name, a misspelled key, a wrong type or value
│   ├── DataError             a missing, truncated or malformed data file
│   ├── ModelError            an absent or gated checkpoint, a wrong checksum
│   ├── QuantError            a recipe this device cannot run
│   ├── DoesNotFitError       a model that is predicted to need more memory than the device has
│   ├── TrackingError         a tracking server or store that cannot be used
│   ├── RegistryError         a model version that cannot be made, or is not there
│   └── RequestError          a request that a service cannot answer
├── OutOfMemoryError          the device has not the memory for one example
├── DiskFullError             a disk that cannot take what a run writes
├── QuantNotAppliedError      the recipe left the model as it was: its score would be a lie
├── BrokenQuantError          the quantized model does not compute: no finite logits, weights that unpack themselves
└── CellsFailedError          a sweep ended and some of its cells failed; the command exits with 1
"""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from bioquant.shown import masked, one_line, visible

LONGEST_LINE = 4000
"""Characters of a message: a value that fills a page names nothing."""


class BioquantError(Exception):
    """Base of all errors this package raises on purpose. `kind` becomes the run's tag `error.kind`.

    Its text may be shown and kept: it holds no secret, and no character that a terminal obeys. is_list: whether it is
    several lines; all others are one.
    """

    kind = "error"
    exit_code = 1
    is_list = False

    def __str__(self) -> str:
        text = masked(super().__str__())
        return visible(text) if self.is_list else _cut(one_line(text))


class UserError(BioquantError):
    """A mistake in what was asked for."""

    kind = "user"
    exit_code = 2


class ConfigError(UserError):
    """An unknown name, a misspelled key, a wrong type or a value outside its range."""

    kind = "config"


class DataError(UserError):
    """A missing, truncated or malformed data file."""

    kind = "data"


class ModelError(UserError):
    """A checkpoint that is absent, gated or not what its checksum promised."""

    kind = "model"


class QuantError(UserError):
    """A quantization recipe that cannot run here."""

    kind = "quant"


class DoesNotFitError(UserError):
    """A model that is predicted to need more memory than the device has."""

    kind = "does_not_fit"


class TrackingError(UserError):
    """A tracking server or store that cannot be reached or written."""

    kind = "tracking"
    is_list = True  # what a server refuses, run by run


class RegistryError(UserError):
    """A model version that cannot be made, or is not there."""

    kind = "registry"


class RequestError(UserError):
    """A request that a service cannot answer. status: HTTP's word for it."""

    kind = "request"
    status = 400


class QuantNotAppliedError(BioquantError):
    """The recipe replaced nothing, so its score would be the unquantized model's."""

    kind = "quant_not_applied"


class BrokenQuantError(BioquantError):
    """The quantized model does not compute what it should (`quant.check`)."""

    kind = "broken_quant"


class OutOfMemoryError(BioquantError):
    """The device has not the memory for one example."""

    kind = "oom"


class DiskFullError(BioquantError):
    """A disk, or a quota on it, that cannot take what a run writes."""

    kind = "disk_full"

    @classmethod
    def at(cls, path: str | Path) -> Self:
        """With the file that could not be written."""
        return cls(f"disk full: {path} cannot be written. Free space on its disk; what was written before is kept.")


class CellsFailedError(BioquantError):
    """Some cells of a sweep failed."""

    kind = "cells_failed"
    is_list = True


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…"


def is_disk_full(error: BaseException) -> bool:
    """Whether the system refused to write for want of room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def kind_of(error: BaseException) -> str:
    """The tag `error.kind` of a run that failed of this."""
    if is_disk_full(error):
        return DiskFullError.kind
    return error.kind if isinstance(error, BioquantError) else type(error).__name__


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed name, or a full stop where none is near."""
    near = get_close_matches(value, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else "."


def unknown(thing: str, value: str, allowed: Iterable[str]) -> str:
    """One line for a name that is not in a closed set."""
    names = sorted(allowed)
    return f"{thing} '{value}' is not known{did_you_mean(value, names)} Choose from: {', '.join(names)}."
