"""Question answering: one of a task's labels (yes, no, maybe), or one of a row's lettered options."""

import ast
from collections.abc import Sequence
from string import ascii_uppercase
from typing import cast

from bioquant.config import TaskConfig
from bioquant.errors import DataError
from bioquant.metrics import LabelScore, group_mean_accuracy, label_scores, per_label
from bioquant.privacy import listed as listed_names, quoted
from bioquant.records import Answer, Record, Row, Score, Value
from bioquant.tasks.fields import dicts, id_of, label_names, label_of, listed, lookup, required, text_of
from bioquant.tasks.reading import Choices, read_choice
from bioquant.trivial import trivial_baselines

Option = tuple[str, str]
"""What the file calls an option (its letter), and the option's text."""


class QuestionAnswering:
    """A task with labels asks for one of them; a task without asks for the letter of a row's own options."""

    headline = "accuracy"

    def row(self, record: Record, task: TaskConfig) -> Row:
        """A row from the fields question, context, options and answer."""
        inputs = {"question": text_of(record, task, "question")}
        if _unpacked(lookup(record, task, "context")):
            inputs["context"] = _context(record, task)
        options = [] if task.labels else _options(record, task)
        return Row(
            id=id_of(record, task),
            inputs=inputs,
            target=_letter(record, task, options) if options else _label(record, task),
            choices=tuple(ascii_uppercase[: len(options)]) or label_names(task),
            options=tuple(text for _, text in options),
            source=record.source,
        )

    def show(self, row: Row) -> str:
        """The context where there is one, the question, the options where there are any."""
        context = [f"Context: {row.inputs['context']}"] if "context" in row.inputs else []
        options = [f"{letter}) {text}" for letter, text in zip(row.choices, row.options, strict=False)]
        return "\n".join(
            [*context, f"Question: {row.inputs['question']}", *(["Options:"] if options else []), *options]
        )

    def answer_format(self, task: TaskConfig) -> str:
        """One label or one letter, in words."""
        if not task.labels:
            return "Answer with the letter of the correct option and nothing else."
        return f"Answer with exactly one of these and nothing else: {listed(label_names(task))}."

    def answer_text(self, answer: Answer) -> str:
        """The label or the letter."""
        return cast(str, answer)

    def parse(self, output: str, row: Row, task: TaskConfig) -> Answer | None:
        """The one label, or the letter of the one option, that the output names."""
        choices = Choices.of_options(row.choices, row.options) if row.options else Choices.of_labels(task.labels)
        return read_choice(output, choices)

    def score(
        self, rows: Sequence[Row], answers: Sequence[Answer | None], task: TaskConfig, *, resamples: int, seed: int
    ) -> list[Score]:
        """Accuracy first, then macro-F1; where rows have groups, the mean of the groups' accuracies too."""
        targets = [cast(str, row.target) for row in rows]
        given = [cast(str | None, answer) for answer in answers]
        scores = label_scores(
            targets,
            given,
            _labels(rows, task),
            negative=None,
            headline=self.headline,
            resamples=resamples,
            seed=seed,
            units=[row.unit or row.id for row in rows],
        )
        groups = [row.group for row in rows]
        if any(groups):
            scores.append(group_mean_accuracy(targets, given, groups, resamples=resamples, seed=seed))
        return scores

    def per_label(self, rows: Sequence[Row], answers: Sequence[Answer | None], task: TaskConfig) -> list[LabelScore]:
        """Each label's precision, recall and F1."""
        return per_label([row.target for row in rows], answers, _labels(rows, task))

    def trivial(self, rows: Sequence[Row], task: TaskConfig) -> dict[str, float]:
        """Accuracy of always the same label or letter."""
        return trivial_baselines([row.target for row in rows], _labels(rows, task), headline=self.headline)


def _labels(rows: Sequence[Row], task: TaskConfig) -> Sequence[str]:
    """The task's labels, or all letters that its rows use."""
    return label_names(task) or sorted({letter for row in rows for letter in row.choices})


def _unpacked(value: Value) -> Value:
    """The value; a string that holds a Python list or dict (as TSV exports of data frames do) is read as one."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return cast(Value, ast.literal_eval(value.strip()))
    except (ValueError, SyntaxError):
        return value  # prose that begins with a bracket


def _context(record: Record, task: TaskConfig) -> str:
    """The context's sections, a line each."""
    value = _unpacked(lookup(record, task, "context"))
    return "\n".join(str(part).strip() for part in value) if isinstance(value, list) else str(value).strip()


def _options(record: Record, task: TaskConfig) -> list[Option]:
    """The options in the file's order: of a list, of a dict by letter, of {key, value} pairs, or of several columns."""
    columns = [name.strip() for name in task.fields.get("options", "").split(",")]
    if len(columns) > 1:
        value: Value = [record.fields.get(name) for name in columns]
    else:
        value = _unpacked(required(record, task, "options"))
    pairs: list[tuple[Value, Value]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif dicts(value):
        pairs = [(item.get("key"), item.get("value")) for item in dicts(value)]
    elif isinstance(value, list):
        pairs = list(zip(ascii_uppercase, value, strict=False))
    while pairs and pairs[-1][1] in (None, ""):  # a table's last columns where a question has fewer options
        pairs.pop()
    if (
        len(pairs) < 2
        or len(pairs) > len(ascii_uppercase)
        or any(part in (None, "") for pair in pairs for part in pair)
    ):
        raise DataError(
            f"{record.source}: the options of task '{task.name}' are {quoted(value)}, not a list of texts, a dict"
            " of letter to text, or a list of {key, value}: correct task.fields.options"
        )
    return [(str(key).strip(), str(text).strip()) for key, text in pairs]


def _answer(record: Record, task: TaskConfig) -> Value:
    """The answer's cell; a list of one stands for its item."""
    value = _unpacked(required(record, task, "answer"))
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _label(record: Record, task: TaskConfig) -> str:
    return label_of(_answer(record, task), task, record.source)


def _letter(record: Record, task: TaskConfig, options: Sequence[Option]) -> str:
    """Our letter for the answer, which the file gives as what it calls the option, as its text, or as its number.

    A number in JSON is never an option's text: where options are figures, 2 would be the wrong one of 1, 2, 4.
    """
    answer = _answer(record, task)
    written = str(answer).strip()
    places = [place for place, (key, _) in enumerate(options) if key.casefold() == written.casefold()]
    if not places and not isinstance(answer, int):
        places = [place for place, (_, text) in enumerate(options) if text == written]
    if not places and written.isdecimal():
        place = int(written) - task.first_option
        places = [place] if 0 <= place < len(options) else []
    if len(places) != 1:
        last = task.first_option + len(options) - 1
        raise DataError(
            f"{record.source}: the answer {quoted(written)} of task '{task.name}' is none of its {len(options)}"
            f" options: give a letter ({listed_names(key for key, _ in options)}), a number from {task.first_option} to"
            f" {last} (task.first_option is the first one's), or one option's text"
        )
    return ascii_uppercase[places[0]]
