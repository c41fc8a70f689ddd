"""What a client asks: the fields of a row for each kind of task, and a row from them. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, cast

from bioquant.config import TaskConfig, TaskKind
from bioquant.errors import RequestError, did_you_mean
from bioquant.records import Row
from bioquant.shown import is_broken
from bioquant.tasks.fields import label_names

RECORDS = "dataframe_records"
"""Where a request's body holds its rows, as MLflow's own server has it."""


class TooLargeError(RequestError):
    """A request beyond what the service, or the model's context, has room for."""

    status = 413


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a row: a text, or a list of texts. example: for documentation, and for trying the service."""

    name: str
    example: str | list[str]
    required: bool = True

    @property
    def is_list(self) -> bool:
        """Whether it holds several texts."""
        return isinstance(self.example, list)


TEXT = Field("text", "The patient was given 20 mg of lisinopril for hypertension and developed a dry cough.")
QUESTION = Field("question", "Does lisinopril cause cough?")
CONTEXT = Field("context", "A dry cough was reported by 12 of 100 patients on lisinopril, and by 2 on placebo.", False)
OPTIONS = Field("options", ["Lisinopril", "Metformin", "Warfarin", "Atorvastatin"])

MASK = re.compile(r"@[\w-]+\$")
"""How datasets of relations write a name whose relation is asked for; the task's instruction says which."""


def fields_of(task: TaskConfig) -> tuple[Field, ...]:
    """The fields of a row of this task."""
    if task.kind is TaskKind.re:
        return (_masked(task),)
    if task.kind is not TaskKind.qa:
        return (TEXT,)
    return (QUESTION, CONTEXT) if task.labels else (QUESTION, CONTEXT, OPTIONS)


def _masked(task: TaskConfig) -> Field:
    """The text of a relation task: its example holds the two names as the task's instruction writes them."""
    first, *others = MASK.findall(task.instruction) or [""]
    if not first:
        return TEXT
    second = others[0] if others else first
    return replace(TEXT, example=f"{first} was given to adults with {second}, and most of them improved.")


def example(task: TaskConfig) -> dict[str, Any]:
    """An invented row of this task: nobody's data."""
    return {field.name: field.example for field in fields_of(task)}


def row(values: object, task: TaskConfig, number: int, *, text_chars: int | None = None) -> Row:
    """The row that a prompt is written for; nobody knows what is right, so its target is empty.

    number: its place in the request, for messages, which never hold its texts. text_chars: the most of one field.
    Raises RequestError, TooLargeError.
    """
    fields = fields_of(task)
    if not isinstance(values, Mapping):
        raise RequestError(f"row {number} is not an object: give {_listed(fields)}.")
    given = {str(key): value for key, value in cast(Mapping[object, object], values).items() if value is not None}
    known = [field.name for field in fields]
    for name in given:
        if name not in known:
            raise RequestError(
                f"row {number}: field '{name[:40]}' is not known{did_you_mean(name, known)} A row has "
                f"{_listed(fields)}."
            )
    found = {field.name: _texts(given, field, number) for field in fields if field.required or field.name in given}
    _check_sizes(found, number, text_chars)
    if task.kind is TaskKind.ner:  # whose places are those of the text as it was sent
        return Row(id=str(number), inputs={name: text for name, (text,) in found.items()}, target=())
    options = tuple(text.strip() for text in found.pop(OPTIONS.name, ()))
    return Row(
        id=str(number),
        inputs={name: text.strip() for name, (text,) in found.items()},
        target=(),
        choices=_letters(options, number) if options else label_names(task),
        options=options,
    )


def _listed(fields: Sequence[Field]) -> str:
    return ", ".join(f"'{field.name}'{'' if field.required else ' (may be left out)'}" for field in fields)


def _texts(given: Mapping[str, object], field: Field, number: int) -> Sequence[str]:
    """The field's texts; one where it is no list."""
    if field.name not in given:
        raise RequestError(f"row {number}: field '{field.name}' is missing.")
    value = given[field.name]
    texts = cast(list[object], value) if field.is_list and isinstance(value, list) else [value]
    if (field.is_list and not isinstance(value, list)) or not all(isinstance(text, str) for text in texts):
        what = "a list of texts" if field.is_list else "a text"
        raise RequestError(f"row {number}: field '{field.name}' is not {what}.")
    strings = cast(list[str], texts)
    if not all(text.strip() for text in strings):
        what = "holds an empty text" if field.is_list else "is empty"
        raise RequestError(f"row {number}: field '{field.name}' {what}{'' if field.required else ': leave it out'}.")
    if any(map(is_broken, strings)):
        raise RequestError(f"row {number}: field '{field.name}' holds half a character (a lone surrogate of UTF-16).")
    return strings


def _check_sizes(found: Mapping[str, Sequence[str]], number: int, text_chars: int | None) -> None:
    for name, texts in found.items():
        size = sum(map(len, texts))
        if text_chars is not None and size > text_chars:
            raise TooLargeError(
                f"row {number}: field '{name}' has {size:,} characters; this service takes {text_chars:,} "
                "(serve.text_chars)."
            )


def _letters(options: Sequence[str], number: int) -> tuple[str, ...]:
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise RequestError(
            f"row {number}: field '{OPTIONS.name}' has {len(options)} texts: give 2 to {len(ascii_uppercase)}."
        )
    return tuple(ascii_uppercase[: len(options)])
