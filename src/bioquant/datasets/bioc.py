"""BioC JSON: documents of passages, each with its annotations; relations beside them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from bioquant.config import SplitConfig
from bioquant.datasets.documents import Mention, Relation, to_record
from bioquant.datasets.json_file import parse
from bioquant.errors import DataError
from bioquant.records import Record

WIDEST_GAP = 1_000_000
"""Blanks between two passages: an offset beyond that is damage, and would fill the memory."""

Node = Mapping[str, Any]
"""An object of the file."""


def read(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:
    """A record a document: id, text (its passages at their offsets), entities, relations. Raises DataError."""
    collection = cast(Any, parse(data, name))
    if not isinstance(collection, dict) or not isinstance(collection.get("documents"), list):
        raise DataError(f"{name}: no BioC collection: expected an object with a list 'documents'")
    for number, document in enumerate(cast(list[Node], collection["documents"]), start=1):
        source = f"{name}:{document.get('id', number) if isinstance(document, dict) else number}"
        try:
            yield _document(document, source, split.entity_type)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{source}: no BioC document ({error} is missing or of another type)") from error


def _document(document: Node, source: str, entity_type: str | None) -> Record:
    passages: Sequence[Node] = document["passages"]
    mentions = [_mention(note) for passage in passages for note in passage.get("annotations", ())]
    notes = [*document.get("relations", ()), *(note for passage in passages for note in passage.get("relations", ()))]
    relations = [_relation(note) for note in notes if "entity1" in note["infons"]]
    return to_record(str(document["id"]), _text(passages), mentions, relations, source, entity_type)


def _text(passages: Sequence[Node]) -> str:
    """The passages, each at its offset: what lies between two is blank."""
    text = ""
    for passage in passages:
        if passage["offset"] > len(text) + WIDEST_GAP:
            raise ValueError(f"offset {passage['offset']}")
        text = text.ljust(passage["offset"]) + passage["text"]
    return text


def _mention(note: Node) -> Mention:
    """From the first to the last character of the annotation's locations."""
    infons: Node = note["infons"]
    places: Sequence[Node] = note["locations"]
    start = min(place["offset"] for place in places)
    end = max(place["offset"] + place["length"] for place in places)
    return Mention(start=start, end=end, text=note["text"], type=infons["type"], ids=str(infons.get("identifier", "")))


def _relation(note: Node) -> Relation:
    infons: Node = note["infons"]
    return Relation(type=infons["type"], first=str(infons["entity1"]), second=str(infons["entity2"]))
