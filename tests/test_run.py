"""The main path with a real, tiny model: stage by stage, and every mistake a run can meet, word for word."""

import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from bioquant import prompts, run
from bioquant.cli import main
from bioquant.config import RunConfig
from bioquant.engine.batching import sha256
from bioquant.records import RunResult
from test_compose import composed

QUICK = ("model=tiny_random", "limit=4", "measure.latency_examples=2", "measure.bootstrap_resamples=100")


def finished(folder: Path, *overrides: str) -> tuple[RunConfig, RunResult]:
    config = composed(*QUICK, *overrides)
    return config, run.run_cell(run.prepare(config, run.read(config)), folder, run.load(config))


@pytest.mark.parametrize("task", ["demo_qa", "demo_ner", "demo_re", "demo_mlc"])
def test_a_cell_of_each_kind_gives_figures_and_files(tmp_path: Path, task: str) -> None:
    _, result = finished(tmp_path, f"task={task}", "engine.max_new_tokens=8")
    assert result.num_examples == 4
    assert result.headline == result.scores[0].name
    assert result.footprint.weights_mib == result.quantization.bytes_after / 2**20
    assert result.footprint.examples_per_s
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["invalid"].mean() == result.invalid_rate
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["example_id"] for line in lines] == table["example_id"].tolist()
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.yaml",
        "environment.json",
        "labels.json",
        "scores.json",
    }


@pytest.mark.parametrize("task", ["demo_qa", "demo_re"])
def test_choices_can_be_scored_by_their_likelihood(tmp_path: Path, task: str) -> None:
    config, result = finished(tmp_path, f"task={task}", "engine.scoring=loglikelihood")
    assert result.invalid_rate == 0
    for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        prediction = json.loads(line)
        best = max(range(len(prediction["choice_logprobs"])), key=prediction["choice_logprobs"].__getitem__)
        assert prediction["answer"] == [label.name for label in config.task.labels][best]
        assert prediction["num_output_tokens"] == 0


def test_self_consistency_keeps_every_sample_and_counts_their_tokens(tmp_path: Path) -> None:
    overrides = ("prompt=self_consistency", "prompt.num_samples=3", "prompt.reasoning_tokens=4", "limit=2")
    finished(tmp_path / "a", *overrides)
    finished(tmp_path / "b", *overrides)
    lines = (tmp_path / "a" / "predictions.jsonl").read_bytes()
    assert lines == (tmp_path / "b" / "predictions.jsonl").read_bytes()
    for line in lines.splitlines():
        prediction = json.loads(line)
        assert len(prediction["outputs"]) == 3
        assert 3 <= prediction["num_output_tokens"] <= 3 * 12


def test_a_prompt_that_is_too_long_is_shortened_and_counted(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", "prompt=five_shot")[1]
    short = finished(tmp_path / "short", "prompt=five_shot", "model.context_length=1000")[1]
    zero = finished(tmp_path / "zero")[1]
    assert (whole.truncated_input_rate, short.truncated_input_rate, zero.truncated_input_rate) == (0, 1, 0)
    tokens = [
        pd.read_parquet(tmp_path / name / "predictions.parquet")["num_prompt_tokens"]
        for name in ("zero", "short", "whole")
    ]
    assert (tokens[0] <= tokens[1]).all()
    assert (tokens[1] <= 1000 - 8).all()
    assert (tokens[2] > 1000 - 8).all()


def test_the_input_ids_are_the_same_for_every_quant(tmp_path: Path) -> None:
    config, result = finished(tmp_path / "none", "prompt=one_shot")
    assert finished(tmp_path / "nf4", "prompt=one_shot", "quant=bnb_nf4")[1].input_ids_sha256 == result.input_ids_sha256
    model = run.load(config).model
    example = run.prepare(config, run.read(config)).examples[0]
    first = json.loads((tmp_path / "none" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["input_ids_sha256"] == sha256(model.encode(example.messages))


def test_shortening_drops_shots_first_then_sentences_from_the_end() -> None:
    config = composed("prompt.num_shots=2")
    example = run.prepare(config, run.read(config)).examples[0]
    context = example.row.inputs["context"]
    example = replace(
        example, row=replace(example.row, inputs={**example.row.inputs, "context": "One. Two! Three? Four"})
    )
    forms = [prompts.cut(example, place, config.task, config.prompt) for place in prompts.places(example)]
    assert [len(form.shots) for form in forms] == [1, 0, 0, 0, 0]
    assert [form.messages[-1].content.count("Context:") for form in forms] == [2, 1, 1, 1, 1]
    assert [text in forms[2].messages[-1].content for text in ("Three?", "Four", context)] == [True, False, False]
    assert "Context: One.\nQuestion:" in forms[-1].messages[-1].content
    assert all(form.truncated and form.row == example.row for form in forms)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    monkeypatch.delenv("BIOQUANT_DATA", raising=False)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What a wrong command says, which must be one line and exit code 2."""
    assert main(["run", "model=tiny_random", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def test_a_missing_data_folder_says_what_to_set_and_where_to_get_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = asked(capsys, "task=ddi2013", f"data.root={project}/none")
    assert "task 'ddi2013'" in message
    assert f"{project}/none" in message
    assert "data.root" in message
    assert "BIOQUANT_DATA" in message
    assert "github.com" in message


def test_a_truncated_data_file_names_file_and_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project / "ddi2013" / "bids"
    folder.mkdir(parents=True)
    (folder / "test.tsv").write_text(
        "index\tsentence\tlabel\r\na\t@DRUG$ and @DRUG$\tDDI-false\r\nb\t@DR", encoding="utf-8"
    )
    (folder / "dev.tsv").write_text("index\tsentence\tlabel\r\n", encoding="utf-8")
    message = asked(capsys, "task=ddi2013", f"data.root={project}")
    assert message.startswith(f"{folder}/test.tsv, line 3: 2 columns, expected 3 (index, sentence, label)")


def test_a_truncated_gzip_names_the_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project / "ddi2013" / "bids"
    folder.mkdir(parents=True)
    whole = gzip.compress(b"index\tsentence\tlabel\r\na\t@DRUG$ and @DRUG$\tDDI-false\r\n" * 50)
    (folder / "test.tsv.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "dev.tsv.gz").write_bytes(whole)
    assert f"{folder}/test.tsv.gz" in asked(capsys, "task=ddi2013", f"data.root={project}")


def test_an_unreachable_tracking_server_is_told_in_seconds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert asked(capsys, "tracking.uri=http://127.0.0.1:9") == (
        "tracking store 'http://127.0.0.1:9' cannot be used: no server answers there. "
        "Start a server (bioquant ui), or set tracking.uri or MLFLOW_TRACKING_URI."
    )
    assert time.monotonic() - start < 20


def test_an_absent_checkpoint(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = asked(capsys, "model=qwen2_5_0_5b", "model.id=nobody/nothing")
    assert message.startswith("model 'qwen2_5_0_5b': checkpoint 'nobody/nothing'")
    [failed] = runs(project)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error.kind"] == "model"
    assert failed.data.tags["error.message"] == message


def test_a_recipe_the_device_cannot_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = asked(capsys, "quant=bnb_nf4", "quant.requires.devices=[cuda]", "engine.device=cpu")
    assert message == (
        "quant 'bnb_nf4' does not run on cpu (quant.requires.devices: cuda): "
        "choose another recipe or another engine.device."
    )


def test_more_shots_than_the_pool_holds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = asked(capsys, "prompt=five_shot", "prompt.num_shots=50")
    assert message == (
        "prompt.num_shots=50 but the few-shot pool of task 'demo_qa' holds only 12 examples: "
        "lower prompt.num_shots or choose another task"
    )


def test_a_finished_run_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *QUICK, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    [logged] = runs(project)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["quality"] == row["quality"]
    assert logged.data.tags["input_ids_sha256"] == row["input_ids_sha256"]
    assert logged.info.run_name == "tiny_random · none · demo_qa · zero_shot"


def runs(root: Path) -> list[object]:
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))
