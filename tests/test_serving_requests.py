"""What a client may ask: a row for each kind of task, and every mistake, word for word."""

from typing import Any

import pytest

from bioquant import run
from bioquant.config import TaskConfig
from bioquant.errors import RequestError
from bioquant.serving.requests import TooLargeError, example, fields_of, row
from registered import asked, rows_of
from test_compose import composed

QA = composed("task=demo_qa").task
NER = composed("task=demo_ner").task
LETTERS = composed("task=medqa_4opt").task


@pytest.mark.parametrize("name", ["demo_qa", "demo_ner", "demo_re", "demo_mlc"])
def test_a_row_shows_what_the_evaluation_showed(name: str) -> None:
    config = composed(f"task={name}")
    for number, shown in enumerate(rows_of(config)):
        found = row(asked(shown), config.task, number)
        assert (found.inputs, found.choices, found.options) == (shown.inputs, shown.choices, shown.options)
        assert (found.id, found.target) == (str(number), ())


@pytest.mark.parametrize("name", ["demo_qa", "demo_ner", "demo_re", "demo_mlc", "medqa_4opt", "ddi2013"])
def test_the_example_is_a_row(name: str) -> None:
    task = composed(f"task={name}").task
    assert row(example(task), task, 0).inputs


def test_the_example_of_a_relation_task_marks_its_names_as_the_task_does() -> None:
    found = example(composed("task=demo_re").task)["text"]
    assert "@CHEMICAL$" in found
    assert "@DISEASE$" in found


def test_the_places_of_entities_need_the_text_as_it_was_sent() -> None:
    assert row({"text": "  a cough "}, NER, 0).inputs == {"text": "  a cough "}


def test_options_get_letters_and_context_may_be_left_out() -> None:
    found = row({"question": " Which? ", "context": None, "options": ["a ", "b", "c"]}, LETTERS, 0)
    assert (found.inputs, found.choices, found.options) == ({"question": "Which?"}, ("A", "B", "C"), ("a", "b", "c"))
    assert [field.name for field in fields_of(QA)] == ["question", "context"]


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ("text", NER, "row 3 is not an object: give 'text'."),
        ({}, NER, "row 3: field 'text' is missing."),
        ({"text": None}, NER, "row 3: field 'text' is missing."),
        ({"txt": "a"}, NER, "row 3: field 'txt' is not known; did you mean 'text'? A row has 'text'."),
        (
            {"question": "a", "colour": "b"},
            QA,
            "row 3: field 'colour' is not known. A row has 'question', 'context' (may be left out).",
        ),
        ({"text": 1}, NER, "row 3: field 'text' is not a text."),
        ({"text": ["a"]}, NER, "row 3: field 'text' is not a text."),
        ({"text": " \n"}, NER, "row 3: field 'text' is empty."),
        ({"question": "a", "context": ""}, QA, "row 3: field 'context' is empty: leave it out."),
        ({"text": "a \ud800"}, NER, "row 3: field 'text' holds half a character (a lone surrogate of UTF-16)."),
        ({"question": "a", "options": "b"}, LETTERS, "row 3: field 'options' is not a list of texts."),
        ({"question": "a", "options": ["b", 1]}, LETTERS, "row 3: field 'options' is not a list of texts."),
        ({"question": "a", "options": ["b", ""]}, LETTERS, "row 3: field 'options' holds an empty text."),
        ({"question": "a", "options": ["b"]}, LETTERS, "row 3: field 'options' has 1 texts: give 2 to 26."),
    ],
)
def test_a_mistake_is_named_without_its_text(values: Any, task: TaskConfig, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        row(values, task, 3)
    assert (str(caught.value), caught.value.status) == (message, 400)


def test_a_text_beyond_the_limit_is_413() -> None:
    row({"text": "a" * 10}, NER, 0, text_chars=10)
    with pytest.raises(TooLargeError) as caught:
        row({"text": "a" * 11}, NER, 0, text_chars=10)
    assert str(caught.value) == "row 0: field 'text' has 11 characters; this service takes 10 (serve.text_chars)."
    assert caught.value.status == 413


def test_the_options_count_together() -> None:
    with pytest.raises(TooLargeError):
        row({"question": "a", "options": ["aaaa", "bbbb"]}, LETTERS, 0, text_chars=7)


def test_every_task_of_a_kind_that_is_shipped_has_fields() -> None:
    assert run.read(composed("task=demo_qa")).test[0].inputs.keys() <= {field.name for field in fields_of(QA)}
