"""The DDI corpus in its authors' layout: a tar of XML documents, each candidate pair of drugs named."""

import re
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree
from xml.parsers import expat

from bioquant.config import SplitConfig
from bioquant.datasets.archive import members
from bioquant.errors import DataError
from bioquant.privacy import quoted
from bioquant.records import Record

DRUG, BOTH = "@DRUG$", "@DRUG-DRUG$"
NO_INTERACTION = "false"

Piece = tuple[int, int]
"""[start, end) of one piece of a drug's name."""


def read(data: bytes, name: str, split: SplitConfig) -> Iterator[Record]:  # noqa: ARG001
    """A record a pair: id, text (the sentence, the two drugs masked as @DRUG$), label (`false`, or the kind).

    The other drugs stay as they are, as in the usual sentence-level files. Raises DataError.
    """
    for path, content in members(data, name):
        if path.endswith(".xml"):
            source = f"{name}:{path}"
            for sentence in _parse(content, source).iter("sentence"):
                yield from _pairs(sentence, source)


def _parse(content: bytes, source: str) -> ElementTree.Element:
    """The document's tree. A document type is refused: entities in it could be made to expand without bound."""
    parser = expat.ParserCreate()
    builder = ElementTree.TreeBuilder()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise DataError(f"{source}: the XML holds a document type, which is not read: remove the <!DOCTYPE …>")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{source}: no XML ({error}); the file looks truncated or changed: fetch it again") from error
    return builder.close()


def _pairs(sentence: ElementTree.Element, source: str) -> Iterator[Record]:
    text = sentence.get("text", "")
    drugs = {entity.get("id", ""): _pieces(entity, text, source) for entity in sentence.iter("entity")}
    for pair in sentence.iter("pair"):
        pair_id = pair.get("id", "")
        first, second = (_drug(drugs, pair.get(end, ""), pair_id, source) for end in ("e1", "e2"))
        label = pair.get("type", "int") if pair.get("ddi") == "true" else NO_INTERACTION
        fields = {"id": pair_id, "text": _masked(text, first, second), "label": label}
        yield Record(fields=fields, source=f"{source}:{pair_id}")


def _drug(drugs: Mapping[str, Sequence[Piece]], drug: str, pair_id: str, source: str) -> Sequence[Piece]:
    if drug not in drugs:
        raise DataError(
            f"{source}: the pair {pair_id} names the entity {quoted(drug)}, which its sentence does not have"
        )
    return drugs[drug]


def _pieces(entity: ElementTree.Element, text: str, source: str) -> list[Piece]:
    """The name's pieces: `0-7` is eight characters (the end counts), `0-7;12-15` a name in two pieces."""
    offsets = entity.get("charOffset", "")
    if not re.fullmatch(r"\d+-\d+(;\d+-\d+)*", offsets):
        raise DataError(
            f"{source}: charOffset {quoted(offsets)} of {entity.get('id')} is none: expected 0-7 or 0-7;12-15"
        )
    pieces = [(int(start), int(end) + 1) for start, end in (piece.split("-") for piece in offsets.split(";"))]
    cut = " ".join(text[start:end] for start, end in pieces)
    if cut != entity.get("text"):
        raise DataError(
            f"{source}: the drug {quoted(entity.get('text'))} at {offsets} is {quoted(cut)} in the text; the"
            " file looks changed: fetch it again"
        )
    return pieces


def _masked(text: str, first: Sequence[Piece], second: Sequence[Piece]) -> str:
    """The sentence with each name replaced by its mark, first piece to last; names that overlap share one."""
    (a, b), (c, d) = sorted((min(pieces)[0], max(pieces)[1]) for pieces in (first, second))
    if c < b:
        return text[:a] + BOTH + text[max(b, d) :]
    return text[:a] + DRUG + text[b:c] + DRUG + text[d:]
