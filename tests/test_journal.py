"""Predictions on disk: at once, stable, and in full."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bioquant import journal as room
from bioquant.journal import from_json, journal, shown, take_over, to_json, write_predictions
from bioquant.records import Answer, Prediction, Row, Span

PREDICTION = Prediction(
    example_id="1",
    prompt="Is it?\n\nAnswer:",
    outputs=("yes ü\n",),
    answer="yes",
    target="yes",
    correct=True,
    num_prompt_tokens=5,
    num_output_tokens=2,
    finish="stop",
    input_ids_sha256="ab",
    seconds=0.5,
    batch_index=0,
    batch_size=8,
)
ROW = Row(id="1", inputs={"question": "Is it?"}, target="yes", unit="doc", group="anatomy")


def test_a_prediction_is_on_disk_as_soon_as_it_is_made(tmp_path: Path) -> None:
    with journal(tmp_path) as write:
        write(PREDICTION)
        line = (tmp_path / "journal.jsonl").read_text(encoding="utf-8")
        assert json.loads(line)["outputs"] == ["yes ü\n"]
        assert line.count("\n") == 1


SPANS = (Span(start=0, end=7, label="Chemical", text="aspirin"), Span(start=-1, end=-1, label="Disease", text="flu"))


@pytest.mark.parametrize(
    "prediction",
    [
        PREDICTION,
        replace(PREDICTION, answer=None, target=("a", "b"), outputs=("x", "y"), truncated=True),
        replace(PREDICTION, answer=SPANS, target=(), finish="length"),
        replace(PREDICTION, choice_logprobs=(-0.1, -1 / 3, float("-inf")), seconds=1 / 3),
    ],
)
def test_a_prediction_is_read_back_as_it_was(tmp_path: Path, prediction: Prediction) -> None:
    with journal(tmp_path) as write:
        write(prediction)
    assert take_over(tmp_path, tmp_path) == [prediction]


@pytest.mark.parametrize("torn", [1, 10, 200])
def test_a_line_that_was_torn_by_a_kill_is_dropped(tmp_path: Path, torn: int) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with journal(before) as write:
        for prompt in ("one", "two"):
            write(replace(PREDICTION, prompt=prompt))
    whole = (before / "journal.jsonl").read_bytes()
    (before / "journal.jsonl").write_bytes(whole[:-torn])
    assert [prediction.prompt for prediction in take_over(before, after)] == ["one"]
    with journal(after) as write:
        write(replace(PREDICTION, prompt="two"))
    assert (after / "journal.jsonl").read_bytes() == whole


def test_a_journal_is_written_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ORPHAN_S", 0.1)
    with journal(tmp_path), pytest.raises(TimeoutError):
        take_over(tmp_path, tmp_path)
    assert take_over(tmp_path, tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_the_stable_file_does_not_depend_on_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, prediction in (
        (first, PREDICTION),
        (second, replace(PREDICTION, seconds=9.0, batch_size=1, batch_index=3)),
    ):
        folder.mkdir()
        write_predictions(folder, [prediction], [ROW])
    assert (first / "predictions.jsonl").read_bytes() == (second / "predictions.jsonl").read_bytes()


def test_the_table_holds_everything(tmp_path: Path) -> None:
    invalid = replace(PREDICTION, example_id="2", outputs=("?", "!"), answer=None, correct=False)
    write_predictions(tmp_path, [PREDICTION, invalid], [ROW, replace(ROW, id="2", unit="")])
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["invalid"].tolist() == [False, True]
    assert table["output"].tolist() == ["yes ü\n", '["?", "!"]']
    assert table["answer"].tolist() == ["yes", ""]
    assert table["seconds"].tolist() == [0.5, 0.5]
    assert table["answer_json"].tolist() == ['"yes"', "null"]
    assert table["target_json"].tolist() == ['"yes"', '"yes"']
    assert table["unit"].tolist() == ["doc", "2"]
    assert table["group"].tolist() == ["anatomy", "anatomy"]


@pytest.mark.parametrize(
    "answer",
    [None, "yes", (), ("a", "b; c"), (Span(start=0, end=2, label="Gene", text="p5"),)],
    ids=["invalid", "label", "nothing", "labels", "entities"],
)
def test_an_answer_comes_back_from_json(answer: Answer | None) -> None:
    assert from_json(to_json(answer)) == answer


def test_an_answer_is_shown_in_one_line() -> None:
    spans = (
        Span(start=0, end=7, label="Chemical", text="aspirin"),
        Span(start=-1, end=-1, label="Disease", text="flu"),
    )
    assert shown(spans) == "Chemical: aspirin [0:7]; Disease: flu [-1:-1]"
    assert shown(("a", "b")) == "a; b"
    assert shown(()) == "none"
