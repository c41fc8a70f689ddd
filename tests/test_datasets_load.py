import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bioquant.compose import load_option
from bioquant.config import DataFormat, HubConfig, LabelConfig, SplitConfig, TaskConfig, TaskKind, conf_dir
from bioquant.datasets import files, load, sample
from bioquant.errors import ConfigError, DataError
from bioquant.records import Row, Span


def task(kind: TaskKind, file_format: DataFormat, *paths: str, **settings: Any) -> TaskConfig:
    labels = [LabelConfig(name=name) for name in settings.pop("labels", ["yes", "no"])]
    split = SplitConfig(format=file_format, paths=list(paths), **settings.pop("split", {}))
    described = {"name": "mine", "description": "d", "licence": "l", "get": "example.org", "instruction": "i"}
    return TaskConfig(kind=kind, test=split, labels=labels, max_new_tokens=8, **described, **settings)


def write_lines(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


RELATIONS = task(TaskKind.re, DataFormat.jsonl, "test.jsonl")
PAIR = SplitConfig(format=DataFormat.jsonl, paths=["pool.jsonl"])


def test_rows_of_test_and_pool_and_their_identity(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", {"text": "a", "label": "yes"}, {"text": "b", "label": "no"})
    write_lines(tmp_path / "pool.jsonl", {"text": "c", "label": "no"})
    dataset = load(replace(RELATIONS, pool=PAIR), tmp_path)
    assert [(row.id, row.inputs["text"], row.target) for row in dataset.test] == [
        ("test-1", "a", "yes"),
        ("test-2", "b", "no"),
    ]
    assert [row.id for row in dataset.pool] == ["pool-1"]
    assert (dataset.num_test, dataset.origin, len(dataset.digest)) == (2, "files", 64)


def test_the_digest_is_that_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    digests: list[str] = []
    for place, label in (("x", "yes"), ("y", "yes"), ("z", "no")):
        (tmp_path / place).mkdir()
        write_lines(tmp_path / place / "test.jsonl", {"text": "ä", "label": label})
        digests.append(load(RELATIONS, tmp_path / place).digest)
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_sees_an_option_and_a_spans_place(tmp_path: Path) -> None:
    quiz = task(TaskKind.qa, DataFormat.jsonl, "test.jsonl", labels=[])
    spans = task(TaskKind.ner, DataFormat.jsonl, "test.jsonl", labels=["X"])

    def digest(of: TaskConfig, **row: Any) -> str:
        write_lines(tmp_path / "test.jsonl", row)
        return load(of, tmp_path).digest

    def entity(start: int) -> dict[str, Any]:
        return {"start": start, "end": start + 1, "type": "X", "text": "a"}

    asked = {"question": "q", "answer": "A"}
    assert digest(quiz, **asked, options=["x", "y"]) != digest(quiz, **asked, options=["x", "z"])
    assert digest(spans, text="a a", entities=[entity(0)]) != digest(spans, text="a a", entities=[entity(2)])


def test_ids_that_repeat_become_unique(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", *({"id": 7, "text": text, "label": "yes"} for text in "abc"))
    assert [row.id for row in load(RELATIONS, tmp_path).test] == ["7", "7#2", "7#3"]


def test_pool_rows_that_stand_in_the_test_split_are_left_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", {"id": "1", "text": "The  same text.", "label": "yes"})
    write_lines(
        tmp_path / "pool.jsonl",
        {"id": "1", "text": "another", "label": "no"},
        {"id": "2", "text": "(the same – text ", "label": "no"},
    )
    assert [row.inputs["text"] for row in load(replace(RELATIONS, pool=PAIR), tmp_path).pool] == ["another"]


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(RELATIONS, tmp_path)
    assert str(error.value) == (
        f"task 'mine' needs test.jsonl (with or without .gz), and it is not in {tmp_path}: put it there, or set"
        " data.root=FOLDER or the variable BIOQUANT_DATA. Get it from: example.org"
    )


def test_a_missing_pool_says_how_to_go_without(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", {"text": "a", "label": "yes"})
    with pytest.raises(DataError) as error:
        load(replace(RELATIONS, pool=PAIR), tmp_path)
    assert str(error.value).startswith(
        "the few-shot pool (task.pool=null goes without) of task 'mine' needs pool.jsonl (with or without .gz), and"
    )


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl")
    with pytest.raises(DataError) as error:
        load(RELATIONS, tmp_path)
    assert str(error.value) == "task 'mine': the test split holds no records: correct task.test"


def test_ids_to_keep_and_to_drop_and_fields_to_filter_by(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"t{n}", "label": "yes", "type": "a" if n < 4 else "b"} for n in range(5)]
    write_lines(tmp_path / "all.jsonl", *rows)
    (tmp_path / "ids.json").write_text('{"1": "yes", "3": "no"}', encoding="utf-8")
    kept = SplitConfig(format=DataFormat.jsonl, paths=["all.jsonl"], keep_ids="ids.json")
    rest = SplitConfig(format=DataFormat.jsonl, paths=["all.jsonl"], drop_ids="ids.json", only={"type": "a"})
    dataset = load(replace(RELATIONS, test=kept, pool=rest), tmp_path)
    assert [row.id for row in dataset.test] == ["1", "3"]
    assert [row.id for row in dataset.pool] == ["0", "2"]


def test_an_id_to_keep_that_is_not_there_means_a_truncated_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "all.jsonl", {"id": "1", "text": "t", "label": "yes"})
    (tmp_path / "ids.json").write_text('["1", "3"]', encoding="utf-8")
    kept = SplitConfig(format=DataFormat.jsonl, paths=["all.jsonl"], keep_ids="ids.json")
    with pytest.raises(DataError) as error:
        load(replace(RELATIONS, test=kept), tmp_path)
    assert str(error.value) == (
        "task 'mine': 1 of the 2 ids in ids.json are not in all.jsonl (3 is one): the file looks truncated or changed:"
        " fetch it again"
    )


def test_labels_in_columns_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,heart,CNS\nx,1,0\ny,1,1\nz,0,0\n", encoding="utf-8")
    mine = task(TaskKind.mlc, DataFormat.csv, "t.csv", label_columns=True)
    mine.labels = [LabelConfig(name="heart"), LabelConfig(name="brain", value="CNS")]
    assert [row.target for row in load(mine, tmp_path).test] == [("heart",), ("heart", "brain"), ()]
    (tmp_path / "t.csv").write_text("text,heart,CNS\nx,1,maybe\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        load(mine, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/t.csv:2: the column 'CNS' holds 'maybe', expected 0 or 1: correct the file, or the label's value"
        " in task.labels"
    )


CONLL = "Lithium\tB-X\nhurts\tO\n"
PUBTATOR = "7|t|Lithium hurts\n7|a|.\n7\t0\t7\tLithium\tX\tD1\n"
BIOC: dict[str, Any] = {"id": "7", "passages": [{"offset": 0, "text": "Lithium hurts", "annotations": []}]}
BIOC["passages"][0]["annotations"] = [
    {"text": "Lithium", "infons": {"type": "X"}, "locations": [{"offset": 0, "length": 7}]}
]
ENTITY = {"start": 0, "end": 7, "type": "X", "text": "Lithium"}


@pytest.mark.parametrize(
    ("file_format", "content"),
    [
        (DataFormat.conll, CONLL),
        (DataFormat.pubtator, PUBTATOR),
        (DataFormat.bioc, json.dumps({"documents": [BIOC]})),
        (DataFormat.jsonl, json.dumps({"text": "Lithium hurts", "entities": [ENTITY]})),
        (DataFormat.json, json.dumps([{"text": "Lithium hurts", "entities": [ENTITY]}])),
    ],
)
def test_entities_of_ones_own_in_each_format(tmp_path: Path, file_format: DataFormat, content: str) -> None:
    (tmp_path / "mine").write_text(content, encoding="utf-8")
    (row,) = load(task(TaskKind.ner, file_format, "mine", labels=["X"]), tmp_path).test
    assert row.target == (Span(start=0, end=7, label="X", text="Lithium"),)


@pytest.mark.parametrize(
    ("file_format", "content"),
    [
        (DataFormat.jsonl, '{"text": "t", "labels": ["no", "yes"]}'),
        (DataFormat.json, '{"7": {"text": "t", "labels": ["no", "yes"]}}'),
        (DataFormat.tsv, "text\tlabels\nt\tno;yes\n"),
        (DataFormat.csv, 'text,labels\n"t","no;yes"\n'),
    ],
)
def test_labels_of_ones_own_in_each_format(tmp_path: Path, file_format: DataFormat, content: str) -> None:
    (tmp_path / "mine").write_text(content, encoding="utf-8")
    (row,) = load(task(TaskKind.mlc, file_format, "mine"), tmp_path).test
    assert (row.inputs["text"], row.target) == ("t", ("yes", "no"))


@pytest.mark.parametrize(
    ("file_format", "content", "fields"),
    [
        (DataFormat.jsonl, '{"question": "q", "options": {"A": "x", "B": "y"}, "answer": "B"}', {}),
        (DataFormat.csv, "question,opa,opb,answer\nq,x,y,1\n", {"options": "opa,opb"}),
        (DataFormat.tsv, "question\toptions\tanswer\nq\t['x', 'y']\ty\n", {}),
    ],
)
def test_questions_of_ones_own_in_each_format(
    tmp_path: Path, file_format: DataFormat, content: str, fields: dict[str, str]
) -> None:
    (tmp_path / "mine").write_text(content.replace("y,1", "y,B"), encoding="utf-8")
    (row,) = load(task(TaskKind.qa, file_format, "mine", labels=[], fields=fields), tmp_path).test
    assert (row.inputs["question"], row.options, row.target) == ("q", ("x", "y"), "B")


def test_the_hub_is_read_where_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    rows = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": ["yes", "no"]})
    rows.to_parquet(tmp_path / "hub" / "test-00000-of-00001.parquet")
    source = HubConfig(id=str(tmp_path / "hub"), test="test", fields={"text": "sentence"})
    mine = replace(RELATIONS, pool=PAIR, hub=source)
    dataset = load(mine, None)
    assert [(row.id, row.inputs["text"], row.target) for row in dataset.test] == [
        ("test-1", "a", "yes"),
        ("test-2", "b", "no"),
    ]
    assert (dataset.origin, dataset.pool) == ("hub", ())
    write_lines(tmp_path / "test.jsonl", {"text": "a", "label": "yes"})
    assert load(mine, tmp_path).origin == "hub"
    write_lines(tmp_path / "pool.jsonl", {"text": "b", "label": "yes"})
    assert load(mine, tmp_path).origin == "files"


def test_files_lists_what_a_task_reads(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.first10.jsonl")
    mine = replace(
        RELATIONS,
        test=SplitConfig(format=DataFormat.jsonl, paths=["test.jsonl"], keep_ids="ids.json"),
        pool=SplitConfig(format=DataFormat.jsonl, paths=["train.jsonl", "train.first10.jsonl"]),
    )
    assert files(mine, tmp_path) == [("test.jsonl", False), ("ids.json", False), ("train.first10.jsonl", True)]
    assert files(mine, None)[2] == ("train.jsonl", False)


ROWS = tuple(Row(id=str(number), inputs={"text": "t"}, target="yes") for number in range(100))


def test_a_sample_keeps_the_order_and_repeats_for_its_seed() -> None:
    drawn = sample(ROWS, 10, seed=1)
    assert len({row.id for row in drawn}) == 10
    assert [int(row.id) for row in drawn] == sorted(int(row.id) for row in drawn)
    assert drawn == sample(ROWS, 10, seed=1) != sample(ROWS, 10, seed=2)
    assert [row.id for row in drawn] == ["8", "15", "17", "32", "57", "60", "63", "72", "83", "97"]


def test_a_sample_is_all_rows_without_a_limit_or_with_a_larger_one() -> None:
    assert sample(ROWS, None, seed=1) == ROWS
    assert sample(ROWS, 1000, seed=1) == ROWS


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ConfigError) as error:
        sample(ROWS, limit, seed=1)
    assert str(error.value) == (
        f"limit={limit} is not allowed: give a whole number of at least 1, or leave it out for all 100 examples."
    )


CHOICES = ["w", "x", "y", "z"]
HUB_LAYOUTS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    # the task's YAML: the file it reads, its lines, and the same two questions in the columns of the Hub's dataset
    "mmlu_anatomy": (
        "mmlu_medical/test/anatomy_test.csv",
        ["q,w,x,y,z,B", "r,w,x,y,z,D"],
        {"question": ["q", "r"], "subject": ["anatomy"] * 2, "choices": [CHOICES] * 2, "answer": [1, 3]},
    ),
    "medqa_4opt": (
        "medqa/orig_4opt/test.jsonl",
        [
            json.dumps(
                {"question": q, "answer": text, "options": dict(zip("ABCD", CHOICES, strict=True)), "answer_idx": a}
            )
            for q, text, a in (("q", "x", "B"), ("r", "z", "D"))
        ],
        {"question": ["q", "r"], "options": [dict(zip("ABCD", CHOICES, strict=True))] * 2, "answer_idx": ["B", "D"]},
    ),
    "medmcqa": (
        "medmcqa/aist/medmcqa.jsonl",
        [
            json.dumps({"problem_id": i, "problem_text": q, "choices": CHOICES, "answer": [a]})
            for i, q, a in (("1", "q", "b"), ("2", "r", "d"))
        ],
        {
            "id": ["1", "2"],
            "question": ["q", "r"],
            "opa": ["w"] * 2,
            "opb": ["x"] * 2,
            "opc": ["y"] * 2,
            "opd": ["z"] * 2,
        }
        | {"cop": [1, 3]},
    ),
}


@pytest.mark.parametrize("name", HUB_LAYOUTS)
def test_a_task_is_the_same_from_files_and_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path, lines, columns = HUB_LAYOUTS[name]
    mine = load_option(conf_dir() / "task" / f"{name}.yaml", TaskConfig)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("\n".join(lines), encoding="utf-8")
    hub = tmp_path / "hub"
    hub.mkdir()
    rows = datasets.Dataset.from_dict(columns)
    if name == "mmlu_anatomy":
        rows = rows.cast_column("answer", datasets.ClassLabel(names=list("ABCD")))
    split = mine.hub.test
    rows.to_parquet(hub / f"{split}-0.parquet")
    (hub / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {mine.hub.config or 'default'}\n  data_files:\n"
        f"  - split: {split}\n    path: {split}-0.parquet\n---\n"
    )
    source = replace(mine.hub, id=str(hub), pool=None)
    from_files, from_hub = load(replace(mine, pool=None), tmp_path), load(replace(mine, pool=None, hub=source), None)
    assert (from_files.origin, from_hub.origin) == ("files", "hub")
    assert [row.target for row in from_hub.test] == ["B", "D"]
    assert from_files.digest == from_hub.digest
