"""One JSON document: objects by id, a list of objects, or a list of objects under a key (BioASQ: `questions`)."""

import json
from collections.abc import Iterator
from typing import cast

from bioquant.config import SplitConfig
from bioquant.datasets.raw import text_of
from bioquant.errors import DataError
from bioquant.records import Record, Value

Object = dict[str, Value]


def read(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:  # noqa: ARG001
    """A record an object; where objects are named by their id, it becomes the field `id`. Raises DataError."""
    value = parse(data, name)
    if isinstance(value, dict):
        value = next((items for items in value.values() if _objects(items)), _with_ids(value))
    if not _objects(value):
        raise DataError(
            f"{name}: expected JSON objects by id, or a list of objects: nothing here can be read as records"
        )
    for number, fields in enumerate(cast(list[Object], value), start=1):
        yield Record(fields=fields, source=f"{name}:{fields.get('id', number)}")


def parse(data: bytes, name: str) -> Value:
    """The document. Raises DataError that names the line where it stops being JSON."""
    try:
        return json.loads(text_of(data, name))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}, line {error.lineno}: not JSON ({error.msg}); the file looks truncated or changed: fetch it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: a number, or a nesting, beyond all measure: correct the file") from error


def ids(data: bytes, name: str) -> set[str]:
    """The ids of a file that lists them: an object's keys, or a list's items."""
    value = parse(data, name)
    if not isinstance(value, dict | list):
        raise DataError(f"{name}: expected a JSON object whose keys are ids, or a list of ids")
    return {str(item) for item in value}


def _with_ids(by_id: Object) -> list[Value]:
    return [{**value, "id": key} if isinstance(value, dict) else value for key, value in by_id.items()]


def _objects(value: Value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
