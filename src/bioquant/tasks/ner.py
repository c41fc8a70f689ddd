"""Named-entity recognition: the mentions of a text with their types, placed in the text by their characters.

Models name mentions, not offsets. A mention takes a place that no other took: whole words in their case before other
case before parts of words; not inside a longer mention of the same output; after the last one of its type before an
earlier one; leftmost. (We ask for the order of appearance: gold answers read back at F1 0.993 to 1 on six corpora.)
A mention that stands nowhere is kept with start = end = -1, and one of a type outside the set keeps the type as
written: both are predicted entities, and wrong.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from bioquant.config import TaskConfig
from bioquant.errors import DataError
from bioquant.metrics import LabelScore, entity_scores, per_label
from bioquant.privacy import quoted
from bioquant.records import Answer, Record, Row, Score, Span, Value
from bioquant.tasks.fields import dicts, id_of, label_names, label_of, listed, lookup, required
from bioquant.tasks.reading import BULLET, Choices, Json, bare, from_json, own_words
from bioquant.trivial import trivial_baselines

NONE = "none"

Mention = tuple[str, str]
"""A type and the words that the model wrote for it."""

Place = tuple[int, int]
"""The [start, end) of some words in the text, in characters."""

_NONE = re.compile(
    r"(?:none|n/a|\[\]|\{\}|(?:there (?:are|is) )?no (?:\w+ ){0,4}?(?:entit(?:y|ies)|mentions?)\b.*"
    r"|(?:there (?:are|is) )?no [\w ]{1,40}\b(?:found|mentioned|present|identified|detected)\b.*)",
    re.IGNORECASE,
)
_HTML = re.compile(r"<span(?:\s+class\s*=\s*[\"']?([^\"'>]+)[\"']?)?\s*>(.*?)</span>", re.DOTALL | re.IGNORECASE)
_HEAD = re.compile(r"^([^:|]{1,40}?)\s*:(?:\s+|$)(.*)$")
_TAIL = re.compile(r"^(.*\S)\s*[(\[]([^()\[\]]+)[)\]]$")
_DASH = re.compile(r"\s+(?:[-–—=]|->|→|=>)\s+|\s*\|\s*|:\s+|\t+")
_LEAD_IN = re.compile(r"\b(?:answer|entit(?:y|ies)|mentions?|output|results?|list|following|types?)\b", re.IGNORECASE)
_PROSE = re.compile(
    r"\b(?:the|this|that|these|is|are|was|were|there|it|i|we|here|because|note|explanation|sentence|mentioned)\b",
    re.IGNORECASE,
)
_RULE = re.compile(r"[|\s:-]+")
_JSON_BLOCK = re.compile(r"^[\[{].*[\]}]\s*$", re.DOTALL | re.MULTILINE)
_TYPE_KEYS = ("type", "label", "entity_type", "class", "category", "entity_group")
_TEXT_KEYS = ("text", "mention", "entity", "name", "word", "span", "value")


class EntityRecognition:
    """Strict spans with their types, micro-averaged over the corpus."""

    headline = "entity_f1"

    def row(self, record: Record, task: TaskConfig) -> Row:
        """A row from the fields text and entities (a list of {start, end, type, text})."""
        text = str(required(record, task, "text"))  # as it stands: the offsets count from its first character
        entities = lookup(record, task, "entities")
        spans = [_span(entity, text, task, record.source) for entity in dicts(entities)]
        if entities and not spans:
            raise DataError(
                f"{record.source}: the entities are {quoted(entities)}, not a list of {{start, end, type}}: "
                "correct task.fields.entities"
            )
        return Row(id=id_of(record, task), inputs={"text": text}, target=tuple(sorted(spans)), source=record.source)

    def show(self, row: Row) -> str:
        """The text."""
        return f"Text: {row.inputs['text']}"

    def answer_format(self, task: TaskConfig) -> str:
        """One line an entity, in words."""
        return (
            f"Answer with one entity per line as `Type: mention`, where Type is {listed(label_names(task))} and "
            "mention is copied exactly from the text, in order of appearance, once for each time it appears. "
            f'If there is no entity, answer "{NONE}".'
        )

    def answer_text(self, answer: Answer) -> str:
        """One `Type: mention` a line."""
        spans = cast(tuple[Span, ...], answer)
        return "\n".join(f"{span.label}: {' '.join(span.text.split())}" for span in spans) or NONE

    def parse(self, output: str, row: Row, task: TaskConfig) -> Answer | None:
        """The mentions of the output, placed in the row's text. None where no line has the form of an entity."""
        text = row.inputs["text"]
        mentions = _mentions(own_words(output), text, Choices.of_labels(task.labels), label_names(task))
        return None if mentions is None else placed([found for found in mentions if _is_mention(found[1])], text)

    def score(
        self,
        rows: Sequence[Row],
        answers: Sequence[Answer | None],
        task: TaskConfig,  # noqa: ARG002
        *,
        resamples: int,
        seed: int,
    ) -> list[Score]:
        """Micro F1 over the corpus's entities first, then precision and recall."""
        return entity_scores(
            [cast(tuple[Span, ...], row.target) for row in rows],
            [cast(tuple[Span, ...] | None, answer) for answer in answers],
            resamples=resamples,
            seed=seed,
            units=[row.unit or row.id for row in rows],
        )

    def per_label(self, rows: Sequence[Row], answers: Sequence[Answer | None], task: TaskConfig) -> list[LabelScore]:
        """Each type's precision, recall and F1. A mention of a type outside the set is no type's mistake."""
        names = label_names(task)
        known = [_of_types(cast(tuple[Span, ...] | None, answer), names) for answer in answers]
        return per_label([row.target for row in rows], known, label_names(task))

    def trivial(self, rows: Sequence[Row], task: TaskConfig) -> dict[str, float]:
        """F1 of answering that there is no entity."""
        return trivial_baselines([row.target for row in rows], label_names(task), headline=self.headline)


def _of_types(answer: tuple[Span, ...] | None, names: Sequence[str]) -> tuple[Span, ...] | None:
    return None if answer is None else tuple(span for span in answer if span.label in names)


def _span(entity: dict[str, Value], text: str, task: TaskConfig, source: str) -> Span:
    """A gold entity, without blanks at its ends. Raises DataError where its offsets do not fit the text."""
    start, end = entity.get("start"), entity.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        raise DataError(f"{source}: the entity {quoted(entity)} does not lie in the text of {len(text)} characters")
    found, said = text[start:end], entity.get("text")
    if said is not None and str(said).split() != found.split():
        raise DataError(
            f"{source}: the entity at {start}-{end} is {quoted(found)} in the text but {quoted(said)} in the record"
        )
    start += len(found) - len(found.lstrip())
    end -= len(found) - len(found.rstrip())
    return Span(start=start, end=end, label=label_of(entity.get("type"), task, source), text=found.strip())


class _Reader:
    """Reads the mentions of one output. A heading's type holds for the bare lines below it."""

    def __init__(self, text: str, types: Choices, names: Sequence[str]) -> None:
        self.text = text
        plural = {f"{form}s": name for form, name in types.forms.items()}
        self.types = Choices(plural | dict(types.forms))
        any_type = "|".join(re.escape(form).replace(r"\ ", r"[\s_-]+") for form in self.types.forms)
        self.next_entity = re.compile(rf"[;,|]\s*(?=(?:{any_type})\s*:\s)", re.IGNORECASE)
        self.only = names[0] if len(names) == 1 else None
        self.heading: str | None = None
        self.mentions: list[Mention] = []
        self.said_none = False
        self.said_none_of_type = False
        self.valid = True

    def result(self) -> list[Mention] | None:
        """All mentions; an empty list where the output says that there is none."""
        contradicts = self.said_none and self.mentions
        empty = not (self.mentions or self.said_none or self.said_none_of_type)
        return None if contradicts or empty or not self.valid else self.mentions

    def read(self, output: str) -> None:
        """All lines; one that holds several `Type: mention` counts as so many lines."""
        for line in output.split("\n"):
            for part in self.next_entity.split(line):
                self.read_line(part)

    def read_line(self, line: str) -> None:
        """One line, in the form we ask for or another common one."""
        line = BULLET.sub("", line.strip()).strip("|").strip()
        if not line or _RULE.fullmatch(line):
            return
        if _NONE.fullmatch(bare(line)):
            self.said_none = True
        elif pair := self.typed(line):
            self.add(*pair)
        elif head := _HEAD.match(line):
            self.read_head(head.group(1), head.group(2), line)
        else:
            self.read_untyped(line)

    def typed(self, line: str) -> Mention | None:
        """`Type: mention`, `mention (Type)`, `mention | Type` and the like, where the type is one of the task's."""
        if (head := _HEAD.match(line)) and (kind := self.types.exact(head.group(1))):
            self.heading = kind
            return kind, head.group(2)
        if (tail := _TAIL.match(line)) and (kind := self.types.exact(tail.group(2))):
            return kind, tail.group(1)
        parts = _DASH.split(line)
        if len(parts) == 2:
            for kind, words in (parts, parts[::-1]):
                if found := self.types.exact(kind):
                    return found, words
        return None

    def read_head(self, head: str, rest: str, line: str) -> None:
        """A line with a colon whose head is no type: a lead-in, a remark, or an entity of a type outside the set."""
        if not rest:
            named = self.types.mentioned(head)
            self.heading = named[0] if len(named) == 1 else None
        elif self.only and places(line, self.text):
            self.add(self.only, line)
        elif _LEAD_IN.search(head):
            self.read_line(rest)
        elif not _PROSE.search(line):
            self.add(head, rest)

    def read_untyped(self, line: str) -> None:
        """A bare mention, where its type is clear; a sentence is passed over."""
        prose = len(line.split()) > 12 or (_PROSE.search(line) and not places(bare(line), self.text))
        kind = self.heading or self.only
        if prose or line.strip() == self.text.strip():
            return
        if kind:
            self.add(kind, line)
        elif not _LEAD_IN.search(line):
            self.valid = False

    def add(self, kind: str, words: str) -> None:
        """A mention, or the mentions of a comma list; an empty `Type:` is a heading."""
        for part in _parts(words, self.text):
            if _NONE.fullmatch(bare(part)):
                self.said_none_of_type = True
            elif _is_mention(part):
                self.mentions.append((kind, part))


def _is_mention(words: str) -> bool:
    """Quotation marks and stops alone name nothing."""
    return any(character.isalnum() for character in words)


def _mentions(output: str, text: str, types: Choices, names: Sequence[str]) -> list[Mention] | None:
    """The mentions of an output in any of the forms we read, or None where it has no such form."""
    only = names[0] if len(names) == 1 else None
    if spans := _HTML.findall(output):
        typed = [(types.exact(kind) or kind or only, words.strip()) for kind, words in spans]
        return None if any(kind is None for kind, _ in typed) else cast(list[Mention], typed)
    block = _JSON_BLOCK.search(output)
    if block and (value := from_json(block.group())) is not None:
        return _of_json(value, types, only)
    reader = _Reader(text, types, names)
    reader.read(output.replace("**", ""))
    return reader.result()


def _of_json(value: Json, types: Choices, kind: str | None) -> list[Mention] | None:
    """The mentions of a JSON value: strings (of a known type), objects {type, text}, or an object type -> list."""
    if isinstance(value, str):
        return [(kind, value)] if kind else None
    if isinstance(value, list):
        found = [_of_json(item, types, kind) for item in value]
        return None if None in found else [mention for mentions in found if mentions for mention in mentions]
    if not isinstance(value, dict):
        return None
    by_key = {key.casefold(): item for key, item in value.items()}
    named = next((by_key[key] for key in _TYPE_KEYS if key in by_key), kind)
    words = next((by_key[key] for key in _TEXT_KEYS if key in by_key), None)
    if isinstance(words, str) and isinstance(named, str):
        return [(types.exact(named) or named, words)]
    groups = [
        _of_json(item, types, types.exact(key) or kind) for key, item in value.items() if isinstance(item, list | str)
    ]
    return (
        None if None in groups or not groups else [mention for mentions in groups if mentions for mention in mentions]
    )


def _parts(words: str, text: str) -> list[str]:
    """The words as one mention where the text has them so (our own form: one a line), else as a list of mentions."""
    if places(words, text) or places(bare(words), text):
        return [words]
    parts = [part for part in re.split(r";\s*|,\s+(?:and\s+)?", words) if part.strip()]
    finer = [bit for part in parts for bit in re.split(r"\s+and\s+", part)]
    return finer if all(places(bare(bit), text) for bit in finer) else parts


def places(words: str, text: str) -> dict[Place, int]:
    """All [start, end) of the words in the text, each with its rank.

    Ranks: 0 whole words in their case, 1 whole words in any case, 2 inside of words.
    Blanks beside punctuation are free, since tokenised texts write "L - dopa" where a model writes "L-dopa".
    """
    tokens = re.findall(r"\w+|[^\w\s]", words)
    if not tokens:
        return {}
    pattern = re.escape(tokens[0])
    for before, token in pairwise(tokens):
        pattern += (r"\s+" if before[-1].isalnum() and token[0].isalnum() else r"\s*") + re.escape(token)
    whole = rf"(?<!\w){pattern}(?!\w)"
    found: dict[Place, int] = {}
    for rank, (search, flags) in enumerate(((whole, re.NOFLAG), (whole, re.IGNORECASE), (pattern, re.IGNORECASE))):
        for match in re.finditer(search, text, flags):
            found.setdefault(match.span(), rank)
    return found


def placed(mentions: Sequence[Mention], text: str) -> tuple[Span, ...]:
    """The mentions as spans in the text's order; those that stand nowhere last, with start = end = -1."""
    found = {words: places(words, text) or places(bare(words), text) for _, words in mentions}
    spans: list[Span] = []
    for label, words in mentions:
        longer = [place for other in found if len(other) > len(words) for place in found[other]]
        spans.append(_place(label, words, text, found[words], longer, spans))
    return tuple(sorted(spans, key=lambda span: (span.start < 0, span)))


def _place(
    label: str, words: str, text: str, found: dict[Place, int], longer: Sequence[Place], taken: Sequence[Span]
) -> Span:
    """The best place of one mention that no equal mention took; the order of preference is the module's."""
    last = max((span.end for span in taken if span.label == label), default=0)

    def preference(place: Place) -> tuple[bool, int, bool, bool, int]:
        start, end = place
        overlaps = any(start < span.end and span.start < end for span in taken)
        inside = any(outer[0] <= start and end <= outer[1] for outer in longer)
        return overlaps, found[place], inside, start < last, start

    equal = {(span.start, span.end) for span in taken if span.label == label}
    if free := found.keys() - equal:
        start, end = min(free, key=preference)
        return Span(start=start, end=end, label=label, text=text[start:end])
    return Span(start=-1, end=-1, label=label, text=bare(words))
