"""From a data file's fields to ours: which field a task reads, and which label a cell stands for."""

from collections.abc import Mapping, Sequence
from string import punctuation
from typing import cast

from bioquant.config import TaskConfig
from bioquant.errors import DataError, did_you_mean
from bioquant.privacy import is_withheld, listed as listed_names, quoted
from bioquant.records import Record, Value

_PUNCTUATION = str.maketrans(dict.fromkeys(punctuation + "“”‘’«»–—…·", " "))


def lookup(record: Record, task: TaskConfig, name: str) -> Value:
    """The value of our field `name`, or None where the record has no such field. Dots step into nested values."""
    path = task.fields.get(name, name)
    if path in record.fields:
        return record.fields[path]
    found: Value = dict(record.fields)
    for step in path.split("."):
        if not isinstance(found, dict) or step not in found:
            return None
        found = found[step]
    return found


def required(record: Record, task: TaskConfig, name: str) -> Value:
    """The value of our field `name`. Raises DataError where it is missing or empty."""
    found = lookup(record, task, name)
    if found is None:
        path = task.fields.get(name, name)
        raise DataError(
            f"{record.source}: task '{task.name}' reads '{name}' from the field '{path}', which is missing or empty"
            f"{did_you_mean(path, () if is_withheld() else record.fields)} The record has:"
            f" {listed_names(record.fields)}. Correct task.fields.{name}."
        )
    return found


def text_of(record: Record, task: TaskConfig, name: str) -> str:
    """A text that the prompt shows; several parts are joined by line breaks."""
    found = required(record, task, name)
    parts = found if isinstance(found, list) else [found]
    text = "\n".join(str(part) for part in parts).strip()
    if not text:
        raise DataError(f"{record.source}: the {name} is empty: leave the record out of the file, or correct it")
    return text


def id_of(record: Record, task: TaskConfig) -> str:
    """The record's own id, else where it stands."""
    found = lookup(record, task, "id")
    return record.source if found is None else str(found)


def labels_by_value(task: TaskConfig) -> Mapping[str, str]:
    """The label's name for each string a data file may hold for it."""
    by_name = {label.name: label.name for label in task.labels}
    return by_name | {label.value: label.name for label in task.labels if label.value is not None}


def label_of(value: Value, task: TaskConfig, source: str) -> str:
    """The name of the label that a file's value stands for. Raises DataError for a value outside the label set."""
    by_value = labels_by_value(task)
    written = str(value).strip()
    if written not in by_value:
        raise DataError(
            f"{source}: {quoted(written)} is no label of task '{task.name}'{did_you_mean(written, by_value)}"
            f" Its labels are: {', '.join(by_value)}. Correct the file, or add the label to task.labels."
        )
    return by_value[written]


def label_names(task: TaskConfig) -> tuple[str, ...]:
    """The names in the label set's order."""
    return tuple(label.name for label in task.labels)


def listed(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def normalised(text: str) -> str:
    """The text's words in lower case. Texts that differ in case, blanks or punctuation alone are the same example."""
    return " ".join(text.casefold().translate(_PUNCTUATION).split()) or text.strip()


def dicts(value: Value) -> list[dict[str, Value]]:
    """The value where it is a list of dicts, else an empty list."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return cast(list[dict[str, Value]], value)
    return []
