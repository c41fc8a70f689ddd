"""`bioquant plan`: what cells would take, and how it is shown."""

import json
from pathlib import Path

import pytest
import torch

from bioquant import compose, forecast, memory, models
from bioquant.capacity import GIB
from bioquant.cli import main
from bioquant.config import Device, ModelConfig, PolicyConfig, RunConfig
from bioquant.costs import Logged
from bioquant.engine.batching import row_width
from bioquant.errors import ModelError, QuantError
from bioquant.forecast import Forecast, Target, Verdict
from bioquant.lengths import Reader
from bioquant.measure import available
from bioquant.verbs.plan import duration
from conftest import Command
from test_compose import composed

CARD = Target(Device.cuda, 40 * GIB, "a 40 GiB card")


def plan(*overrides: str, aim: Target = CARD) -> Forecast:
    return forecast.forecast(compose.compose_all(overrides), aim, {})


def test_verdicts_leave_room_for_the_predictions_error() -> None:
    sizes = [int(share * 40 * GIB) for share in (0.5, 0.95, 0.96, 1.0, 1.01)]
    assert [forecast.verdict(size, 40 * GIB) for size in sizes] == [
        Verdict.fits,
        Verdict.fits,
        Verdict.tight,
        Verdict.tight,
        Verdict.no,
    ]
    assert forecast.verdicts(30 * GIB) == {"16": "no", "24": "no", "40": "fits", "48": "fits", "80": "fits"}


def test_a_plan_is_for_the_policys_card_else_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forecast.target(PolicyConfig(gpu_memory_gib=40), Device.auto) == CARD
    monkeypatch.setattr(models, "resolve_device", lambda _: "cpu")
    monkeypatch.setattr(available, "total_bytes", lambda _: 8 * GIB)
    assert forecast.target(PolicyConfig(), Device.auto) == Target(Device.cpu, 8 * GIB, "this machine's memory, 8.0 GiB")
    monkeypatch.setattr(models, "resolve_device", lambda _: "cuda:0")
    assert forecast.target(PolicyConfig(), Device.auto).name == "this machine's GPU, 8.0 GiB"


def test_a_plan_for_gpus_says_how_to_plan_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QuantError) as caught:
        forecast.target(PolicyConfig(), Device.cuda)
    assert str(caught.value) == (
        "engine.device=cuda: torch sees no CUDA GPU here: set engine.device=cpu or auto. "
        "policy.gpu_memory_gib=40 plans for a card that is elsewhere."
    )


def test_a_cell_is_predicted_for_its_longest_prompt() -> None:
    config: RunConfig = composed("model=llama_3_1_8b", "quant=bnb_nf4", "task=demo_ner", "prompt=five_shot")
    lengths = Reader().lengths(config)
    [cell] = plan("model=llama_3_1_8b", "quant=bnb_nf4", "task=demo_ner", "prompt=five_shot").cells
    row = forecast.one_row(config, lengths)
    assert (row.rows, row.shared, row.prompt) == (1, lengths.shared, lengths.longest)
    assert row.width == row_width(lengths.longest + 48)
    assert cell.memory == memory.predict(config.model, config.quant, row, Device.cuda)
    assert cell.largest_batch == 128
    assert cell.cards == {"16": "fits", "24": "fits", "40": "fits", "48": "fits", "80": "fits"}


def test_the_claim_of_the_study_is_tight() -> None:
    """70B at 4 bits on 40 GB: with double quantization, barely."""
    found = plan("model=llama_3_3_70b", "quant=none,bnb_int8,bnb_nf4,bnb_nf4_dq", "task=demo_qa")
    assert {cell.quant: cell.cards["40"] for cell in found.cells} == {
        "none": "no",
        "bnb_int8": "no",
        "bnb_nf4": "no",
        "bnb_nf4_dq": "tight",
    }
    assert [cell.quant for cell in found.fitting] == ["bnb_nf4_dq"]


def test_totals_are_of_what_fits_each_model_downloaded_and_loaded_once() -> None:
    found = plan("model=llama_3_2_1b,llama_3_3_70b", "quant=none,bnb_nf4_dq", "task=demo_qa,demo_re")
    one, large = (next(cell for cell in found.cells if cell.model.endswith(end)) for end in ("1b", "70b"))
    assert len(found.fitting) == 6
    assert found.download == one.download + large.download
    assert found.results == sum(cell.results for cell in found.fitting)
    seconds = sum(cell.seconds or 0 for cell in found.fitting)
    assert found.seconds == pytest.approx(seconds + 2 * one.load_s + large.load_s)


def test_a_logged_run_goes_before_arithmetic() -> None:
    runs = {("transformers", "llama_3_2_1b", "none", "demo_qa"): Logged(2.0, 30.0)}
    found = forecast.forecast(compose.compose_all(["model=llama_3_2_1b", "quant=none,bnb_nf4"]), CARD, runs)
    baseline, candidate = found.cells
    assert (baseline.from_log, baseline.seconds, baseline.load_s) == (True, 18.0, 30.0)
    assert not candidate.from_log


def test_without_the_tasks_files_the_time_is_unknown(tmp_path: Path) -> None:
    found = plan("model=llama_3_2_1b", "task=pubmedqa,demo_qa", f"data.root={tmp_path}")
    assert [cell.seconds is None for cell in found.cells] == [True, False]
    assert found.seconds is None


def test_cells_that_cannot_run_are_left_out_once(data_root: Path) -> None:
    found = plan("model=llama_3_2_1b,qwen2_5_3b", "task=litcovid,demo_qa", "prompt=five_shot", f"data.root={data_root}")
    assert [cell.task for cell in found.cells] == ["demo_qa", "demo_qa"]
    [(what, why)] = found.left_out
    assert what == "litcovid · five_shot"
    assert why.startswith("prompt.num_shots=5 but task 'litcovid' has no few-shot pool")


@pytest.mark.parametrize("name", [name for name in compose.names("model") if name != "tiny_random"])
def test_every_model_of_the_zoo_can_be_planned_for_offline(name: str) -> None:
    [cell] = plan(f"model={name}", "quant=bnb_nf4_dq", "task=demo_qa").cells
    assert cell.memory.weights < 0.65 * memory.anatomy(compose.options("model", ModelConfig)[name]).unquantized
    assert cell.cards["80"] == Verdict.fits


def test_a_model_that_nothing_is_known_of_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    text = "name: mine\nsource: hub\nid: a/b\nrevision: main\ndtype: float32\ncontext_length: 100\nlicence: x\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    arguments = ["plan", "model=mine", "--config-dir", str(tmp_path), "policy.gpu_memory_gib=40"]
    assert main(arguments) == ModelError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: model 'mine': its memory cannot be predicted, since the model states no architecture and its "
        "config.json is not on this machine: give architecture.model_type and the sizes as that file has them.\n"
    )


# What is printed


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    return tmp_path


SWEEP = ["-m", "model=llama_3_1_8b,meditron_70b", "quant=none,bnb_nf4_dq", "task=demo_qa,demo_ner"]


def test_a_sweep_is_a_line_a_model_and_quant(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SWEEP, "policy.gpu_memory_gib=40"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "For a 40 GiB card."
    assert max(map(len, lines)) <= 80
    assert "demo_qa  zero_shot       36   65-85     113      8" in lines
    [weights] = [line for line in lines if line.startswith("  none") and "14.96" in line]
    assert weights.split()[:5] == ["none", "14.96", "128", "16.3", "128"]
    assert weights.split()[5:10] == ["-", "+", "+", "+", "+"]
    [too_large] = [line for line in lines if "128.48" in line]
    assert too_large.split()[4:] == ["0", "-", "-", "-", "-", "-", "-"]
    told = " ".join(out.split())
    assert "6 of 8 cells fit. One after another they take ~" in told
    assert "Disk: 154.0 GB of checkpoints to download, " in told
    assert "Not pinned to a commit by model.revision, so not repeatable once a branch moves: meditron_70b." in told
    assert list(project.iterdir()) == []


def test_json_holds_every_cell_in_bytes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SWEEP, "policy.gpu_memory_gib=40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cells"]) == 8
    first = found["cells"][0]
    assert (first["model"], first["quant"], first["task"]) == ("llama_3_1_8b", "none", "demo_qa")
    assert first["memory"]["kv_bytes_per_token"] == 131072
    assert first["cards"]["16"] == "no"
    assert found["target"] == {"device": "cuda", "size": 40 * GIB, "name": "a 40 GiB card"}
    sizes = {cell["model"]: cell["download"] for cell in found["cells"]}
    assert found["download"] == sum(sizes.values()) == pytest.approx(16.06e9 + 137.95e9, rel=1e-3)


def test_without_a_server_the_plan_is_there_all_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=tiny_random", "tracking.uri=http://127.0.0.1:9"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("without logged runs: tracking store 'http://127.0.0.1:9' cannot be used: ")
    assert "1 of 1 cells fit." in captured.out


@pytest.mark.slow
def test_an_experiment_is_planned_as_it_would_run(bioquant: Command) -> None:
    result = bioquant("plan", "experiment=quickstart", "--json")
    assert result.returncode == 0
    assert result.stderr == ""
    cells = json.loads(result.stdout)["cells"]
    assert len(cells) == 12
    assert {cell["lengths"]["num_examples"] for cell in cells} == {20}


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1e6, "277.8 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
