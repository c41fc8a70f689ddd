"""A cell's predictions on disk: a line as each is finished, and two files when all are."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pandas as pd
from filelock import FileLock

from bioquant.records import Answer, Prediction, Row, Span

TIMED = ("seconds", "batch_index", "batch_size")
"""Fields that differ between two runs of the same cell."""


JOURNAL = "journal.jsonl"

ORPHAN_S = 60.0
"""How long a journal's last writer may take to die."""


@contextmanager
def journal(folder: Path) -> Generator[Callable[[Prediction], None]]:
    """Append each prediction to `journal.jsonl` at once, so that nothing finished is lost to what fails later."""
    with _alone(folder), (folder / JOURNAL).open("a", encoding="utf-8", newline="\n") as file:

        def write(prediction: Prediction) -> None:
            file.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
            file.flush()

        yield write


def take_over(before: Path, folder: Path) -> list[Prediction]:
    """The predictions that an earlier attempt journaled, which from now on stand in this folder's journal too.

    before: the earlier attempt's folder, which may be this one. A last line that was torn by a kill is dropped.
    Raises TimeoutError where the earlier attempt's process still writes.
    """
    with _alone(before):
        data = (before / JOURNAL).read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    copy = folder / f"{JOURNAL}.copy"
    copy.write_bytes(whole)
    copy.replace(folder / JOURNAL)
    return [_prediction(json.loads(line)) for line in whole.splitlines()]


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time: a parent that was killed leaves a worker, which may live on for a moment."""
    path = folder / f"{JOURNAL}.lock"
    with FileLock(path, timeout=ORPHAN_S, thread_local=False):
        yield
        path.unlink()


def _prediction(fields: dict[str, Any]) -> Prediction:
    """The opposite of `asdict`, of what JSON has made of it."""
    tuples: dict[str, Any] = {name: tuple(fields[name]) for name in ("outputs", "choice_logprobs")}
    answers: dict[str, Any] = {name: _answer(fields[name]) for name in ("answer", "target")}
    return Prediction(**{**fields, **tuples, **answers})


def _answer(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(Span(**part) if isinstance(part, dict) else part for part in value)


def write_predictions(folder: Path, predictions: Sequence[Prediction], rows: Sequence[Row]) -> None:
    """`predictions.jsonl`: without times, byte-identical in each run of a cell. `predictions.parquet`: everything.

    rows: the dataset's row behind each prediction, for its unit and group.
    """
    with (folder / "predictions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for prediction in predictions:
            stable = {key: value for key, value in asdict(prediction).items() if key not in TIMED}
            file.write(json.dumps(stable, ensure_ascii=False, sort_keys=True) + "\n")
    table = [_flat(prediction, row) for prediction, row in zip(predictions, rows, strict=True)]
    pd.DataFrame(table).to_parquet(folder / "predictions.parquet", index=False)


def _flat(prediction: Prediction, dataset_row: Row) -> dict[str, object]:
    """One row of the table: structured values as text, which every viewer shows and every database stores.

    `answer` and `target` are for people, `answer_json` and `target_json` for comparing runs: "null" is an invalid one.
    """
    row: dict[str, object] = asdict(prediction)
    del row["outputs"]
    outputs = prediction.outputs
    return row | {
        "output": outputs[0] if len(outputs) == 1 else json.dumps(outputs, ensure_ascii=False),
        "answer": "" if prediction.answer is None else shown(prediction.answer),
        "target": shown(prediction.target),
        "invalid": prediction.answer is None,
        "answer_json": to_json(prediction.answer),
        "target_json": to_json(prediction.target),
        "unit": dataset_row.unit or dataset_row.id,
        "group": dataset_row.group,
    }


def to_json(answer: Answer | None) -> str:
    """An answer as JSON: null, a string, a list of strings, or a list of [start, end, label, text]."""
    value = answer if answer is None or isinstance(answer, str) else [_part(part) for part in answer]
    return json.dumps(value, ensure_ascii=False)


def _part(part: str | Span) -> str | list[str | int]:
    return [part.start, part.end, part.label, part.text] if isinstance(part, Span) else part


def from_json(text: str) -> Answer | None:
    """The opposite of `to_json`."""
    value = json.loads(text)
    if not isinstance(value, list):
        return value
    parts = cast(list[Any], value)
    if all(isinstance(part, str) for part in parts):
        return tuple(parts)
    return tuple(Span(start=start, end=end, label=label, text=named) for start, end, label, named in parts)


def shown(answer: Answer) -> str:
    """An answer as one readable line; entities with their character offsets."""
    if isinstance(answer, str):
        return answer
    parts = [
        f"{part.label}:{f' {part.text}' if part.text else ''} [{part.start}:{part.end}]"
        if isinstance(part, Span)
        else part
        for part in answer
    ]
    return "; ".join(parts) or "none"
