"""Every benchmark dataset in one place: `python benchmarks/dataset_table.py [FOLDER]`, FOLDER as $BIOQUANT_DATA.

Prints, as Markdown: sizes and trivial baselines; the score of the gold answers written out and read back, the best
that a task's answer format allows; the score of damaged gold answers beside the one that seqeval (entities) or
scikit-learn (all others) gives them; and each figure of dataset_references.yaml beside ours. Ends with 1 where one
differs.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import sklearn.metrics as sk
import yaml
from seqeval.metrics import f1_score as entity_f1

from bioquant import compose, datasets, metrics, places
from bioquant.config import DataFormat, SplitConfig, TaskConfig, TaskKind
from bioquant.inspection import label_counts
from bioquant.records import Answer, Dataset, Row, Span
from bioquant.tasks import kind_of
from bioquant.tasks.fields import label_names

REFERENCES = Path(__file__).with_name("dataset_references.yaml")
HEADINGS = ("task", "kind", "test", "pool", "labels", "metric", "trivial baselines", "gold read back")
SCORED = ("task", "metric of damaged gold", "here", "reference", "verdict", "by")
CHECKED = ("task", "figure", "published", "here", "verdict", "source")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A task with its rows, and where its files are."""

    task: TaskConfig
    data: Dataset
    root: Path


def main() -> int:
    """Print the tables. Returns the exit code."""
    root = places.data_root(sys.argv[1] if len(sys.argv) > 1 else None)
    if root is None:
        print("name the folder of benchmark files, or set BIOQUANT_DATA", file=sys.stderr)
        return 2
    found, absent = load(root)
    scored = [score_line(one) for one in found.values()]
    items = yaml.safe_load(REFERENCES.read_text(encoding="utf-8"))
    checked = [check_line(found[item["task"]], item) for item in items if item["task"] in found]
    print("## Sizes and trivial baselines\n")
    table(HEADINGS, (line(one) for one in found.values()))
    print(f"\nPools that are the first records of a longer file: {', '.join(pieces(found.values())) or 'none'}.")
    print(f"Not found in the folder: {', '.join(absent) or 'none'}.")
    print("\n## Gold answers of the test split\n")
    table(("task", "gold"), ((name, gold(one)) for name, one in found.items()))
    print("\n## Scores beside seqeval's and scikit-learn's\n")
    table(SCORED, scored)
    print("\n## Published figures\n")
    table(CHECKED, checked)
    different = sum("differs" in cells for cells in (*scored, *checked))
    print(f"\n{len(scored) + len(checked)} checks, {different} differ.")
    return int(different > 0)


def load(root: Path) -> tuple[dict[str, Loaded], list[str]]:
    """All benchmark tasks whose files are there, and the names of the others."""
    tasks = cast(dict[str, TaskConfig], compose.options("task", TaskConfig))
    found: dict[str, Loaded] = {}
    absent: list[str] = []
    for name, task in tasks.items():
        if not all(there for _, there in datasets.files(task, root)):
            absent.append(name)
        elif not name.startswith("demo_"):
            found[name] = Loaded(task, datasets.load(task, root), root)
    return found, absent


def pieces(found: Iterable[Loaded]) -> list[str]:
    """The tasks whose pool file says in its name that it is cut: train.first1000.tsv."""
    return [
        one.task.name for one in found if any(".first" in path for path, _ in datasets.files(one.task, one.root)[1:])
    ]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One Markdown table."""
    for cells in (headings, ["---"] * len(headings), *rows):
        print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")


def line(one: Loaded) -> list[object]:
    """A task's sizes, and what answers that read no text get. "left out" of a pool is what the test split holds too."""
    task, data, kind = one.task, one.data, kind_of(one.task.kind)
    left_out = f" ({data.num_shared} left out)" if data.num_shared else ""
    trivial = ", ".join(f"{name} {value:.3f}" for name, value in kind.trivial(data.test, task).items())
    read_back = [kind.parse(kind.answer_text(row.target), row, task) for row in data.test]
    return [
        task.name,
        task.kind,
        len(data.test),
        f"{len(data.pool)}{left_out}",
        len(task.labels) or "letters",
        kind.headline,
        trivial,
        f"{headline(one, read_back):.3f}",
    ]


def gold(one: Loaded) -> str:
    """How often each label is gold in the test split."""
    return ", ".join(f"{label} {test}" for label, (test, _) in label_counts(one.data).items() if test)


def headline(one: Loaded, answers: Sequence[Answer | None]) -> float:
    """The task's first score, as a run gives it."""
    return kind_of(one.task.kind).score(one.data.test, answers, one.task, resamples=1, seed=0)[0].value


# ---- damaged gold, scored by others


def score_line(one: Loaded) -> list[object]:
    """Our score of damaged gold answers, and another library's."""
    answers = damaged(one.data.test, one.task.kind)
    ours, theirs = f"{headline(one, answers):.6f}", f"{REFERENCE[one.task.kind](one, answers):.6f}"
    library = "seqeval" if one.task.kind is TaskKind.ner else "scikit-learn"
    return [one.task.name, kind_of(one.task.kind).headline, ours, theirs, verdict(ours, theirs), library]


def verdict(here: str, reference: str) -> str:
    """The same to the last digit that is given, or not."""
    return "ok" if here == reference else "differs"


def damaged(rows: Sequence[Row], kind: TaskKind) -> list[Answer | None]:
    """The gold answers with mistakes of each sort.

    Entities: every third mention missed, every fifth one character too short. Others: the answer of the row before;
    every tenth invalid.
    """
    if kind is TaskKind.ner:
        number = count()
        return [tuple(_mentions(cast(tuple[Span, ...], row.target), number)) for row in rows]
    before = [rows[-1], *rows[:-1]]
    return [None if place % 10 == 0 else row.target for place, row in enumerate(before)]


def _mentions(spans: Sequence[Span], number: Iterator[int]) -> Iterator[Span]:
    for span, place in zip(spans, number, strict=False):
        if place % 3 != 0:
            yield replace(span, end=span.end - 1) if place % 5 == 0 and span.end - span.start > 1 else span


def by_seqeval(one: Loaded, answers: Sequence[Answer | None]) -> float:
    """Entity F1 over a tag for each character."""
    gold, given = (
        [_tags(cast(tuple[Span, ...], spans), row) for row, spans in zip(one.data.test, side, strict=True)]
        for side in ([row.target for row in one.data.test], answers)
    )
    return float(cast(float, entity_f1(gold, given)))


def _tags(spans: Sequence[Span], row: Row) -> list[str]:
    tags = ["O"] * len(row.inputs["text"])
    for span in spans:
        tags[span.start : span.end] = [f"B-{span.label}"] + [f"I-{span.label}"] * (span.end - span.start - 1)
    return tags


def accuracy(one: Loaded, answers: Sequence[Answer | None]) -> float:
    """Invalid answers are a label of their own."""
    return float(
        sk.accuracy_score([row.target for row in one.data.test], [answer or "(invalid)" for answer in answers])
    )


def macro_f1(one: Loaded, answers: Sequence[Answer | None]) -> float:
    """Over the labels that are gold or answered."""
    targets = [row.target for row in one.data.test]
    labels = sorted({*targets, *answers} - {None}, key=str)
    invalid = [answer or "(invalid)" for answer in answers]
    return float(sk.f1_score(targets, invalid, labels=labels, average="macro", zero_division=0))


def labelset_macro_f1(one: Loaded, answers: Sequence[Answer | None]) -> float:
    """Over the labels that are gold or answered, of a 0/1 matrix."""
    names = label_names(one.task)
    gold, given = (
        np.array([[name in (labels or ()) for name in names] for labels in side])
        for side in ([row.target for row in one.data.test], answers)
    )
    there = gold.any(axis=0) | given.any(axis=0)
    return float(sk.f1_score(gold[:, there], given[:, there], average="macro", zero_division=0))


REFERENCE: dict[TaskKind, Callable[[Loaded, Sequence[Answer | None]], float]] = {
    TaskKind.ner: by_seqeval,
    TaskKind.qa: accuracy,
    TaskKind.re: macro_f1,
    TaskKind.mlc: labelset_macro_f1,
}


# ---- published figures


def check_line(one: Loaded, item: dict[str, str]) -> list[object]:
    """One figure of dataset_references.yaml beside ours, to as many digits."""
    value = FIGURES[item["figure"]](one, item.get("of", ""))
    decimals = len(item["published"].partition(".")[2])
    here = f"{value:.{decimals}f}"
    figure = f"{item['figure']}: {item['of']}" if "of" in item else item["figure"]
    return [one.task.name, figure, item["published"], here, verdict(here, item["published"]), item["source"]]


def constant(one: Loaded, of: str) -> float:
    """One metric of the same label for every row; of: `label, metric`."""
    label, metric = of.split(", ")
    scores = kind_of(one.task.kind).score(one.data.test, [label] * one.data.num_test, one.task, resamples=1, seed=0)
    return next(score.value for score in scores if score.name == metric)


def spurious(one: Loaded, _: str) -> float:
    """Entity F1 of the gold mentions and one more for each row, which stands nowhere."""
    extra = Span(start=-1, end=-1, label="", text="")
    return headline(one, [(*cast(tuple[Span, ...], row.target), extra) for row in one.data.test])


def corpus(one: Loaded, of: str, field: str) -> int:
    """Entities or relations of the whole corpus: the task's files and the split `of`, which no task reads."""
    paths = [*one.task.test.paths, *(one.task.pool.paths if one.task.pool else ()), of]
    whole = (datasets.read(replace(one.task.test, paths=[path], pairs=[]), one.task, one.root) for path in paths)
    return sum(len(cast(list[Any], record.fields[field])) for records in whole for record in records)


def metric_sample(one: Loaded, of: str) -> float:
    """A metric, or a label's F1, of the LitCovid organisers' sample at their threshold of 0.5."""
    gold, given = (_label_sets(one, f"litcovid/eval_sample/{side}_label_samples.csv") for side in SAMPLE)
    labels = label_names(one.task)
    by_label = metrics.per_label(gold, given, labels)
    means = {f"macro {part}": float(np.mean([getattr(s, part) for s in by_label])) for part in ("precision", "recall")}
    f1s = {score.label: score.f1 for score in by_label}
    return (metrics.labelset_tally(gold, given, labels).values() | means | f1s)[of]


SAMPLE = ("goldstandard", "prediction")


def _label_sets(one: Loaded, path: str) -> list[tuple[str, ...]]:
    records = datasets.read(SplitConfig(format=DataFormat.csv, paths=[path]), one.task, one.root)
    names = label_names(one.task)
    return [tuple(name for name in names if float(cast(str, record.fields[name])) >= 0.5) for record in records]


FIGURES: dict[str, Callable[[Loaded, str], float]] = {
    "test rows": lambda one, _: len(one.data.test),
    "pool file rows": lambda one, _: len(one.data.pool) + one.data.num_shared,
    "test and pool file rows": lambda one, _: len(one.data.test) + len(one.data.pool) + one.data.num_shared,
    "documents in test": lambda one, _: len({row.unit for row in one.data.test}),
    "gold in test": lambda one, of: label_counts(one.data)[of][0],
    "gold in pool": lambda one, of: label_counts(one.data)[of][1],
    "gold in test and pool": lambda one, of: sum(label_counts(one.data)[of]),
    "mentions in test": lambda one, _: sum(len(row.target) for row in one.data.test),
    "mentions in the whole corpus, with": lambda one, of: corpus(one, of, "entities"),
    "relations in the whole corpus, with": lambda one, of: corpus(one, of, "relations"),
    "always": constant,
    "gold and a spurious entity a row": spurious,
    "organisers' metric sample": metric_sample,
}


if __name__ == "__main__":
    sys.exit(main())
