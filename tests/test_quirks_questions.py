"""What the real files of questions hold, measured: each test is a mistake that a plain reader makes on them."""

import ast
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bioquant import datasets
from bioquant.config import DataFormat, SplitConfig
from bioquant.records import Record, Row
from bioquant.tasks.fields import normalised
from test_quirks import SUBJECTS, labels, load, records, task

ORIGINAL = "pubmedqa/original/ori_pqal.json"


def gold(row: Row) -> str:
    """The text of the right option."""
    return row.options[row.choices.index(cast(str, row.target))]


def num_repeated(texts: list[str]) -> int:
    return len(texts) - len(set(texts))


# ---- PubMedQA


def test_pubmedqa_halves_have_the_same_answers(data_root: Path) -> None:
    dataset = load("pubmedqa", data_root)
    for half in (dataset.test, dataset.pool):
        assert labels(half) == {"yes": 276, "no": 169, "maybe": 55}
    assert not {row.id for row in dataset.test} & {row.id for row in dataset.pool}
    assert num_repeated([normalised(row.inputs["question"]) for row in (*dataset.test, *dataset.pool)]) == 0


def test_pubmedqa_never_shows_the_conclusion(data_root: Path) -> None:
    found = {record.fields["id"]: record.fields for record in records(data_root, ORIGINAL, DataFormat.json)}
    for row in load("pubmedqa", data_root).test:
        fields = found[row.id]
        assert row.inputs.keys() == {"question", "context"}
        assert cast(str, fields["LONG_ANSWER"]) not in row.inputs["context"]
        assert row.inputs["context"] == "\n".join(part.strip() for part in cast(list[str], fields["CONTEXTS"]))


def test_pubmedqa_annotators_predictions_are_not_gold(data_root: Path) -> None:
    found = {record.fields["id"]: record.fields for record in records(data_root, ORIGINAL, DataFormat.json)}
    rows = load("pubmedqa", data_root).test
    wrong = {
        column: sum(found[row.id][column] != row.target for row in rows)
        for column in ("final_decision", "reasoning_free_pred", "reasoning_required_pred")
    }
    assert wrong == {"final_decision": 0, "reasoning_free_pred": 48, "reasoning_required_pred": 110}


def test_pubmedqa_has_one_to_nine_sections_and_years_that_are_null(data_root: Path) -> None:
    found = records(data_root, ORIGINAL, DataFormat.json)
    sections = Counter(len(cast(list[str], record.fields["CONTEXTS"])) for record in found)
    assert (min(sections), max(sections), sections[3]) == (1, 9, 720)
    assert sum(record.fields["YEAR"] is None for record in found) == 58
    rows = (*load("pubmedqa", data_root).test, *load("pubmedqa", data_root).pool)
    assert max(len(row.inputs["context"].split()) for row in rows) == 398


def test_pubmedqa_in_its_two_layouts_is_the_same(data_root: Path) -> None:
    table = records(data_root, "pubmedqa/bids/test.tsv", DataFormat.tsv, quoted=True)
    answers = {cast(str, record.fields["pmid"]): record.fields["final_decision"] for record in table}
    test = load("pubmedqa", data_root).test
    assert answers == {row.id: row.target for row in test}
    contexts = {record.fields["pmid"]: ast.literal_eval(str(record.fields["CONTEXTS"])) for record in table}
    same = sum("\n".join(part.strip() for part in contexts[row.id]) == row.inputs["context"] for row in test)
    assert same == 500


def test_python_literals_of_a_table_are_read_as_lists(data_root: Path) -> None:
    """The table in place of the JSON: one more YAML, the same rows."""
    table = SplitConfig(format=DataFormat.tsv, paths=["pubmedqa/bids/test.tsv"], quoted=True)
    mine = replace(task("pubmedqa"), test=table, pool=None, fields={**task("pubmedqa").fields, "id": "pmid"})
    rows = {row.id: row for row in datasets.load(mine, data_root).test}
    assert {row.id: (row.inputs, row.target) for row in load("pubmedqa", data_root).test} == {
        name: (row.inputs, row.target) for name, row in rows.items()
    }
    for column in ("LABELS", "MESHES"):
        for record in records(data_root, "pubmedqa/bids/test.tsv", DataFormat.tsv, quoted=True):
            assert isinstance(ast.literal_eval(cast(str, record.fields[column])), list)


# ---- MedQA


def test_medqa_has_the_same_questions_and_gold_texts_with_four_and_five_options(data_root: Path) -> None:
    five, four = load("medqa", data_root).test, load("medqa_4opt", data_root).test
    assert labels(five) == {"A": 273, "B": 277, "C": 252, "D": 269, "E": 202}
    assert labels(four) == {"A": 353, "B": 309, "C": 346, "D": 265}
    assert [gold(row) for row in five] == [gold(row) for row in four]
    assert [normalised(row.inputs["question"]) for row in five] == [normalised(row.inputs["question"]) for row in four]
    assert any(one.target != other.target for one, other in zip(five, four, strict=True))


def test_medqa_questions_are_whole_and_their_options_distinct(data_root: Path) -> None:
    dataset = load("medqa", data_root)
    for rows, num_options in ((dataset.test, 5), (load("medqa_4opt", data_root).test, 4)):
        assert max(len(row.inputs["question"].split()) for row in rows) == 526
        assert {len(set(row.options)) for row in rows} == {num_options}
    assert (len(dataset.pool), dataset.num_shared) == (300, 0)


def test_medqa_letters_and_texts_of_the_answer_agree(data_root: Path) -> None:
    found = records(data_root, "medqa/orig_4opt/test.jsonl", DataFormat.jsonl)
    assert Counter(record.fields["meta_info"] for record in found) == {"step1": 679, "step2&3": 594}
    rows = load("medqa_4opt", data_root).test
    assert [cast(str, record.fields["answer"]).strip() for record in found] == [gold(row) for row in rows]


def test_medqa_in_a_third_layout_is_the_same(data_root: Path) -> None:
    """`choices` as a list, the answer as a list of one letter: another YAML's fields, the same rows."""
    lines = SplitConfig(format=DataFormat.jsonl, paths=["medqa/aist_4opt/medqa_en_4op.first300.jsonl"])
    fields = {"question": "problem_text", "options": "choices", "answer": "answer"}
    found = datasets.load(replace(task("medqa_4opt"), test=lines, fields=fields, hub=None), data_root).test
    assert len(found) == 300
    for one, other in zip(found, load("medqa_4opt", data_root).test, strict=False):
        assert (one.inputs, one.options, one.target) == (other.inputs, other.options, other.target)


# ---- MedMCQA


def test_medmcqa_answers_are_letters_since_options_repeat(data_root: Path) -> None:
    rows = load("medmcqa", data_root).test
    assert labels(rows) == {"A": 1348, "B": 1085, "C": 925, "D": 825}
    assert sum(len(set(row.options)) < 4 for row in rows) == 21
    assert sum("\t" in row.inputs["question"] for row in rows) == 14
    assert sum("\n" in row.inputs["question"] for row in rows) == 124
    assert not any("#" in row.id for row in rows)


def test_medmcqa_repeats_questions_once_with_another_answer(data_root: Path) -> None:
    """Kept as published: such rows are counted by `tasks check`, and told apart by their ids."""
    by_question: dict[str, list[Row]] = {}
    for row in load("medmcqa", data_root).test:
        by_question.setdefault(normalised(row.inputs["question"]), []).append(row)
    twice = [rows for rows in by_question.values() if len(rows) > 1]
    assert (len(twice), max(map(len, twice))) == (20, 2)
    same = [(a, b) for a, b in twice if sorted(map(normalised, a.options)) == sorted(map(normalised, b.options))]
    [contradiction] = [(a, b) for a, b in same if normalised(gold(a)) != normalised(gold(b))]
    assert contradiction[0].options == contradiction[1].options


def test_medmcqa_words_without_rt_stay_as_published(data_root: Path) -> None:
    texts = [text for row in load("medmcqa", data_root).test for text in (row.inputs["question"], *row.options)]
    assert sum(len(re.findall(r"\baery\b", text, re.IGNORECASE)) for text in texts) == 54


# ---- MMLU


def test_mmlu_cells_are_text(data_root: Path) -> None:
    subjects = {name: load(name, data_root).test for name in SUBJECTS}
    assert sum(len(rows) for rows in subjects.values()) == 1089
    options = [option for rows in subjects.values() for row in rows for option in row.options]
    assert all(isinstance(option, str) and option for option in options)
    assert sum(option.replace(".", "").isdigit() for option in options) == 53
    assert labels(subjects["mmlu_professional_medicine"])["D"] == 122
    assert sum("\n" in row.inputs["question"] for rows in subjects.values() for row in rows) == 17


def test_mmlu_subjects_repeat_a_question_each_and_overlap_with_no_split_of_their_own(data_root: Path) -> None:
    repeated: dict[str, int] = {}
    for name in SUBJECTS:
        dataset = load(name, data_root)
        questions = [" ".join(row.inputs["question"].casefold().split()) for row in dataset.test]
        repeated[name] = num_repeated(questions)
        columns = ["question", "A", "B", "C", "D", "answer"]
        path = f"mmlu_medical/val/{name.removeprefix('mmlu_')}_val.csv"
        val = records(data_root, path, DataFormat.csv, columns=columns)
        assert not {" ".join(str(record.fields["question"]).casefold().split()) for record in val} & set(questions)
        assert (len(dataset.pool), dataset.num_shared) == (5, 0)
    assert {name: number for name, number in repeated.items() if number} == {
        "mmlu_clinical_knowledge": 1,
        "mmlu_college_medicine": 1,
    }


def test_mmlu_subjects_overlap_with_each_other(data_root: Path) -> None:
    """Five dev questions of one subject are test questions of another: no pool rows of the six together."""
    dataset = load("mmlu_medical", data_root)
    assert (len(dataset.pool), dataset.num_shared) == (25, 5)
    by_text: dict[str, list[Row]] = {}
    for row in dataset.test:
        by_text.setdefault(datasets.asked(row), []).append(row)
    twice = [rows for rows in by_text.values() if len(rows) > 1]
    assert sum(len(rows) - 1 for rows in twice) == 78
    assert all(len({gold(row) for row in rows}) == 1 for rows in twice)
    assert {row.group for rows in twice for row in rows} == {"clinical_knowledge_test", "college_medicine_test"}


# ---- BioASQ


def test_bioasq_question_and_context_are_told_apart(data_root: Path) -> None:
    dataset = load("bioasq_yesno", data_root)
    assert labels(dataset.test) == {"yes": 94, "no": 46}
    assert labels(dataset.pool) == {"yes": 552, "no": 118}
    assert max(len(row.inputs["context"].split()) for row in dataset.pool) == 2679


def test_bioasq_repeats_questions_and_none_of_its_test_is_in_its_pool(data_root: Path) -> None:
    dataset = load("bioasq_yesno", data_root)
    dev = records(data_root, "bioasq_yesno/blurb_t5/dev_blurb.tsv", DataFormat.last_tab)
    assert Counter(record.fields["label"] for record in dev) == {"yes": 62, "no": 13}
    test, pool = ([normalised(row.inputs["question"]) for row in rows] for rows in (dataset.test, dataset.pool))
    assert (num_repeated(test), num_repeated(pool)) == (1, 8)
    assert len({normalised(cast(str, record.fields["question"])) for record in dev} & set(pool)) == 1
    assert not set(test) & set(pool)


def golden(root: Path, **only: str) -> list[Record]:
    return records(root, "bioasq_yesno/golden/*_golden.json", DataFormat.json, only=only)


def test_bioasq_golden_files_mix_four_types(data_root: Path) -> None:
    assert Counter(
        (record.fields["type"], type(record.fields.get("exact_answer")).__name__) for record in golden(data_root)
    ) == {("yesno", "str"): 102, ("factoid", "list"): 145, ("list", "list"): 64, ("summary", "NoneType"): 89}
    assert all(isinstance(record.fields["ideal_answer"], list) for record in golden(data_root))


def test_bioasq_golden_questions_are_in_train_and_dev_never_in_test(data_root: Path) -> None:
    asked = [normalised(cast(str, record.fields["body"])) for record in golden(data_root, type="yesno")]
    found: list[int] = []
    for split in ("train", "dev", "test"):
        lines = records(data_root, f"bioasq_yesno/blurb_t5/{split}_blurb.tsv", DataFormat.last_tab)
        known = {normalised(cast(str, record.fields["question"])) for record in lines}
        found.append(sum(question in known for question in asked))
    assert found == [88, 14, 0]


def test_bioasq_golden_yes_no_questions_can_be_a_pool(data_root: Path) -> None:
    files = SplitConfig(format=DataFormat.json, paths=["bioasq_yesno/golden/*_golden.json"], only={"type": "yesno"})
    fields = {"question": "body", "answer": "exact_answer"}
    rows = datasets.load(replace(task("bioasq_yesno"), test=files, pool=None, fields=fields), data_root).test
    assert labels(rows) == {"yes": 59, "no": 43}


@pytest.mark.parametrize("cell", ["[__import__('os').getcwd()]", "[1, 2", "{'A': open('x')}"])
def test_a_cell_that_is_code_is_never_run(tmp_path: Path, cell: str) -> None:
    (tmp_path / "mine.tsv").write_text(f"question\tcontext\tanswer\nq\t{cell}\tyes\n", encoding="utf-8")
    split = SplitConfig(format=DataFormat.tsv, paths=["mine.tsv"])
    fields = {"question": "question", "context": "context", "answer": "answer"}
    [row] = datasets.load(replace(task("pubmedqa"), test=split, pool=None, fields=fields), tmp_path).test
    assert row.inputs["context"] == cell
