"""What the real files of named entities hold, measured: each test is a mistake that a plain reader makes on them."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from bioquant.config import DataFormat
from bioquant.records import Record, Span
from bioquant.tasks import kind_of
from test_quirks import load, raw, records, spans, task

CONLL = {  # each file, and the type of its tags where they carry none
    "bc2gm/mtl_iob/test.tsv": None,
    "bc2gm/mtl_iob/train.first1000.tsv": None,
    "bc2gm/mtl_iobes/devel.first300.tsv": None,
    "bc5cdr/bids_chemical/test.tsv": "Chemical",
    "bc5cdr/bids_chemical/train.first1000.tsv": "Chemical",
    "bc5cdr/mtl_iob_joint/test.tsv": None,
    "bc5cdr/mtl_iob_joint/devel.first500.tsv": None,
    "jnlpba/original/Genia4EReval1.iob2": None,
    "jnlpba/mtl/devel.tsv": None,
    "ncbi_disease/bids/test.tsv": "Disease",
    "ncbi_disease/bids/dev.tsv": "Disease",
    "ncbi_disease/bids/train.first1000.tsv": "Disease",
}


def sentences(root: Path, path: str) -> list[Record]:
    return records(root, path, DataFormat.conll, entity_type=CONLL[path])


def texts(root: Path, path: str) -> list[str]:
    return [cast(str, record.fields["text"]) for record in sentences(root, path)]


def entities(found: list[Record]) -> list[dict[str, Any]]:
    return [entity for record in found for entity in cast(list[Any], record.fields["entities"])]


# ---- sentences


@pytest.mark.parametrize(
    ("name", "num_entities", "num_adjacent", "num_empty"),
    [
        ("bc5cdr_chemical", 5385, 11, 1706),
        ("bc5cdr", 9809, 138, None),
        ("bc2gm", 6325, 80, 2468),
        ("jnlpba", 8662, 95, None),
        ("ncbi_disease", 960, 5, 401),
    ],
)
def test_neighbours_are_kept_apart_and_sentences_without_entities_kept(
    data_root: Path, name: str, num_entities: int, num_adjacent: int, num_empty: int | None
) -> None:
    rows = load(name, data_root).test
    assert len(spans(rows)) == num_entities
    pairs = [pair for row in rows for pair in zip(row.target, row.target[1:], strict=False)]
    assert sum(cast(Span, a).end + 1 == cast(Span, b).start for a, b in pairs) == num_adjacent
    assert num_empty in (None, sum(not row.target for row in rows))


@pytest.mark.parametrize("name", ["bc5cdr_chemical", "bc5cdr", "bc2gm", "jnlpba", "ncbi_disease"])
def test_a_prompt_allows_that_there_is_none(data_root: Path, name: str) -> None:
    mine, kind = task(name), kind_of(task(name).kind)
    assert "A sentence may have none." in mine.instruction
    assert 'If there is no entity, answer "none".' in kind.answer_format(mine)
    empty = next(row for row in load(name, data_root).test if not row.target)
    assert kind.parse(kind.answer_text(()), empty, mine) == ()


def test_iobes_tags_are_read(data_root: Path) -> None:
    found = sentences(data_root, "bc2gm/mtl_iobes/devel.first300.tsv")
    assert len(found) == 300
    words = [entity["text"] for entity in entities(found)]
    assert "tyrosinosis" not in words
    assert len(words) == 355


@pytest.mark.parametrize("path", CONLL)
def test_the_count_of_entities_is_that_of_their_first_tags(data_root: Path, path: str) -> None:
    """So no file has an I that begins an entity, nor a change of type inside one."""
    tags = [
        line.split("\t")[-1].strip() for line in raw(data_root, path).decode().split("\n") if "DOCSTART" not in line
    ]
    begins = Counter(tag[2:] or CONLL[path] for tag in tags if tag[:1] in ("B", "S"))
    assert Counter(entity["type"] for entity in entities(sentences(data_root, path))) == begins


def test_document_starts_are_no_sentences(data_root: Path) -> None:
    assert raw(data_root, "jnlpba/mtl/devel.tsv").count(b"-DOCSTART-") == 200
    assert raw(data_root, "jnlpba/original/Genia4EReval1.iob2").count(b"-DOCSTART-") == 0
    assert not any("DOCSTART" in text for text in texts(data_root, "jnlpba/mtl/devel.tsv"))
    types = Counter(span.label for span in spans(load("jnlpba", data_root).test))
    assert types == {"protein": 5067, "cell type": 1921, "DNA": 1056, "cell line": 500, "RNA": 118}


@pytest.mark.parametrize(
    ("path", "num_sentences"),
    [("bc5cdr/bids_chemical/train.first1000.tsv", 1000), ("bc5cdr/mtl_iob_joint/devel.first500.tsv", 500)],
)
def test_a_last_sentence_without_an_empty_line_counts(data_root: Path, path: str, num_sentences: int) -> None:
    assert not raw(data_root, path).endswith(b"\n\n")
    assert len(sentences(data_root, path)) == num_sentences


@pytest.mark.parametrize(
    ("path", "num_repeated", "longest"),
    [
        ("jnlpba/original/Genia4EReval1.iob2", 26, 208),
        ("bc2gm/mtl_iob/test.tsv", 23, 205),
        ("bc5cdr/bids_chemical/test.tsv", 9, 165),
        ("ncbi_disease/bids/test.tsv", 3, 106),
    ],
)
def test_sentences_that_repeat_are_kept_and_long_ones_whole(
    data_root: Path, path: str, num_repeated: int, longest: int
) -> None:
    found = texts(data_root, path)
    assert len(found) - len(set(found)) == num_repeated
    assert max(len(text.split(" ")) for text in found) == longest


@pytest.mark.parametrize(
    ("test", "other", "num_shared"),
    [
        ("bc5cdr/bids_chemical/test.tsv", "bc5cdr/bids_chemical/train.first1000.tsv", 3),
        ("bc2gm/mtl_iob/test.tsv", "bc2gm/mtl_iob/train.first1000.tsv", 5),
        ("bc2gm/mtl_iob/test.tsv", "bc2gm/mtl_iobes/devel.first300.tsv", 3),
        ("ncbi_disease/bids/test.tsv", "ncbi_disease/bids/dev.tsv", 1),
    ],
)
def test_sentences_that_test_and_train_share(data_root: Path, test: str, other: str, num_shared: int) -> None:
    assert len(set(texts(data_root, test)) & set(texts(data_root, other))) == num_shared


@pytest.mark.parametrize("name", ["bc5cdr_chemical", "bc2gm", "jnlpba"])
def test_shared_sentences_are_no_few_shot_examples(data_root: Path, name: str) -> None:
    dataset = load(name, data_root)
    assert dataset.num_shared > 0
    assert not {row.inputs["text"] for row in dataset.test} & {row.inputs["text"] for row in dataset.pool}


def test_all_files_are_ascii_so_that_offsets_in_characters_are_offsets_in_bytes(data_root: Path) -> None:
    folders = ("bc2gm", "bc5cdr", "biored", "jnlpba", "ncbi_disease")
    files = [path for folder in folders for path in (data_root / folder).rglob("*.gz")]
    assert len(files) > 20
    assert all(raw(data_root, str(path.relative_to(data_root)).removesuffix(".gz")).isascii() for path in files)


# ---- abstracts


BC5CDR = {
    "Training": ({"Chemical": 5203, "Disease": 4182}, 1038),
    "Development": ({"Chemical": 5347, "Disease": 4244}, 1012),
    "Test": ({"Chemical": 5385, "Disease": 4424}, 1066),
}


def test_bc5cdr_composite_mentions_are_one_entity_each(data_root: Path) -> None:
    dataset = load("bc5cdr_pubtator", data_root)
    assert Counter(span.label for span in spans(dataset.test)) == {"Chemical": 5385, "Disease": 4424}
    assert Counter(span.label for span in spans(dataset.pool)) == {"Chemical": 5203, "Disease": 4182}


def test_bc5cdr_lines_of_four_six_and_seven_columns(data_root: Path) -> None:
    """Four: a relation between two ids. Six: a mention. Seven: a mention, composite where the seventh is filled."""
    columns = Counter[int]()
    composite = unlinked = 0
    for name, (types, num_relations) in BC5CDR.items():
        path = f"bc5cdr/pubtator/CDR_{name}Set.PubTator.txt"
        found = records(data_root, path, DataFormat.pubtator)
        assert Counter(entity["type"] for entity in entities(found)) == types
        related = [relation for record in found for relation in cast(list[Any], record.fields["relations"])]
        assert (len(related), {relation["type"] for relation in related}) == (num_relations, {"CID"})
        lines = [line.split("\t") for line in raw(data_root, path).decode().split("\n")]
        columns += Counter(len(cells) for cells in lines if len(cells) > 1)
        composite += sum(len(cells) == 7 and bool(cells[6]) for cells in lines)
        unlinked += sum(entity["ids"] == "-1" for entity in entities(found))
    assert columns == {4: 3116, 6: 28532, 7: 253}
    assert (composite, unlinked) == (235, 226)


@pytest.mark.parametrize(
    "path",
    [
        *(f"bc5cdr/pubtator/CDR_{name}Set.PubTator.txt" for name in BC5CDR),
        *(f"biored/pubtator/{name}.PubTator" for name in ("Train", "Dev", "Test")),
    ],
)
def test_no_two_mentions_overlap(data_root: Path, path: str) -> None:
    for record in records(data_root, path, DataFormat.pubtator):
        places = sorted((entity["start"], entity["end"]) for entity in cast(list[Any], record.fields["entities"]))
        assert all(one[1] <= other[0] for one, other in pairwise(places))


def test_ncbi_repeats_a_document_begins_with_an_empty_line_and_has_a_trailing_blank(data_root: Path) -> None:
    path = "ncbi_disease/original/NCBItrainset_corpus.txt"
    assert raw(data_root, path).startswith(b"\n")
    pool = load("ncbi_disease_pubtator", data_root).pool
    assert [row.id for row in pool if row.id.startswith("8528200")] == ["8528200", "8528200#2"]
    assert len(pool) == 593
    both = [row for split in (pool, load("ncbi_disease_pubtator", data_root).test) for row in split]
    assert sum(len(row.target) for row in both) == 6105
    files = [f"ncbi_disease/original/NCBI{name}set_corpus.txt" for name in ("train", "develop", "test")]
    lines = [line.split("\t") for file in files for line in raw(data_root, file).decode().split("\n")]
    [blank] = [cells for cells in lines if len(cells) > 4 and cells[3] != cells[3].strip()]
    assert blank[:3] == ["10923035", "711", "761"]
    [row] = [row for row in both if row.id == "10923035"]
    [mention] = [span for span in spans((row,)) if span.start == 711]
    assert blank[3].startswith(mention.text)
    assert mention.text == row.inputs["text"][711:761].strip()


def test_ncbi_sub_types_and_ids_of_composites(data_root: Path) -> None:
    found = records(data_root, "ncbi_disease/original/NCBItrainset_corpus.txt", DataFormat.pubtator)
    types = Counter(entity["type"] for entity in entities(found))
    assert types == {"SpecificDisease": 2972, "Modifier": 1289, "DiseaseClass": 769, "CompositeMention": 115}
    assert [sum(sign in entity["ids"] for entity in entities(found)) for sign in "|+"] == [93, 22]


BIORED = {"Train": (13351, 4178), "Dev": (3533, 1162), "Test": (3535, 1163)}


def test_biored_mentions_and_ids(data_root: Path) -> None:
    for name, (num_mentions, num_relations) in BIORED.items():
        found = records(data_root, f"biored/pubtator/{name}.PubTator", DataFormat.pubtator)
        related = [relation for record in found for relation in cast(list[Any], record.fields["relations"])]
        assert (len(entities(found)), len(related)) == (num_mentions, num_relations)
    assert [sum(sign in entity["ids"] for entity in entities(found)) for sign in ",|"] == [85, 112]
    assert any(entity["ids"].startswith("p|SUB|V|1763|M") for entity in entities(found))


def test_biored_in_its_two_layouts_is_the_same(data_root: Path) -> None:
    pubtator = records(data_root, "biored/pubtator/Test.PubTator", DataFormat.pubtator)
    bioc = records(data_root, "biored/bioc/Test.BioC.JSON", DataFormat.bioc)

    def content(found: list[Record]) -> list[Any]:
        return [(r.fields["id"], r.fields["text"], cast(list[Any], r.fields["entities"])) for r in found]

    assert content(pubtator) == content(bioc)
    assert sum(len(cast(list[Any], record.fields["relations"])) for record in bioc) == 1163


def test_biored_abstracts_that_stand_in_other_corpora(data_root: Path) -> None:
    """Why a pool of one corpus is no pool for another: only a task's own test split is taken out of its pool."""
    ids = {
        name: {row.id for row in load(name, data_root).test} for name in ("bc5cdr_pubtator", "ncbi_disease_pubtator")
    }
    biored = load("biored_ner", data_root)
    train, test = ({row.id for row in rows} for rows in (biored.pool, biored.test))
    assert (len(train & ids["bc5cdr_pubtator"]), len(test & ids["bc5cdr_pubtator"])) == (53, 13)
    assert len(train & ids["ncbi_disease_pubtator"]) == 1
