"""CoNLL: a token and its tag a line, an empty line between sentences. Tags: B/I/O, IOB2 with types, or IOBES."""

import re
from collections.abc import Iterator, Sequence

from bioquant.config import SplitConfig
from bioquant.datasets.raw import lines
from bioquant.errors import DataError
from bioquant.privacy import quoted
from bioquant.records import Record, Value

TAG = re.compile(r"O|([BIES])(?:-(.+))?")
DOCSTART = "-DOCSTART-"

Token = tuple[str, str, str]
"""The token, its tag's letter, its type ("" for O)."""


def read(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:
    """A record a sentence: the tokens joined by one blank, and the entities.

    The token is a line's first column, the tag its last. An entity begins at B or S, and, as conlleval has it, at an I
    or E that does not continue one of its type; it ends at E or S, so that neighbours stay apart. Raises DataError.
    """
    first, sentence = 1, list[Token]()
    for number, line in [*lines(data, name), (0, "")]:
        if line.strip(" \t"):
            first = first if sentence else number
            sentence.extend(_token(line, f"{name}, line {number}", split))
        elif sentence:
            yield Record(fields=_sentence(sentence), source=f"{name}:{first}")
            sentence = []


def _token(line: str, where: str, split: SplitConfig) -> Iterator[Token]:
    """The line's token; nothing for a document's start."""
    columns = line.split("\t") if "\t" in line else line.split(" ")
    if columns[0] == DOCSTART:
        return
    tag = TAG.fullmatch(columns[-1].strip())
    if len(columns) < 2 or tag is None:
        raise DataError(
            f"{where}: {quoted(columns[-1])} is no tag; expected a token, a tab and O, B, I, E or S, as B-Chemical"
        )
    kind = tag[1] and (split.entity_type or tag[2])
    if kind is None and tag[1]:
        raise DataError(f"{where}: tag {quoted(tag[0])} names no type: set entity_type in the task's split")
    yield columns[0], tag[1] or "O", kind or ""


def _sentence(tokens: Sequence[Token]) -> dict[str, Value]:
    text = " ".join(token for token, _, _ in tokens)
    entities: list[Value] = [
        {"start": start, "end": end, "type": kind, "text": text[start:end]} for start, end, kind in _spans(tokens)
    ]
    return {"text": text, "entities": entities}


def _spans(tokens: Sequence[Token]) -> list[tuple[int, int, str]]:
    """(start, end, type) in characters of the joined text."""
    spans: list[tuple[int, int, str]] = []
    offset, inside = 0, False
    for token, letter, kind in tokens:
        end = offset + len(token)
        if letter in "IE" and inside and spans[-1][2] == kind:
            spans[-1] = (spans[-1][0], end, kind)
        elif letter != "O":
            spans.append((offset, end, kind))
        inside = letter in "BI"
        offset = end + 1
    return spans
