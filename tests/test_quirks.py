"""What the real benchmark files hold, measured: each test is a mistake that a plain reader makes on them.

This file: sizes, and what bites in several datasets. The kinds have a file each: test_quirks_*.py.
"""

import gzip
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from bioquant import datasets, prompts
from bioquant.compose import load_option, names
from bioquant.config import DataFormat, SplitConfig, TaskConfig, conf_dir
from bioquant.records import Dataset, Record, Row, Span

SUBJECTS = [name for name in names("task") if name.startswith("mmlu_") and name != "mmlu_medical"]
TASKS = [name for name in names("task") if not name.startswith("demo_")]


def task(name: str) -> TaskConfig:
    return cast(TaskConfig, load_option(conf_dir() / "task" / f"{name}.yaml", TaskConfig))


@cache
def load(name: str, root: Path) -> Dataset:
    return datasets.load(task(name), root)


def raw(root: Path, path: str) -> bytes:
    """A file's bytes, unpacked."""
    return gzip.decompress((root / f"{path}.gz").read_bytes())


def records(root: Path, path: str, file_format: DataFormat, **settings: Any) -> list[Record]:
    split = SplitConfig(format=file_format, paths=[path], **settings)
    return list(datasets.read(split, task("pubmedqa"), root))


def spans(rows: tuple[Row, ...]) -> list[Span]:
    return [cast(Span, span) for row in rows for span in row.target]


def labels(rows: tuple[Row, ...]) -> Counter[str]:
    """How often each label is a target, also among several."""
    return Counter(
        label
        for row in rows
        for label in cast(tuple[str, ...], (row.target,) if isinstance(row.target, str) else row.target)
    )


def test_every_task_has_a_row_here() -> None:
    assert sorted(TASKS) == sorted(SIZES)


SIZES = {  # test examples, pool examples that are not in the test split too, however they are punctuated
    "bc2gm": (5038, 994),
    "bc5cdr": (4797, 500),
    "bc5cdr_chemical": (4797, 997),
    "bc5cdr_pubtator": (500, 500),
    "bioasq_yesno": (140, 670),
    "biored_ner": (100, 400),
    "biored_re": (7047, 21755),
    "chemprot": (15745, 2999),
    "ddi2013": (5761, 7179),
    "ddi2013_xml": (5716, 4787),
    "euadr": (355, 0),
    "gad": (534, 4790),
    "hoc": (315, 500),
    "jnlpba": (3856, 1733),
    "litcovid": (2500, 0),
    "litcovid_held_out": (2450, 50),
    "medmcqa": (4183, 0),
    "medqa": (1273, 300),
    "medqa_4opt": (1273, 0),
    "mmlu_anatomy": (135, 5),
    "mmlu_clinical_knowledge": (265, 5),
    "mmlu_college_biology": (144, 5),
    "mmlu_college_medicine": (173, 5),
    "mmlu_medical": (1089, 25),
    "mmlu_medical_genetics": (100, 5),
    "mmlu_professional_medicine": (272, 5),
    "ncbi_disease": (940, 999),
    "ncbi_disease_pubtator": (100, 593),
    "pubmedqa": (500, 500),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_task_has_its_published_size_unique_ids_and_no_pool_row_in_its_test(data_root: Path, name: str) -> None:
    dataset = load(name, data_root)
    assert (dataset.num_test, len(dataset.pool)) == SIZES[name]
    assert len({row.id for row in dataset.test}) == dataset.num_test
    assert not {datasets.asked(row) for row in dataset.test} & {datasets.asked(row) for row in dataset.pool}
    assert prompts.clean_pool(dataset.test, dataset.pool) == dataset.pool
    for span in spans(dataset.test) if task(name).kind == "ner" else ():
        assert span.text.strip() == span.text != ""


def test_next_line_characters_end_no_record(data_root: Path) -> None:
    found = records(data_root, "hoc/bids/dev.tsv", DataFormat.tsv, quoted=True)
    assert len(found) == 157
    assert sum(cast(str, record.fields["text"]).count("\u0085") for record in found) == 3


def test_no_break_spaces_are_text(data_root: Path) -> None:
    rows = (*load("pubmedqa", data_root).test, *load("pubmedqa", data_root).pool)
    shown = sum(text.count("\u00a0") for row in rows for text in row.inputs.values())
    found = records(data_root, "pubmedqa/original/ori_pqal.json", DataFormat.json)
    assert sum(str(record.fields).count("\\xa0") for record in found) == 433
    assert shown == 427  # six stand in conclusions, which are not shown


@pytest.mark.parametrize(
    ("name", "column", "num_quoted"), [("hoc", "text", 7), ("litcovid", "text", 144), ("pubmedqa", "CONTEXTS", 142)]
)
def test_quotes_round_a_cell_are_no_text(data_root: Path, name: str, column: str, num_quoted: int) -> None:
    path = f"{name}/bids/test.tsv"
    plain = records(data_root, path, DataFormat.tsv)
    assert sum(cast(str, record.fields[column]).startswith('"') for record in plain) == num_quoted
    quoted = records(data_root, path, DataFormat.tsv, quoted=True)
    assert not any('""' in cast(str, record.fields[column]) for record in quoted)


def test_line_breaks_inside_cells_end_no_record(data_root: Path) -> None:
    assert raw(data_root, "medqa/bids_5opt/test.tsv").count(b"\n") == 3361
    rows = load("medqa", data_root).test
    found = records(data_root, "medqa/bids_5opt/test.tsv", DataFormat.tsv, quoted=True)
    assert sum("\n" in cast(str, record.fields["question"]) for record in found) == 206
    assert max(int(record.source.rpartition(":")[2]) for record in found) > 3000
    assert all(len(row.options) == 5 for row in rows)


def test_windows_line_ends_are_no_text(data_root: Path) -> None:
    names = (f"mmlu_medical/test/{name.removeprefix('mmlu_')}_test.csv" for name in SUBJECTS)
    with_returns = ("clinical_knowledge", "medical_genetics", "professional_medicine")
    assert [path for path in names if b"\r\n" in raw(data_root, path)] == [
        f"mmlu_medical/test/{name}_test.csv" for name in with_returns
    ]
    assert b"\r\n" in raw(data_root, "ddi2013/bids/test.tsv")
    for name in ("ddi2013", *SUBJECTS):
        for row in (*load(name, data_root).test, *load(name, data_root).pool):
            assert "\r" not in "".join([*row.inputs.values(), *row.options, str(row.target)])
    chemprot = records(data_root, "chemprot/bids/dev.tsv", DataFormat.tsv)
    assert {record.fields["label"] for record in chemprot} == {"CPR:3", "CPR:4", "CPR:5", "CPR:6", "CPR:9", "false"}


def test_no_file_of_data_begins_with_a_byte_order_mark(data_root: Path) -> None:
    """`raw.text_of` takes one off where there is one, as in many users' own files."""
    files = [path for path in data_root.rglob("*.gz") if path.parts[-2] != "prompts_bids"]
    assert len(files) > 80
    assert [path for path in files if gzip.decompress(path.read_bytes()).startswith(b"\xef\xbb\xbf")] == []


def test_an_unnamed_first_column_is_the_index(data_root: Path) -> None:
    found = records(data_root, "medqa/bids_5opt/test.tsv", DataFormat.tsv, quoted=True)
    assert [record.fields["index"] for record in found] == [str(number) for number in range(1273)]


def test_a_header_in_one_file_and_none_in_the_other(data_root: Path) -> None:
    dataset = load("gad", data_root)
    assert dataset.test[0].inputs["text"].startswith("These results suggest that the C1772T polymorphism")
    assert dataset.pool[0].inputs["text"].startswith("this study proposes that A/A genotype")
    assert len(records(data_root, "gad/biobert_fold1/train.tsv", DataFormat.tsv, columns=["s", "l"])) == 4796


@pytest.mark.parametrize("name", ["chemprot", "ddi2013"])
def test_label_ids_are_those_of_the_datasets_own_list(data_root: Path, name: str) -> None:
    """`label2id.tsv` calls the negative label 0 too."""
    lines = raw(data_root, f"{name}/blurb_t5/label2id.tsv").decode().split("\n")
    by_id = {number: label for label, number in (line.split("\t") for line in lines if line)}
    assert by_id.pop("0") == "0"
    if name == "chemprot":
        values = {label.value: label.name for label in task(name).labels}
        assert values == by_id | {"0": "false"}
    else:
        assert set(by_id.values()) == {label.name for label in task(name).labels} - {"DDI-false"}


def test_tokenised_sentences_are_not_the_abstracts_text(data_root: Path) -> None:
    """Offsets of one layout mean nothing in the other; PubTator counts from the title, one blank, the abstract."""
    sentences = load("bc5cdr", data_root).test
    abstracts = "\n".join(row.inputs["text"] for row in load("bc5cdr_pubtator", data_root).test)
    assert not any(row.inputs["text"] in abstracts for row in sentences)
    squeezed = abstracts.replace(" ", "")
    assert all(row.inputs["text"].replace(" ", "") in squeezed for row in sentences)
    first = load("bc5cdr_pubtator", data_root).test[0]
    title = raw(data_root, "bc5cdr/pubtator/CDR_TestSet.PubTator.txt").decode().split("\n")[0].split("|t|")[1]
    assert first.inputs["text"].startswith(f"{title} ")
    for row in load("bc5cdr_pubtator", data_root).test:
        assert all(row.inputs["text"][s.start : s.end] == s.text for s in spans((row,)))
