"""The service over HTTP, with a fake model behind it: what is answered, and every refusal, word for word."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bioquant.endpoints import ServeConfig
from bioquant.errors import OutOfMemoryError
from bioquant.records import Row, Span
from bioquant.serving import app
from bioquant.serving.batches import Answer, Answered
from bioquant.serving.requests import TooLargeError
from test_compose import composed
from test_serving_answers import ANSWERED

TASK = composed("task=demo_ner").task
CONFIG = ServeConfig(name="t", request_rows=3, queue_rows=3, text_chars=20, body_mib=0.001, batch_wait_ms=0)
SECRET = "Mrs Smith coughs"


def first_word(rows: Sequence[Row]) -> list[Answered]:
    """As if each text's first word were a chemical; a text that begins with x does not fit."""
    texts = [row.inputs["text"] for row in rows]
    spans = [Span(start=0, end=len(text.split()[0]), label="Chemical", text=text.split()[0]) for text in texts]
    return [
        TooLargeError(f"row {row.id}: too long") if text[0] == "x" else replace(ANSWERED, answer=(span,))
        for row, text, span in zip(rows, texts, spans, strict=True)
    ]


def client(answer: Answer = first_word, config: ServeConfig = CONFIG) -> TestClient:
    return TestClient(app.make(answer, TASK, config, 2, {"model": "m", "version": "1"}))


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with client() as made:
        yield made


def records(*texts: Any) -> dict[str, Any]:
    return {"dataframe_records": [{"text": text} for text in texts]}


def test_rows_are_answered_in_order(service: TestClient) -> None:
    found = service.post("/invocations", json=records("aspirin helps", "zinc"))
    assert found.status_code == 200
    assert [one["entities"][0]["text"] for one in found.json()["predictions"]] == ["aspirin", "zinc"]
    assert found.json()["predictions"][0] == {
        "entities": [{"start": 0, "end": 7, "type": "Chemical", "text": "aspirin"}],
        "invalid": False,
        "outputs": ["yes"],
        "truncated_input": False,
        "truncated_output": False,
    }


def test_a_frame_as_pandas_splits_it_is_taken_too(service: TestClient) -> None:
    split = {"dataframe_split": {"columns": ["text"], "data": [["aspirin"], ["zinc"]]}}
    found = service.post("/invocations", json=split)
    assert [one["entities"][0]["text"] for one in found.json()["predictions"]] == ["aspirin", "zinc"]


def test_it_says_what_it_serves_how_it_is_and_whether_it_has_room(service: TestClient) -> None:
    about = service.get("/").json()
    assert (about["model"], about["version"], about["answer"]) == ("m", "1", "entities")
    assert about["fields"] == [{"name": "text", "required": True}]
    assert "lisinopril" in about["example"]["dataframe_records"][0]["text"]
    for path in ("/health", "/ping"):
        assert service.get(path).json() == {"status": "healthy", "waiting_rows": 0}
    assert service.get("/ready").json() == {"status": "ready"}


NO_ROWS = "the body has no list of rows under 'dataframe_records': for example "
NOT_UTF8 = "the body is not JSON in UTF-8."
JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (
            b"{",
            JSON,
            400,
            "the body is not JSON: Expecting property name enclosed in double quotes at line 1, column 2.",
        ),
        (b"\xff\xfe{", JSON, 400, NOT_UTF8),
        (b'{"a": ' + b"9" * 900 + b"}", JSON, 400, NO_ROWS),
        (b"[1]", JSON, 400, NO_ROWS),
        (b'{"dataframe_records": []}', JSON, 400, NO_ROWS),
        (b'{"dataframe_split": {"columns": ["text"]}}', JSON, 400, NO_ROWS),
        (
            b'{"dataframe_split": {"columns": ["text"], "data": ["a"]}}',
            JSON,
            400,
            "row 0 is not an object: give 'text'.",
        ),
        (b'{"dataframe_records": ["a"]}', JSON, 400, "row 0 is not an object: give 'text'."),
        (
            b"a=b",
            "text/plain",
            415,
            "the body's type is 'text/plain': send JSON, with the header Content-Type: " + JSON,
        ),
        (json.dumps(records(*"abcd")).encode(), JSON, 413, "the request has 4 rows; this service takes 3 at a time "),
        (
            json.dumps(records("a" * 21)).encode(),
            JSON,
            413,
            "row 0: field 'text' has 21 characters; this service takes ",
        ),
        (json.dumps(records("a", "x")).encode(), JSON, 413, "row 1: too long"),
        (b" " * 2000, JSON, 413, "the body is larger than 0.001 MiB (serve.body_mib): send fewer rows at a time."),
    ],
)
def test_a_bad_request_is_refused(service: TestClient, body: bytes, kind: str, status: int, message: str) -> None:
    found = service.post("/invocations", content=body, headers={"Content-Type": kind})
    assert found.status_code == status
    assert found.json()["error"].startswith(message)


def test_a_body_that_does_not_tell_its_length_is_cut_at_the_limit(service: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    found = service.post("/invocations", content=endless(), headers={"Content-Type": JSON})
    assert found.status_code == 413


@pytest.mark.parametrize("nested", [100_000, 10_000_000])
def test_a_nesting_beyond_all_measure_is_no_crash(nested: int) -> None:
    with client(config=replace(CONFIG, body_mib=20.0)) as service:
        found = service.post("/invocations", content=b"[" * nested, headers={"Content-Type": JSON})
    assert (found.status_code, found.json()["error"]) == (400, NOT_UTF8)


def test_an_unknown_path_and_method_are_json_too(service: TestClient) -> None:
    assert service.get("/predict").json() == {"error": "Not Found: ask GET / what is served here."}
    assert service.get("/invocations").status_code == 405


def test_a_request_that_finds_no_room_is_told_to_come_again() -> None:
    with client(config=replace(CONFIG, queue_rows=2, request_rows=3)) as service:
        found = service.post("/invocations", json=records("a", "b", "c"))
    assert (found.status_code, found.headers["retry-after"]) == (429, "1")
    assert found.json()["error"] == "0 rows wait already, and serve.queue_rows=2: ask again later."


def test_a_crash_is_500_makes_it_unwell_and_no_log_holds_a_text(caplog: pytest.LogCaptureFixture) -> None:
    def crashing(rows: Sequence[Row]) -> list[Answered]:
        if rows[0].inputs["text"] == SECRET:
            raise ValueError(f"cannot read '{SECRET}'")
        return first_word(rows)

    with caplog.at_level(logging.DEBUG), client(crashing) as service:
        found = service.post("/invocations", json=records(SECRET))
        assert (found.status_code, found.json()) == (
            500,
            {"error": "the model failed (ValueError): see the service's log."},
        )
        assert service.get("/health").status_code == 503
        assert service.post("/invocations", json=records("aspirin")).status_code == 200
        assert service.get("/health").status_code == 200
    assert "Smith" not in caplog.text


def test_an_error_of_ours_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def full(_: Sequence[Row]) -> list[Answered]:
        raise OutOfMemoryError("out of memory on cuda:0 with 1 row")

    with client(full) as service:
        found = service.post("/invocations", json=records(SECRET))
    assert (found.status_code, found.json()) == (500, {"error": "out of memory on cuda:0 with 1 row"})
    assert "a batch failed: out of memory on cuda:0 with 1 row" in caplog.text
    assert "Smith" not in caplog.text
