"""Tables: TSV and CSV, with a header or with `columns`, cells quoted or as they stand."""

import csv
import io
from collections.abc import Iterator, Sequence

from bioquant.config import DataFormat, SplitConfig
from bioquant.datasets.raw import lines, text_of
from bioquant.errors import DataError
from bioquant.privacy import listed
from bioquant.records import Record

INDEX = "index"
"""The name of a first column without one: data frames are written with their index."""


def read(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:
    """A record a row; all cells are text. Raises DataError for a row with a wrong number of cells."""
    rows = _rows(data, name, split)
    columns = list(split.columns)
    for number, cells in rows:
        if not columns:
            columns = _header(cells, name)
        elif len(cells) == len(columns):
            yield Record(fields=dict(zip(columns, cells, strict=True)), source=f"{name}:{number}")
        else:
            raise DataError(
                f"{name}, line {number}: {len(cells)} columns, expected {len(columns)} ({listed(columns)});"
                " the file looks truncated or changed: fetch it again"
            )


def _rows(data: bytes, name: str, split: SplitConfig) -> Iterator[tuple[int, Sequence[str]]]:
    """The number of each row's first line, and its cells; empty lines are left out."""
    delimiter = "," if split.format is DataFormat.csv else "\t"
    if split.quoted or split.format is DataFormat.csv:
        yield from _quoted(text_of(data, name), name, delimiter)
    else:
        yield from ((number, line.split(delimiter)) for number, line in lines(data, name) if line)


def _quoted(text: str, name: str, delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Cells that may be quoted, a line break inside them."""
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell above 131,072 characters: full texts are longer
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for cells in reader:
            if cells:
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {first}: bad quoting ({error}); the file looks truncated or changed: fetch it again"
        ) from error


def _header(cells: Sequence[str], name: str) -> list[str]:
    columns = [cells[0] or INDEX, *cells[1:]]
    twice = {column for column in columns if columns.count(column) > 1}
    if twice:
        raise DataError(
            f"{name}, line 1: the header names {listed(sorted(twice))} twice: if the file has no header, name its"
            " columns in the split's `columns`"
        )
    return columns
