"""A document with its entities and relations, as PubTator and BioC files hold it: checked, and as a record."""

from collections.abc import Sequence
from dataclasses import dataclass

from bioquant.errors import DataError
from bioquant.privacy import quoted
from bioquant.records import Record, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One entity mention: [start, end) in the document's text, and the concept ids as the file writes them."""

    start: int
    end: int
    text: str
    type: str
    ids: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Two concept ids that are related."""

    type: str
    first: str
    second: str


def to_record(
    doc_id: str,
    text: str,
    mentions: Sequence[Mention],
    relations: Sequence[Relation],
    source: str,
    entity_type: str | None,
) -> Record:
    """A record with id, text, entities and relations. Raises DataError where offsets do not cut out their mention."""
    entities: list[Value] = []
    for mention in mentions:
        cut = text[mention.start : mention.end]
        # Trailing blanks of a mention's text are a known slip of the NCBI disease corpus: the offsets count.
        if cut.rstrip() != mention.text.rstrip():
            raise DataError(
                f"{source}: the mention {quoted(mention.text)} at {mention.start}-{mention.end} is {quoted(cut)} in"
                " the text; the file looks changed (line ends or encoding): fetch it again"
            )
        kind = entity_type or mention.type
        entities.append({"start": mention.start, "end": mention.end, "type": kind, "text": cut, "ids": mention.ids})
    related: list[Value] = [{"type": r.type, "first": r.first, "second": r.second} for r in relations]
    return Record(fields={"id": doc_id, "text": text, "entities": entities, "relations": related}, source=source)
