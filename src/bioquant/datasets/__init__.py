"""Benchmark files and users' own: a split's records, and a task's rows.

    raw        where a file stands, gzip'd or not          hub        the same through the `datasets` library
    jsonl json_file delimited last_tab                     tables and lines
    conll pubtator bioc                                    entities and relations in text
    ddi_xml hoc_folder                                     archives in their authors' own layout
    pairs      a document's entities as candidate pairs

Each format module has one function, `read(data, name, split)`: the unpacked bytes of a file, its name for messages.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path, PurePath
from typing import assert_never

from bioquant.config import DataFormat, HubConfig, SplitConfig, TaskConfig
from bioquant.datasets import (
    bioc,
    conll,
    ddi_xml,
    delimited,
    hoc_folder,
    hub,
    json_file,
    jsonl,
    last_tab,
    pairs,
    pubtator,
)
from bioquant.datasets.raw import DEMO, find, first_found, missing, read_bytes
from bioquant.errors import ConfigError, DataError
from bioquant.privacy import quoted
from bioquant.records import Dataset, Record, Row, Value
from bioquant.shown import is_broken, one_line
from bioquant.tasks import kind_of
from bioquant.tasks.fields import lookup, normalised


def load(task: TaskConfig, root: Path | None) -> Dataset:
    """The task's whole test split and few-shot pool.

    root: the folder of benchmark files. Where files are missing there, `task.hub` is read instead.
    Pool rows whose text (or question) is also in the test split are left out. Raises DataError.
    """
    if task.hub is not None and not all(found for _, found in files(task, root)):
        return _dataset(_on_hub(task, task.hub), "hub", *_hub_records(task.hub, task))
    origin = "demo" if task.test.paths[0].startswith(DEMO) else "files"
    pool = () if task.pool is None else read(task.pool, task, root)
    return _dataset(task, origin, read(task.test, task, root), pool)


def sample(rows: Sequence[Row], limit: int | None, seed: int) -> tuple[Row, ...]:
    """`limit` rows without replacement, in the file's order; all of them where limit is None or larger.

    The choice depends on the number of rows, their order, the limit and the seed: each model and quant gets the same.
    Raises ConfigError for a limit below 1.
    """
    if limit is None:
        return tuple(rows)
    if limit < 1:
        raise ConfigError(
            f"limit={limit} is not allowed: give a whole number of at least 1, or leave it out for all {len(rows)}"
            " examples."
        )
    places = random.Random(seed).sample(range(len(rows)), min(limit, len(rows)))
    return tuple(rows[place] for place in sorted(places))


def files(task: TaskConfig, root: Path | None) -> list[tuple[str, bool]]:
    """The files a task reads, and whether each is there; of candidates, the first that is."""
    listed: list[tuple[str, bool]] = []
    for split in _splits(task):
        found = next((entry for entry in split.paths if find(entry, root)), None)
        listed.append((found or split.paths[0], found is not None))
        listed += [(entry, bool(find(entry, root))) for entry in (split.keep_ids, split.drop_ids) if entry]
    return list(dict.fromkeys(listed))


def read(split: SplitConfig, task: TaskConfig, root: Path | None) -> Iterator[Record]:
    """The split's records, after all that its configuration leaves out. Raises DataError."""
    found = first_found(split.paths, root)
    if not found:
        pool = "the few-shot pool (task.pool=null goes without) of " if split is task.pool else ""
        raise missing(f"{pool}task '{task.name}'", split.paths, root, task.get)
    records = (record for place in found for record in read_file(place, split))
    if split.only:
        records = (r for r in records if all(str(r.fields.get(key)) == value for key, value in split.only.items()))
    kept = _by_id(records, split, task, root)
    return islice(kept, split.skip, None if split.take is None else split.skip + split.take)


def read_file(place: Traversable, split: SplitConfig) -> Iterator[Record]:
    """The records of one file."""
    data, name = read_bytes(place), str(place)
    records = _parse(data, name, split)
    if split.file_field:
        field, stem = split.file_field, PurePath(place.name.removesuffix(".gz")).stem
        records = (replace(record, fields={**record.fields, field: stem}) for record in records)
    return pairs.expand(records, split.pairs) if split.pairs else records


def _parse(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:
    match split.format:
        case DataFormat.jsonl:
            return jsonl.read(data, name, split)
        case DataFormat.json:
            return json_file.read(data, name, split)
        case DataFormat.tsv | DataFormat.csv:
            return delimited.read(data, name, split)
        case DataFormat.last_tab:
            return last_tab.read(data, name, split)
        case DataFormat.conll:
            return conll.read(data, name, split)
        case DataFormat.pubtator:
            return pubtator.read(data, name, split)
        case DataFormat.bioc:
            return bioc.read(data, name, split)
        case DataFormat.ddi_xml:
            return ddi_xml.read(data, name, split)
        case DataFormat.hoc_folder:
            return hoc_folder.read(data, name, split)
        case _:
            assert_never(split.format)


def _by_id(records: Iterable[Record], split: SplitConfig, task: TaskConfig, root: Path | None) -> Iterator[Record]:
    """The records that `keep_ids` and `drop_ids` leave. An id to keep that no record has means a truncated file."""
    keep = _ids(split.keep_ids, task, root) if split.keep_ids else None
    drop = _ids(split.drop_ids, task, root) if split.drop_ids else set[str]()
    absent = set(keep or ())
    for record in records:
        record_id = str(lookup(record, task, "id"))
        absent.discard(record_id)
        if record_id not in drop and (keep is None or record_id in keep):
            yield record
    if absent:
        raise DataError(
            f"task '{task.name}': {len(absent)} of the {len(keep or ())} ids in {split.keep_ids} are not in"
            f" {split.paths[0]} ({min(absent)} is one): the file looks truncated or changed: fetch it again"
        )


def _ids(entry: str, task: TaskConfig, root: Path | None) -> set[str]:
    found = find(entry, root)
    if not found:
        raise missing(f"task '{task.name}'", [entry], root, task.get)
    return json_file.ids(read_bytes(found[0]), str(found[0]))


def _splits(task: TaskConfig) -> list[SplitConfig]:
    return [task.test] if task.pool is None else [task.test, task.pool]


def _on_hub(task: TaskConfig, source: HubConfig) -> TaskConfig:
    """The task with the Hub's column names."""
    return replace(task, fields={**task.fields, **source.fields})


def _hub_records(source: HubConfig, task: TaskConfig) -> tuple[Iterable[Record], Iterable[Record]]:
    pool = () if source.pool is None else hub.read(source, source.pool, task)
    return hub.read(source, source.test, task), pool


def _dataset(task: TaskConfig, origin: str, test_records: Iterable[Record], pool_records: Iterable[Record]) -> Dataset:
    test = _rows(test_records, task, "test")
    if not test:
        raise DataError(f"task '{task.name}': the test split holds no records: correct task.test")
    in_test = {asked(row) for row in test}
    whole = _rows(pool_records, task, "pool")
    pool = tuple(row for row in whole if asked(row) not in in_test)
    return Dataset(
        test=test,
        pool=pool,
        digest=_digest(test, pool),
        num_test=len(test),
        num_shared=len(whole) - len(pool),
        origin=origin,
    )


def asked(row: Row) -> str:
    """What makes two rows the same example: the question with its options, or the text, normalised."""
    return normalised(" ".join([row.inputs.get("question") or row.inputs["text"], *row.options]))


def _rows(records: Iterable[Record], task: TaskConfig, split: str) -> tuple[Row, ...]:
    kind = kind_of(task.kind)
    rows = [
        _named_plainly(
            replace(
                kind.row(_prepared(record, task, f"{split}-{number}"), task),
                unit=_named(record, task, "unit"),
                group=_named(record, task, "group"),
            )
        )
        for number, record in enumerate(records, start=1)
    ]
    return tuple(_unique(rows))


def _named_plainly(row: Row) -> Row:
    """The row with names that can be printed anywhere. Raises DataError for a text that no tokenizer takes."""
    if any(is_broken(text) for text in (*row.inputs.values(), *row.options)):
        raise DataError(f"{row.source}: a text holds half a character (a lone surrogate of UTF-16): correct the file")
    return replace(row, id=one_line(row.id), unit=one_line(row.unit), group=one_line(row.group))


def _named(record: Record, task: TaskConfig, name: str) -> str:
    """What the row belongs to, where the file says so."""
    value = lookup(record, task, name)
    return "" if value is None else str(value)


def _prepared(record: Record, task: TaskConfig, numbered_id: str) -> Record:
    """The record with an id (its number in the split where the file gives none) and its labels in one field."""
    fields = dict(record.fields)
    if lookup(record, task, "id") is None:
        fields[task.fields.get("id", "id")] = numbered_id
    if task.label_columns:
        fields[task.fields.get("labels", "labels")] = _from_columns(record, task)
    return replace(record, fields=fields)


def _from_columns(record: Record, task: TaskConfig) -> list[Value]:
    """The labels whose own column holds 1."""
    columns = [label.value or label.name for label in task.labels]
    for column in columns:
        if str(record.fields.get(column)).strip() not in ("0", "1"):
            raise DataError(
                f"{record.source}: the column '{column}' holds {quoted(record.fields.get(column))}, expected 0 or 1:"
                " correct the file, or the label's value in task.labels"
            )
    return [column for column in columns if str(record.fields[column]).strip() == "1"]


def _unique(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with ids that occur once: the second `x` becomes `x#2`."""
    seen = Counter[str]()
    for row in rows:
        seen[row.id] += 1
        yield row if seen[row.id] == 1 else replace(row, id=f"{row.id}#{seen[row.id]}")


def _digest(test: Sequence[Row], pool: Sequence[Row]) -> str:
    """SHA-256 of the canonical JSON of what decides an example. A span's target is its offsets, type and text."""
    content = [
        [[row.id, dict(row.inputs), row.target, row.choices, row.options] for row in rows] for rows in (test, pool)
    ]
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=asdict)
    return hashlib.sha256(canonical.encode()).hexdigest()
