"""A prediction as a client reads it."""

from dataclasses import replace

import pytest

from bioquant.config import TaskKind
from bioquant.errors import RequestError
from bioquant.records import Answer, Prediction, Span
from bioquant.serving.answers import answer, answers

ANSWERED = Prediction(
    example_id="0",
    prompt="a secret",
    outputs=("yes",),
    answer="yes",
    target=(),
    correct=False,
    num_prompt_tokens=3,
    num_output_tokens=1,
    finish="stop",
    input_ids_sha256="",
    seconds=0.1,
    batch_index=0,
    batch_size=1,
)


@pytest.mark.parametrize(
    ("kind", "given", "field", "shown"),
    [
        (TaskKind.qa, "yes", "option", "yes"),
        (TaskKind.re, "treats", "relation", "treats"),
        (TaskKind.mlc, ("a", "b"), "labels", ["a", "b"]),
        (TaskKind.mlc, (), "labels", []),
        (
            TaskKind.ner,
            (Span(start=0, end=7, label="Chemical", text="Aspirin"),),
            "entities",
            [{"start": 0, "end": 7, "type": "Chemical", "text": "Aspirin"}],
        ),
    ],
)
def test_each_kind_has_its_own_form(kind: TaskKind, given: Answer, field: str, shown: object) -> None:
    assert answer(replace(ANSWERED, answer=given), kind) == {
        field: shown,
        "invalid": False,
        "outputs": ["yes"],
        "truncated_input": False,
        "truncated_output": False,
    }


def test_what_could_not_be_read_is_none_and_says_so() -> None:
    found = answer(replace(ANSWERED, answer=None, finish="length", truncated=True), TaskKind.ner)
    assert found["entities"] is None
    assert (found["invalid"], found["truncated_input"], found["truncated_output"]) == (True, True, True)


def test_a_row_that_could_not_be_asked_fails_the_request() -> None:
    with pytest.raises(RequestError, match="row 1 is too long"):
        answers([ANSWERED, RequestError("row 1 is too long")], TaskKind.qa)
