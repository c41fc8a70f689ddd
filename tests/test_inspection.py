"""A dataset looked at before a model sees it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bioquant import answering, datasets, metrics, run
from bioquant.cli import main
from bioquant.config import DataFormat, LabelConfig, RunConfig, SplitConfig
from bioquant.inspection import inspect
from test_compose import composed


def config_of(data_root: Path, *overrides: str) -> RunConfig:
    return composed("model=tiny_random", f"data.root={data_root}", *overrides)


def test_a_demo_task_in_full() -> None:
    found = inspect(composed("model=tiny_random", "task=demo_ner"))
    assert (found.num_test, found.num_pool, found.num_shared, found.num_duplicates) == (41, 12, 0, (0, 0))
    assert {label: test for label, (test, _) in found.labels.items()} == {"Chemical": 47, "Disease": 42, "(none)": 6}
    [(prompt, gold), _] = found.shown
    assert prompt.endswith("\nAnswer:")
    assert gold
    assert found.lengths.num_prompts == 41
    assert found.lengths.shortest <= found.lengths.median <= found.lengths.p95 <= found.lengths.longest


def test_what_would_be_shortened_is_counted_in_the_models_tokens() -> None:
    found = inspect(composed("model=tiny_random", "prompt=five_shot", "model.context_length=1000")).lengths
    assert found.room == 1000 - 8
    assert (found.num_shortened, found.num_prompts, found.unfit) == (36, 36, ())
    assert found.shortest > found.room


def test_what_no_shortening_makes_fit_is_named_apart(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("task=demo_qa", "model=tiny_random", "prompt=five_shot", "model.context_length=475")
    config = composed(*overrides)
    model = run.load(config).model
    cell = run.fit(run.prepare(config, run.read(config)), model)
    refused = [example.id for example in cell.examples if len(model.encode(example.messages)) > answering.room(config)]
    found = inspect(config).lengths
    assert (found.num_shortened, found.unfit) == (36 - len(refused), tuple(refused))
    assert len(refused) == 18
    assert main(["tasks", "check", "demo_qa", *overrides[1:]]) == 0
    assert (
        "Room for 467: 18 of 36 would be shortened; 18 cannot be made to fit, and a run refuses them"
        f" ({', '.join(refused[:3])} …).\n"
    ) in capsys.readouterr().out


def test_what_is_shown_and_counted_is_what_a_run_asks() -> None:
    config = composed("model=tiny_random", "prompt=five_shot", "model.context_length=1000", "limit=5")
    cell = run.fit(run.prepare(config, run.read(config)), run.load(config).model)
    found = inspect(config)
    assert [prompt for prompt, _ in found.shown] == [example.messages[-1].content for example in cell.examples[:2]]
    assert found.lengths.num_shortened == sum(example.truncated for example in cell.examples) == 5


def test_a_pool_row_with_the_id_of_any_test_row_is_left_out_as_in_a_run(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"test {n}", "label": "x"} for n in range(5)]
    pool = [{"id": name, "text": f"pool {name}", "label": "y"} for name in ("4", "7")]
    for name, lines in (("test", rows), ("pool", pool)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    test, train = (SplitConfig(format=DataFormat.jsonl, paths=[f"{name}.jsonl"]) for name in ("test", "pool"))
    config = composed("model=tiny_random", "task=demo_re", "prompt=one_shot", f"data.root={tmp_path}")
    labels = [LabelConfig(name="x"), LabelConfig(name="y")]
    config = replace(config, task=replace(config.task, test=test, pool=train, labels=labels))
    found = inspect(config)
    assert (found.num_pool, found.num_shared) == (1, 1)
    assert found.labels == {"x": (5, 0), "y": (0, 1)}
    assert all("pool 7" in prompt and "pool 4" not in prompt for prompt, _ in found.shown)


def test_pubmedqa_has_its_published_counts(data_root: Path) -> None:
    found = inspect(config_of(data_root, "task=pubmedqa"))
    assert found.labels == {"yes": (276, 276), "no": (169, 169), "maybe": (55, 55)}
    assert found.lengths.num_prompts == 500


def test_pool_rows_that_are_test_rows_are_counted(data_root: Path) -> None:
    found = inspect(config_of(data_root, "task=ddi2013", "limit=10"))
    assert found.num_shared > 0
    assert found.num_test == 5761
    assert found.num_duplicates[0] == 61


def test_check_prints_prompts_with_gold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "check", "demo_qa", "model=tiny_random"]) == 0
    out = capsys.readouterr().out
    assert "--- prompt 2 ---" in out
    assert "gold: maybe" in out
    assert main(["tasks", "check", "demo_qa", "model=tiny_random", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_test"] == 36


def test_check_of_an_unknown_task_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "check", "demo_qq"]) == 2
    assert capsys.readouterr().err.startswith("error: task 'demo_qq' is not known; did you mean 'demo_qa'?")


def test_check_takes_a_users_own_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "conf" / "task"
    folder.mkdir(parents=True)
    lines = '{"text": "a", "label": "x"}\n{"text": "A ", "label": "y"}\n'
    (tmp_path / "mine.jsonl").write_text(lines, encoding="utf-8")
    (folder / "mine.yaml").write_text(
        "name: mine\nkind: re\ndescription: d\nlicence: l\nget: g\ninstruction: i\nmax_new_tokens: 4\n"
        "test: {format: jsonl, paths: [mine.jsonl]}\nlabels: [{name: x}, {name: y}]\n",
        encoding="utf-8",
    )
    command = ["tasks", "check", "mine", "model=tiny_random", f"data.root={tmp_path}", "--json"]
    assert main([*command, "--config-dir", str(tmp_path / "conf")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == {"x": [1, 0], "y": [1, 0]}
    assert found["num_duplicates"] == [1, 0]


def test_a_part_of_a_file_can_be_the_pool_of_the_rest(data_root: Path) -> None:
    config = config_of(data_root, "task=litcovid_held_out")
    dataset = datasets.load(config.task, data_root)
    whole = datasets.load(config_of(data_root, "task=litcovid").task, data_root)
    assert (len(dataset.test), len(dataset.pool)) == (2450, 50)
    assert [row.id for row in (*dataset.pool, *dataset.test)] == [row.id for row in whole.test]


def test_the_mean_of_subjects_is_the_mean_of_their_accuracies(data_root: Path) -> None:
    rows = datasets.load(config_of(data_root, "task=mmlu_medical").task, data_root).test
    assert len({row.group for row in rows}) == 6
    targets, answers = [str(row.target) for row in rows], ["B"] * len(rows)
    score = metrics.group_mean_accuracy(targets, answers, [row.group for row in rows], resamples=500)
    by_subject: dict[str, list[bool]] = {}
    for row in rows:
        by_subject.setdefault(row.group, []).append(row.target == "B")
    expected = sum(sum(right) / len(right) for right in by_subject.values()) / 6
    assert score.value == pytest.approx(expected)
    assert score.ci_low < score.value < score.ci_high
    assert score.value != pytest.approx(sum(target == "B" for target in targets) / len(targets), abs=1e-6)


def test_intervals_of_a_document_level_task_are_over_documents(data_root: Path) -> None:
    rows = datasets.load(config_of(data_root, "task=biored_re").task, data_root).test
    assert len({row.unit for row in rows}) == 100
    targets, answers = [str(row.target) for row in rows], ["Association"] * len(rows)
    labels = list(rows[0].choices)
    widths = []
    for units in ([row.id for row in rows], [row.unit for row in rows]):
        scores = metrics.label_scores(targets, answers, labels, resamples=500, units=units)
        [accuracy] = [score for score in scores if score.name == "accuracy"]
        widths.append(accuracy.ci_high - accuracy.ci_low)
    assert widths[1] > 1.2 * widths[0]
