"""JSON lines: one object a line."""

import json
from collections.abc import Iterator

from bioquant.config import SplitConfig
from bioquant.datasets.raw import lines
from bioquant.errors import DataError
from bioquant.records import Record


def read(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:  # noqa: ARG001
    """A record a line; empty lines are left out. Raises DataError for a line that is no JSON object."""
    for number, line in lines(data, name):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name}, line {number}: not JSON ({error.msg} at column {error.colno}); the file looks truncated or"
                " changed: fetch it again"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name}, line {number}: a number, or a nesting, beyond all measure: correct the file"
            ) from error
        if not isinstance(value, dict):
            raise DataError(
                f"{name}, line {number}: a JSON {type(value).__name__}, expected an object with named fields"
            )
        yield Record(fields=value, source=f"{name}:{number}")
