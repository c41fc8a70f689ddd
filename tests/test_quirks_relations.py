"""What the real files of relations hold, measured: each test is a mistake that a plain reader makes on them."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from bioquant.config import DataFormat
from bioquant.datasets.archive import members
from bioquant.metrics import label_tally
from bioquant.tasks.fields import label_names
from test_quirks import labels, load, raw, records, task


def texts(root: Path, path: str, file_format: DataFormat, column: str, **settings: Any) -> list[str]:
    return [cast(str, record.fields[column]) for record in records(root, path, file_format, **settings)]


# ---- what all have


@pytest.mark.parametrize(("name", "share"), [("chemprot", 0.78), ("ddi2013", 0.83), ("ddi2013_xml", 0.83)])
def test_negatives_dominate_and_are_left_out_of_the_micro_f1_of_positives(
    data_root: Path, name: str, share: float
) -> None:
    rows, mine = load(name, data_root).test, task(name)
    targets = [cast(str, row.target) for row in rows]
    negative = cast(str, mine.negative_label)
    values = label_tally(targets, [negative] * len(rows), label_names(mine), negative=negative).values()
    assert round(values["accuracy"], 2) == share
    assert values["micro_f1_positive"] == 0


@pytest.mark.parametrize(
    ("name", "num_repeated", "num_shared"),
    [("chemprot", 117, 1), ("ddi2013", 55, 62), ("gad", 26, 5)],
)
def test_texts_repeat_so_that_text_is_no_key(data_root: Path, name: str, num_repeated: int, num_shared: int) -> None:
    """Rows have ids of their own; what test and pool share is no few-shot example."""
    dataset = load(name, data_root)
    found = [row.inputs["text"] for row in dataset.test]
    assert len(found) - len(set(found)) == num_repeated
    assert len({row.id for row in dataset.test}) == len(found)
    pool = {
        "chemprot": lambda: texts(
            data_root, "chemprot/blurb_t5/train_blurb.first3000.tsv", DataFormat.last_tab, "text"
        ),
        "ddi2013": lambda: texts(data_root, "ddi2013/bids/dev.tsv", DataFormat.tsv, "sentence"),
        "gad": lambda: texts(data_root, "gad/biobert_fold1/train.tsv", DataFormat.tsv, "text", columns=["text", "l"]),
    }[name]()
    assert len(set(found) & set(pool)) == num_shared
    assert not set(found) & {row.inputs["text"] for row in dataset.pool}


# ---- ChemProt


def test_chemprot_labels_are_ids_and_a_name_can_be_both(data_root: Path) -> None:
    rows = load("chemprot", data_root).test
    assert labels(rows)["false"] == 12315
    both = [row for row in rows if "@CHEM-GENE$" in row.inputs["text"]]
    assert (len(both), {row.target for row in both}) == (1373, {"false"})


def test_chemprot_marks_follow_the_text_in_one_layout_and_the_types_in_the_other(data_root: Path) -> None:
    def gene_first(found: list[str]) -> tuple[int, int]:
        pairs = [text for text in found if "@CHEMICAL$" in text and "@GENE$" in text]
        return sum(text.index("@GENE$") < text.index("@CHEMICAL$") for text in pairs), len(pairs)

    other = texts(data_root, "chemprot/bids/dev.tsv", DataFormat.tsv, "sentence")
    assert gene_first(other) == (0, 10874)
    assert sum("@CHEM-GENE$" in text for text in other) == 946
    first, pairs = gene_first([row.inputs["text"] for row in load("chemprot", data_root).test])
    assert round(first / pairs, 2) == 0.43


def test_chemprot_index_values_that_repeat(data_root: Path) -> None:
    found = records(data_root, "chemprot/bids/dev.tsv", DataFormat.tsv)
    times = Counter(record.fields["index"] for record in found)
    assert len(found) == 11820
    twice = [index for index, count in times.items() if count > 1]
    assert len(twice) == 4
    for index in twice:
        assert len({record.fields["label"] for record in found if record.fields["index"] == index}) == 2


@pytest.mark.parametrize(
    ("split", "num_rows", "num_with_two_labels", "num_with_marks_of_their_own"),
    [("train", 4169, 25, 2), ("dev", 2427, 15, 7), ("test", 3469, 25, 6)],
)
def test_chemprot_positives_in_json_lines(
    data_root: Path, split: str, num_rows: int, num_with_two_labels: int, num_with_marks_of_their_own: int
) -> None:
    found = records(data_root, f"chemprot/scibert_jsonl/{split}.txt", DataFormat.jsonl)
    by_text: dict[str, set[Any]] = {}
    for record in found:
        by_text.setdefault(cast(str, record.fields["text"]), set()).add(record.fields["label"])
    assert len(found) == num_rows
    assert sum(len(two) > 1 for two in by_text.values()) == num_with_two_labels
    assert all("<< " in text and "[[ " in text for text in by_text)
    marks = [cast(str, record.fields["text"]) for record in found]
    assert sum(text.count("<<") > 1 or text.count("[[") > 1 for text in marks) == num_with_marks_of_their_own
    assert "false" not in {record.fields["label"] for record in found}


def test_chemprot_fine_labels_that_test_lacks(data_root: Path) -> None:
    fine = {
        split: Counter(texts(data_root, f"chemprot/scibert_jsonl/{split}.txt", DataFormat.jsonl, "label"))
        for split in ("train", "test")
    }
    assert len(fine["train"]) == 13
    assert fine["train"].keys() - fine["test"].keys() == {"SUBSTRATE_PRODUCT-OF"}
    assert (fine["test"]["AGONIST-INHIBITOR"], fine["test"]["AGONIST-ACTIVATOR"]) == (12, 4)


# ---- DDI


DDI_COUNTS = {"DDI-effect": 360, "DDI-mechanism": 302, "DDI-advise": 221, "DDI-int": 96}


def test_ddi_has_45_negatives_more_in_one_layout(data_root: Path) -> None:
    assert labels(load("ddi2013", data_root).test) == DDI_COUNTS | {"DDI-false": 4782}
    assert labels(load("ddi2013_xml", data_root).test) == DDI_COUNTS | {"DDI-false": 4737}


def test_ddi_xml_is_the_usual_sentence_file(data_root: Path) -> None:
    """Ends that count, names in two pieces and types where there is an interaction are all read right."""
    rows = load("ddi2013_xml", data_root).test
    names = ["DDI-false", "DDI-mechanism", "DDI-int", "DDI-advise", "DDI-effect"]
    blurb = Counter(
        (" ".join(cast(str, record.fields["text"]).split()), names[int(cast(str, record.fields["label"]))])
        for record in records(data_root, "ddi2013/blurb_t5/test_blurb.tsv", DataFormat.last_tab)
    )
    assert Counter((" ".join(row.inputs["text"].split()), row.target) for row in rows) == blurb
    assert sum("@DRUG-DRUG$" in row.inputs["text"] for row in rows) == 7


@pytest.mark.parametrize(
    ("name", "num_documents", "num_sentences", "num_pairs", "num_in_pieces"),
    [
        ("ddi_extraction_test.tar", 191, 1299, 5716, 9),
        ("train.first80drugbank_20medline.tar", 100, 1039, 4794, 6),
    ],
)
def test_ddi_xml_files(
    data_root: Path, name: str, num_documents: int, num_sentences: int, num_pairs: int, num_in_pieces: int
) -> None:
    path = f"ddi2013/xml/{name}"
    found = [content.decode() for file, content in members(raw(data_root, path), name) if file.endswith(".xml")]
    assert len(found) == num_documents
    assert sum(text.count("<sentence ") for text in found) == num_sentences
    assert sum(len(re.findall(r'charOffset="[^"]*;', text)) for text in found) == num_in_pieces
    assert {kind for text in found for kind in re.findall(r'<entity [^>]*type="(\w+)"', text)} == {
        "drug", "brand", "group", "drug_n"
    }  # fmt: skip
    assert len(records(data_root, path, DataFormat.ddi_xml)) == num_pairs


def test_ddi_marks_and_a_text_with_two_gold_labels(data_root: Path) -> None:
    rows = load("ddi2013", data_root).test
    assert Counter(row.inputs["text"].count("@DRUG$") for row in rows) == {2: 5754, 0: 7}
    dev = texts(data_root, "ddi2013/bids/dev.tsv", DataFormat.tsv, "sentence")
    assert [sum("@DRUG-DRUG$" in text for text in found) for found in ([r.inputs["text"] for r in rows], dev)] == [
        7,
        13,
    ]
    by_text: dict[str, set[object]] = {}
    for row in rows:
        by_text.setdefault(row.inputs["text"], set()).add(row.target)
    assert sum(len(targets) > 1 for targets in by_text.values()) == 1


def test_ddi_shares_texts_between_test_and_dev(data_root: Path) -> None:
    assert len(records(data_root, "ddi2013/bids/dev.tsv", DataFormat.tsv)) == 7244
    assert len(load("ddi2013", data_root).pool) == 7179


# ---- GAD, EU-ADR


def test_gad_in_its_two_layouts_is_the_same_test_split(data_root: Path) -> None:
    rows = load("gad", data_root).test
    assert labels(rows) == {"association": 281, "none": 253}
    ids = {"association": "1", "none": "0"}
    blurb = records(data_root, "gad/blurb_t5/test_blurb.tsv", DataFormat.last_tab)
    assert Counter((row.inputs["text"], ids[cast(str, row.target)]) for row in rows) == Counter(
        (cast(str, record.fields["text"]).strip(), record.fields["label"]) for record in blurb
    )
    assert len(records(data_root, "gad/blurb_t5/dev_blurb.tsv", DataFormat.last_tab)) == 535
    train = texts(data_root, "gad/biobert_fold1/train.tsv", DataFormat.tsv, "text", columns=["text", "label"])
    assert (len(train), len(train) - len(set(train))) == (4796, 177)


def test_euadr_is_its_ten_folds(data_root: Path) -> None:
    rows = load("euadr", data_root).test
    assert labels(rows) == {"association": 262, "none": 93}
    folds = Counter(Path(row.source).parent.name for row in rows)
    assert list(folds) == [f"biobert_fold{number}" for number in range(1, 11)]
    assert list(folds.values()) == [37, 37, 36, *[35] * 7]
    assert len({row.inputs["text"] for row in rows}) == 355
    train = texts(data_root, "euadr/biobert_fold1/train.tsv", DataFormat.tsv, "text", columns=["text", "label"])
    assert len(train) == 318
    assert {text.strip() for text in train} <= {row.inputs["text"] for row in rows}


# ---- BioRED


def test_every_biored_relation_is_a_candidate(data_root: Path) -> None:
    """Ids are related, not mentions: one id has many mentions, and one mention several ids."""
    rows = load("biored_re", data_root).test
    counts = labels(rows)
    assert counts.pop("none") == 5884
    assert counts == {
        "Association": 635,
        "Positive correlation": 325,
        "Negative correlation": 171,
        "Cotreatment": 14,
        "Bind": 9,
        "Comparison": 6,
        "Drug interaction": 2,
        "Conversion": 1,
    }
    assert all("<e1>" in row.inputs["text"] and "<e2>" in row.inputs["text"] for row in rows)
    assert sum(row.inputs["text"].count("<e1>") > 1 for row in rows) > len(rows) / 2
    assert len({row.unit for row in rows}) == 100
