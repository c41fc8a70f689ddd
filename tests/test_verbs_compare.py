"""`bioquant compare` and `bioquant recommend` as a user meets them, on a real store."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bioquant import tables
from bioquant.cli import main
from conftest import Command
from generated import METRICS, Cell, log

TARGETS = ["yes", "no"] * 300
BASELINE = Cell(targets=TARGETS, answers=TARGETS[:550] + ["maybe"] * 50, task="pubmedqa", num_test=800)
WORSE = replace(BASELINE, quant="bnb_nf4", answers=TARGETS[:510] + ["maybe"] * 90)
SAME = replace(BASELINE, quant="bnb_int8", metrics={**METRICS, "memory/peak_device_mib": 700.0})
ALONE = replace(BASELINE, model="other", quant="bnb_int8")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with four finished runs."""
    root = tmp_path_factory.mktemp("project")
    (root / "mlruns").mkdir()
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    experiment = client.create_experiment("bioquant", artifact_location=(root / "artifacts").as_uri())
    for cell in (BASELINE, WORSE, SAME, ALONE):
        log(client, experiment, cell)
    return root


@pytest.fixture(autouse=True)
def _here(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(store))


def client(store: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{store}/mlruns/mlflow.db")


def test_a_table_with_verdicts_and_what_could_not_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 0
    shown = capsys.readouterr().out
    assert "pubmedqa · accuracy · 600 examples" in shown
    worse, same = (next(line for line in shown.splitlines() if name in line) for name in ("bnb_nf4", "bnb_int8"))
    assert "0.917 → 0.850" in worse
    assert "-6.7 [" in worse
    assert worse.rstrip().endswith("worse")
    assert "40/0" in worse
    assert "+0.0 [+0.0, +0.0]" in same
    assert same.rstrip().endswith("within")
    assert "verdict (policy default): within: shown to lose at most 1 point (95%)" in shown
    assert "Not compared (1):\n  other · bnb_int8 · zero_shot on pubmedqa (run " in shown
    assert (
        "no finished run of its baseline: bioquant run model=other quant=none task=pubmedqa prompt=zero_shot" in shown
    )


def test_a_terminal_of_80_columns_gets_what_is_lost_and_what_is_saved_below_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "width", lambda: 80)
    assert main(["compare"]) == 0
    shown = capsys.readouterr().out.partition("\ndelta: ")[0]
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert "…" not in shown
    first, second = (line for line in shown.splitlines() if line.startswith("bnb_nf4"))
    assert "0.917 → 0.850 -6.7 [" in first
    assert second.endswith("worse")


def test_flips_with_their_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "quant=bnb_nf4,none", "--flips", "1"]) == 0
    shown = capsys.readouterr().out
    expected = "lost by small · bnb_nf4 · zero_shot on pubmedqa: e510\n  right: yes\n  none: yes\n  bnb_nf4: maybe\n"
    assert expected in shown
    assert shown.count("lost by") == 1


def test_json_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", "policy.max_quality_loss=0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    by_quant = {one["candidate"]["quant"]: one for one in found["comparisons"]}
    assert by_quant["bnb_nf4"]["verdict"] == "within"
    assert by_quant["bnb_nf4"]["delta"] == pytest.approx(-40 / 600)
    assert len(by_quant["bnb_nf4"]["lost"]) == 40
    assert len(found["refused"]) == 1


def test_a_question_of_the_study_is_printed_and_logged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "study=quality"]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("quality")]
    assert [line.split()[7] for line in lines] == ["bnb_int8", "bnb_nf4"] or "bnb_int8" in lines[0]
    run_id = printed.err.split("logged as run ")[1].split()[0]
    run = client(store).get_run(run_id)
    assert (run.info.status, run.data.tags["bioquant.kind"], run.data.params["study"]) == (
        "FINISHED",
        "study",
        "quality",
    )
    assert run.data.metrics["study/quality/bnb_nf4"] == pytest.approx(-40 / 600)
    assert run.data.tags["evidence.num_runs"] == "3"
    assert {item.path for item in client(store).list_artifacts(run_id)} == {"study.json", "study.md"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["compare", "study=papr"],
            "error: study 'papr' is not known; did you mean 'paper'? Choose from: budget, domain, memory, paper, "
            "prompting, quality, size.\n",
        ),
        (
            ["recommend", "task=pubmedq"],
            "error: no finished run has task=pubmedq; did you mean 'pubmedqa'? The runs have: pubmedqa.\n",
        ),
        (
            ["recommend", "policy=gpu_24"],
            "error: policy 'gpu_24' is not known; did you mean 'gpu_24gb'? Choose from: default, gpu_24gb, gpu_40gb.\n",
        ),
        (
            ["recommend", "policy.max_quality_loss=0"],
            "error: policy.max_quality_loss=0.0 is not allowed: give a loss between 0 and 1, such as 0.01 for a point "
            "(no number of examples proves a loss of nothing), or null to tolerate any.\n",
        ),
        (
            ["recommend", "policy.confidence=95"],
            "error: policy.confidence=95.0 is not allowed: give 0.5 or more and less than 1.\n",
        ),
        (
            ["recommend", "policy.gpu_memory_gib=-1"],
            "error: policy.gpu_memory_gib=-1.0 is not allowed: give a number above 0.\n",
        ),
        (
            ["compare", "tracking.experiment=none"],
            "holds no finished cell",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_recommendation_with_its_report_and_its_run(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "model=small", "policy=gpu_24gb", "--output", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr()
    assert "- For the one task, run small · bnb_int8: mean quality 0.917 [" in printed.out
    assert "Why: of the 2 that meet the policy" in printed.out
    assert f"report: {tmp_path}/report/report.html" in printed.err
    run_id = printed.err.split("logged as run ")[1].split()[0]
    run = client(store).get_run(run_id)
    record = json.loads((tmp_path / "report" / "recommendation.json").read_text(encoding="utf-8"))
    assert run.data.tags["chosen.pubmedqa"] == record["tasks"][0]["chosen"]["run"]["run_id"]
    assert run.data.tags["chosen"] == "small bnb_int8"
    assert sorted(run.data.tags["evidence.0"].split(",")) == record["run_ids"]
    assert run.data.metrics == {"quality": pytest.approx(550 / 600), "quality/pubmedqa": pytest.approx(550 / 600)}
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "bioquant recommend model=small policy=gpu_24gb</pre>" in html
    assert {item.path for item in client(store).list_artifacts(run_id)} == {
        "recommendation.json",
        "report.html",
        "report.md",
    }


def test_a_recommendation_as_json_and_without_texts(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--json", "--no-texts", "policy.gpu_memory_gib=0.5"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["policy"]["name"] == "default, adjusted"
    assert found["tasks"][0]["chosen"] is None
    path = Path(printed.err.split("report: ")[1].splitlines()[0])
    assert path.is_relative_to(store / "multirun")
    assert "Prompt of" not in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_a_sweep_to_a_recommendation(bioquant: Command, tmp_path: Path) -> None:
    """Real runs of a real (random) model, at three precisions: what `run` logs is what `compare` reads."""
    sweep = ("model=tiny_random", "quant=none,bnb_int8,bnb_nf4", "task=demo_qa,demo_ner,demo_re,demo_mlc", "limit=4")
    quick = ("measure.latency_examples=2", "measure.bootstrap_resamples=100")
    assert bioquant("run", "-m", *sweep, *quick, root=tmp_path).returncode == 0
    compared = bioquant("compare", "--json", root=tmp_path)
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert (len(found["comparisons"]), found["refused"]) == (8, [])
    assert {one["verdict"] for one in found["comparisons"]} <= {"undecided", "worse"}
    assert bioquant("compare", "study=paper", root=tmp_path).returncode == 0
    recommended = bioquant("recommend", root=tmp_path)
    assert recommended.returncode == 0, recommended.stderr
    assert "tiny_random · none" in recommended.stdout
    kinds = [run.data.tags["bioquant.kind"] for run in client(tmp_path).search_runs(["1"])]
    assert sorted(kinds) == ["cell"] * 12 + ["recommendation", "study", "sweep"]
