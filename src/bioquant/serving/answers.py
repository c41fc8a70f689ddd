"""A prediction as a client reads it. Pure."""

from collections.abc import Sequence
from typing import Any, cast

from bioquant.config import TaskKind
from bioquant.errors import RequestError
from bioquant.records import Prediction, Span

FIELD = {TaskKind.ner: "entities", TaskKind.re: "relation", TaskKind.mlc: "labels", TaskKind.qa: "option"}
"""What a kind's answer is called."""


def answers(found: Sequence[Prediction | RequestError], kind: TaskKind) -> list[dict[str, Any]]:
    """A request's answers. Raises RequestError for the first row that could not be asked: none is dropped."""
    shown: list[dict[str, Any]] = []
    for one in found:
        if isinstance(one, RequestError):
            raise one
        shown.append(answer(one, kind))
    return shown


def answer(prediction: Prediction, kind: TaskKind) -> dict[str, Any]:
    """The parsed answer under its kind's name, None where the output could not be parsed; and what lies behind it.

    NER: `entities`, each {start, end, type, text}, in characters; one that the model named and the text has not is
    there with start = end = -1, as the evaluation counts it. RE: `relation`, a label. MLC: `labels`. QA: `option`, a
    letter or a label. outputs: what the model wrote, one text a sample. invalid: whether it could not be parsed.
    truncated_input: whether the prompt was shortened to fit the model's context; truncated_output: whether the answer
    was cut at the token limit.
    """
    return {
        FIELD[kind]: _plain(prediction, kind),
        "invalid": prediction.answer is None,
        "outputs": list(prediction.outputs),
        "truncated_input": prediction.truncated,
        "truncated_output": prediction.finish == "length",
    }


def _plain(prediction: Prediction, kind: TaskKind) -> Any:
    if prediction.answer is None or isinstance(prediction.answer, str):
        return prediction.answer
    if kind is TaskKind.mlc:
        return list(prediction.answer)
    spans = cast(tuple[Span, ...], prediction.answer)
    return [{"start": span.start, "end": span.end, "type": span.label, "text": span.text} for span in spans]
