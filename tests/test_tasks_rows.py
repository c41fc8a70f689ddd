"""Records become rows: where fields are found, how answers are named, what a malformed record says."""

from dataclasses import replace

import pytest

from bioquant.config import LabelConfig, TaskConfig, TaskKind
from bioquant.errors import DataError
from bioquant.records import Record, Span, Value
from bioquant.tasks import kind_of
from bioquant.tasks.fields import normalised


def task(kind: TaskKind, names: tuple[str, ...] = (), **fields: str) -> TaskConfig:
    return TaskConfig(name="t", kind=kind, labels=[LabelConfig(name=name) for name in names], fields=fields)


def record(**fields: Value) -> Record:
    return Record(fields=fields, source="f.jsonl:3")


def refused(config: TaskConfig, of: Record) -> str:
    with pytest.raises(DataError) as raised:
        kind_of(config.kind).row(of, config)
    return str(raised.value)


def test_fields_are_mapped_and_dots_step_into_nested_values() -> None:
    config = task(TaskKind.re, ("a", "b"), text="doc.body", label="gold")
    row = kind_of(config.kind).row(record(doc={"body": "x @A$"}, gold="b", id=7), config)
    assert (row.id, dict(row.inputs), row.target, row.choices, row.source) == (
        "7", {"text": "x @A$"}, "b", ("a", "b"), "f.jsonl:3",
    )  # fmt: skip


def test_a_record_without_an_id_is_named_by_its_source() -> None:
    config = task(TaskKind.re, ("a",))
    assert kind_of(config.kind).row(record(text="x", label="a"), config).id == "f.jsonl:3"


def test_a_files_value_becomes_the_labels_name() -> None:
    config = TaskConfig(name="t", kind=TaskKind.re, labels=[LabelConfig(name="related", value="1")])
    assert kind_of(config.kind).row(record(text="x", label=1), config).target == "related"


def test_a_missing_field_names_what_the_record_has() -> None:
    assert refused(task(TaskKind.re, ("a",), text="sentence"), record(sentense="x", label="a")) == (
        "f.jsonl:3: task 't' reads 'text' from the field 'sentence', which is missing or empty;"
        " did you mean 'sentense'? The record has: sentense, label. Correct task.fields.text."
    )


def test_an_unknown_label_names_the_nearest() -> None:
    assert refused(task(TaskKind.mlc, ("Treatment", "Diagnosis")), record(text="x", labels="Treatment;Diagnosys")) == (
        "f.jsonl:3: 'Diagnosys' is no label of task 't'; did you mean 'Diagnosis'?"
        " Its labels are: Treatment, Diagnosis. Correct the file, or add the label to task.labels."
    )


def test_an_empty_text_is_refused() -> None:
    assert refused(task(TaskKind.re, ("a",)), record(text="  ", label="a")) == (
        "f.jsonl:3: the text is empty: leave the record out of the file, or correct it"
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [("b;a", ("a", "b")), (["b", "a", "b"], ("a", "b")), ("", ()), ([], ()), (None, ()), ("a", ("a",))],
)
def test_label_sets_are_in_the_label_sets_order(labels: Value, expected: tuple[str, ...]) -> None:
    config = task(TaskKind.mlc, ("a", "b"))
    assert kind_of(config.kind).row(record(text="x", labels=labels), config).target == expected


def test_entities_are_sorted_and_lose_their_outer_blanks() -> None:
    config = task(TaskKind.ner, ("D",))
    entities: list[Value] = [{"start": 6, "end": 10, "type": "D"}, {"start": 0, "end": 2, "type": "D", "text": "ab"}]
    row = kind_of(config.kind).row(record(text="ab cd ef  .", entities=entities), config)
    assert row.target == (
        Span(start=0, end=2, label="D", text="ab"),
        Span(start=6, end=8, label="D", text="ef"),
    )


def test_an_entity_that_does_not_fit_the_text_is_refused() -> None:
    config = task(TaskKind.ner, ("D",))
    assert refused(config, record(text="ab", entities=[{"start": 0, "end": 9, "type": "D"}])) == (
        "f.jsonl:3: the entity {'start': 0, 'end': 9, 'type': 'D'} does not lie in the text of 2 characters"
    )
    assert refused(config, record(text="abc", entities=[{"start": 0, "end": 2, "type": "D", "text": "bc"}])) == (
        "f.jsonl:3: the entity at 0-2 is 'ab' in the text but 'bc' in the record"
    )
    assert refused(config, record(text="abc", entities="D 0 2")) == (
        "f.jsonl:3: the entities are 'D 0 2', not a list of {start, end, type}: correct task.fields.entities"
    )


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["x", "y", "z"], "B"),
        (["x", "y", "z"], "b"),
        (["x", "y", "z"], 1),
        (["x", "y", "z"], "1"),
        (["x", "y", "z", None], "B"),
        ({"1": "x", "2": "y", "3": "z"}, 2),
        (["x", "y", "z"], "y"),
        (["x", "y", "z"], ["b"]),
        ({"A": "x", "B": "y", "C": "z"}, "B"),
        ({"p": "x", "q": "y", "r": "z"}, "q"),
        ([{"key": "A", "value": "x"}, {"key": "B", "value": "y"}, {"key": "C", "value": "z"}], "B"),
        ("[{'key': 'A', 'value': 'x'}, {'key': 'B', 'value': 'y'}, {'key': 'C', 'value': 'z'}]", "B"),
    ],
)
def test_options_in_all_layouts(options: Value, answer: Value) -> None:
    config = task(TaskKind.qa)
    row = kind_of(config.kind).row(record(question="q", options=options, answer=answer), config)
    assert (row.target, row.choices, row.options) == ("B", ("A", "B", "C"), ("x", "y", "z"))


@pytest.mark.parametrize(("answer", "first"), [(1, 0), ("1", 0), (2, 1), ("2", 1), ("y", 1)])
def test_answers_as_numbers_count_from_the_first_options(answer: Value, first: int) -> None:
    config = replace(task(TaskKind.qa), first_option=first)
    row = kind_of(config.kind).row(record(question="q", options=["x", "y", "z"], answer=answer), config)
    assert row.target == "B"


def test_options_that_are_figures() -> None:
    """A text is an option's text before it is a number; a number in JSON is a number."""
    targets = [
        kind_of(TaskKind.qa).row(record(question="q", options=["1", "2", "4"], answer=answer), task(TaskKind.qa)).target
        for answer in ("2", 2, "0")
    ]
    assert targets == ["B", "C", "A"]


def test_options_of_several_columns() -> None:
    config = task(TaskKind.qa, options="o1, o2, o3")
    row = kind_of(config.kind).row(record(question="q", o1="x", o2="y", o3="", answer="A"), config)
    assert (row.target, row.options) == ("A", ("x", "y"))


def test_malformed_options_and_answers_are_refused() -> None:
    assert refused(task(TaskKind.qa), record(question="q", options="x", answer="A")) == (
        "f.jsonl:3: the options of task 't' are 'x', not a list of texts, a dict of letter to text, or a list of"
        " {key, value}: correct task.fields.options"
    )
    assert refused(task(TaskKind.qa), record(question="q", options=["x", "", "y"], answer="A")).startswith(
        "f.jsonl:3: the options of task 't' are ['x', '', 'y'], not a list of texts"
    )
    for answer in ("C", 2, "2", -1):
        assert refused(task(TaskKind.qa), record(question="q", options=["x", "y"], answer=answer)) == (
            f"f.jsonl:3: the answer '{answer}' of task 't' is none of its 2 options: give a letter (A, B), a number"
            " from 0 to 1 (task.first_option is the first one's), or one option's text"
        )


def test_a_question_is_shown_after_its_context_and_before_its_options() -> None:
    config = task(TaskKind.qa)
    kind = kind_of(config.kind)
    row = kind.row(record(question="q?", context="['a', 'b']", options=["x", "y"], answer="A"), config)
    assert kind.show(row) == "Context: a\nb\nQuestion: q?\nOptions:\nA) x\nB) y"


def test_a_context_that_begins_with_a_bracket_is_a_text() -> None:
    config = task(TaskKind.qa, ("yes",))
    row = kind_of(config.kind).row(record(question="q?", context="[35S]TBPS binds.", answer="yes"), config)
    assert row.inputs["context"] == "[35S]TBPS binds."


@pytest.mark.parametrize("other", ["does  Zinc help?", "Does zinc help", "(Does zinc – help)", "does-zinc_help"])
def test_case_blanks_and_punctuation_make_no_other_example(other: str) -> None:
    assert normalised(other) == normalised("Does zinc help?") == "does zinc help"


def test_texts_of_punctuation_alone_differ() -> None:
    assert normalised(" + ") != normalised("-")
