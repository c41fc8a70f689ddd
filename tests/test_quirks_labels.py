"""What the real files of label sets hold, measured: each test is a mistake that a plain reader makes on them."""

import re
from collections import Counter
from pathlib import Path
from typing import cast

from bioquant.config import DataFormat
from bioquant.records import Record
from bioquant.tasks.fields import label_names
from test_quirks import labels, load, records, task


def beginning(text: object) -> str:
    """The first letters and figures of a text, by which an abstract is known in another layout's tokens."""
    return "".join(re.findall(r"[a-z0-9]", str(text).lower()))[:150]


# ---- Hallmarks of Cancer


def test_hoc(data_root: Path) -> None:
    rows = load("hoc", data_root).test
    assert Counter(len(row.target) for row in rows) == {1: 194, 2: 89, 3: 22, 4: 10}
    counts = labels(rows)
    rare = ("avoiding immune destruction", "enabling replicative immortality", "cellular energetics")
    assert [counts[label] for label in rare] == [17, 18, 19]


def test_hoc_label_order_in_a_cell_is_arbitrary(data_root: Path) -> None:
    cells = [cast(str, r.fields["labels"]).split(";") for r in records(data_root, "hoc/bids/test.tsv", DataFormat.tsv)]
    places = {name: place for place, name in enumerate(label_names(task("hoc")))}
    assert any([places[name] for name in cell] != sorted(places[name] for name in cell) for cell in cells)
    for row, cell in zip(load("hoc", data_root).test, cells, strict=True):
        assert set(row.target) == set(cell)
        assert [places[str(name)] for name in row.target] == sorted(places[name] for name in cell)


def test_hoc_in_its_authors_layout_agrees(data_root: Path) -> None:
    original = records(data_root, "hoc/original/text_labels.first60.tar", DataFormat.hoc_folder)
    assert len(original) == 60
    dataset = load("hoc", data_root)
    known = {row.id: row for row in (*dataset.test, *dataset.pool)}
    shared = [record for record in original if record.fields["id"] in known]
    same = [set(cast(list[str], r.fields["labels"])) == set(known[cast(str, r.fields["id"])].target) for r in shared]
    assert (len(same), sum(same)) == (50, 50)


def blurb(root: Path) -> list[tuple[str, set[str]]]:
    """The beginning and the label ids of each abstract in BLURB's test split."""
    found = records(root, "hoc/blurb_t5/test_blurb.tsv", DataFormat.last_tab)
    return [(beginning(r.fields["text"]), set(cast(str, r.fields["label"]).split("|"))) for r in found]


def bids(root: Path, split: str) -> list[Record]:
    return records(root, f"hoc/bids/{split}.tsv", DataFormat.tsv, quoted=True)


def test_hoc_in_blurbs_layout_holds_abstracts_without_a_hallmark(data_root: Path) -> None:
    found = blurb(data_root)
    assert len(found) == 371
    assert [ids for _, ids in found if "10" in ids] == [{"10"}] * 53
    assert all(
        record.fields["labels"] for split in ("test", "dev", "train.first500") for record in bids(data_root, split)
    )


def test_hoc_splits_of_two_layouts_are_unrelated(data_root: Path) -> None:
    """A test split of one layout stands in the other's train and dev: their pools and tests must not be mixed."""
    known = {name for name, _ in blurb(data_root)}
    shared = {
        split: sum(beginning(record.fields["text"]) in known for record in bids(data_root, split))
        for split in ("train.first500", "dev", "test")
    }
    assert shared["dev"] == 33
    assert min(shared.values()) >= 33


def test_hoc_ids_are_the_names_in_alphabetical_order(data_root: Path) -> None:
    names = label_names(task("hoc"))
    assert list(names) == sorted(names)
    known = dict(blurb(data_root))
    agree = [
        {names[int(number)] for number in known[place]} == set(cast(str, record.fields["labels"]).split(";"))
        for split in ("train.first500", "dev", "test")
        for record in bids(data_root, split)
        if (place := beginning(record.fields["text"])) in known and known[place] != {"10"}
    ]
    assert sum(not same for same in agree) <= 1
    assert len(agree) > 190


# ---- LitCovid


def test_litcovid(data_root: Path) -> None:
    rows = load("litcovid", data_root).test
    assert labels(rows) == {
        "Treatment": 1035,
        "Prevention": 926,
        "Diagnosis": 722,
        "Mechanism": 567,
        "Case Report": 197,
        "Transmission": 128,
        "Epidemic Forecasting": 41,
    }
    assert sum(row.target == ("Case Report",) for row in rows) == 197


def test_litcovid_texts_are_distinct_whole_and_ascii(data_root: Path) -> None:
    texts = [row.inputs["text"] for row in load("litcovid", data_root).test]
    lengths = [len(text.split()) for text in texts]
    assert (len(set(texts)), max(lengths), sum(length < 30 for length in lengths)) == (2500, 1008, 14)
    assert all(text.isascii() for text in texts)


def test_litcovid_label_order_in_a_cell_is_arbitrary(data_root: Path) -> None:
    found = Counter(
        r.fields["labels"] for r in records(data_root, "litcovid/bids/test.tsv", DataFormat.tsv, quoted=True)
    )
    assert found["Mechanism;Treatment"] == 332
    rows = load("litcovid", data_root).test
    assert sum(row.target == ("Treatment", "Mechanism") for row in rows) == 332 + found["Treatment;Mechanism"]


def test_litcovid_metric_sample_holds_rows_without_a_label(data_root: Path) -> None:
    """Their published scores are reproduced in test_metrics.py."""
    found = records(data_root, "litcovid/eval_sample/prediction_label_samples.csv", DataFormat.csv)
    named = label_names(task("litcovid"))
    unlabelled = [r for r in found if all(float(cast(str, r.fields[name])) < 0.5 for name in named)]
    assert (len(found), len(unlabelled)) == (2551, 150)
