"""Reading a real tracking store back, and logging what was concluded."""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from bioquant import runs
from bioquant.compare import Refusal, compare
from bioquant.config import PolicyConfig, TrackingConfig
from bioquant.errors import TrackingError
from bioquant.evidence import Answered, ModelFacts
from bioquant.records import Span
from conftest import Command
from generated import Cell, log
from test_tracking import QUICK, free_port, serving

TARGETS = ["yes", "no", "maybe"]
CELL = Cell(targets=TARGETS, answers=TARGETS, num_test=30)


@pytest.fixture
def config(tmp_path: Path) -> TrackingConfig:
    """A store with an experiment, and nothing in it yet."""
    (tmp_path / "mlruns").mkdir()
    found = TrackingConfig(name="t", uri=f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    MlflowClient(found.uri).create_experiment("bioquant", artifact_location=(tmp_path / "artifacts").as_uri())
    return found


def logged(config: TrackingConfig, *cells: Cell) -> list[str]:
    client = MlflowClient(config.uri)
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    return [log(client, experiment.experiment_id, cell) for cell in cells]


def test_a_run_is_read_with_its_machine_its_model_and_its_answers(config: TrackingConfig) -> None:
    facts = ModelFacts(licence="MIT", num_parameters=7, domain="biomedical", general_counterpart="other")
    [run_id] = logged(config, replace(CELL, facts=facts, answers=["yes", None, "no"]))
    store = runs.open_existing(config)
    [run] = runs.read(store)
    assert (run.run_id, run.label, run.machine, run.facts, run.num_test) == (
        run_id,
        "small · none · zero_shot",
        "NVIDIA H100",
        facts,
        30,
    )
    assert run.metrics["quality"] == pytest.approx(1 / 3)
    found = runs.answers(store, run)
    assert isinstance(found, Answered)
    assert found.answers == ('"yes"', "null", '"no"')
    assert (found.example_ids, found.units) == (("e0", "e1", "e2"), ("e0", "e1", "e2"))
    assert runs.texts(store, run, ["e1"]) == {"e1": ("Prompt of e1", "")}


def test_the_latest_of_the_same_cell_on_the_same_device_counts(
    config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PAGE", 2)
    cells = [replace(CELL, start_ms=place) for place in (3, 1, 2)] + [replace(CELL, quant="nf4", start_ms=4)]
    ids = logged(config, *cells, replace(CELL, machine="a CPU", start_ms=0))
    assert {run.run_id for run in runs.read(runs.open_existing(config))} == {ids[0], ids[3], ids[4]}


def test_only_finished_cells_are_read(config: TrackingConfig) -> None:
    [kept, failed] = logged(config, CELL, replace(CELL, quant="nf4"))
    client = MlflowClient(config.uri)
    client.set_terminated(failed, "FAILED")
    client.create_run(client.get_run(kept).info.experiment_id, tags={"bioquant.kind": "sweep"})
    assert [run.run_id for run in runs.read(runs.open_existing(config))] == [kept]


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "mlflow.db"
    with pytest.raises(TrackingError) as caught:
        runs.open_existing(TrackingConfig(name="t", uri=f"sqlite:///{path}"))
    assert str(caught.value) == (
        f"tracking store '{path}' does not exist yet: log runs first, for example: bioquant run experiment=quickstart, "
        "or name another store with --uri"
    )
    assert not path.parent.exists()


def test_a_store_without_a_finished_cell_is_named(config: TrackingConfig) -> None:
    with pytest.raises(TrackingError) as caught:
        runs.read(runs.open_existing(config))
    assert str(caught.value) == (
        f"tracking store '{config.uri}' holds no finished cell: log some with bioquant run -m …, or name another store "
        "with --uri and another experiment with tracking.experiment="
    )


def test_a_run_logged_before_its_answers_were_structured_is_refused(config: TrackingConfig, tmp_path: Path) -> None:
    [old, damaged, good] = logged(config, CELL, replace(CELL, quant="nf4"), replace(CELL, quant="int8"))
    folder = tmp_path / "artifacts"
    path = folder / old / "artifacts" / "predictions.parquet"
    pd.read_parquet(path).drop(columns=["answer_json", "unit"]).to_parquet(path)
    (folder / damaged / "artifacts" / "predictions.parquet").write_bytes(b"PAR1")
    store = runs.open_existing(config)
    sets, refusals = runs.evidence(store, runs.read(store))
    assert [run.run_id for one in sets for run in one.runs] == [good]
    reasons = {refusal.run.run_id: refusal.reason for refusal in refusals}
    assert reasons[old] == (
        "its predictions.parquet has no column unit, answer_json (logged by bioquant 0.1.0): run it again"
    )
    assert reasons[damaged].startswith("its predictions.parquet cannot be read: ")
    assert all(isinstance(refusal, Refusal) for refusal in refusals)


def test_an_artifact_that_is_gone_is_named(config: TrackingConfig, tmp_path: Path) -> None:
    [run_id] = logged(config, CELL)
    path = tmp_path / "artifacts" / run_id / "artifacts" / "config.yaml"
    path.unlink()
    with pytest.raises(TrackingError) as caught:
        runs.read(runs.open_existing(config))
    assert str(caught.value) == (
        f"run {run_id}: its artifact {path} is not there: was the folder moved, or is it elsewhere?"
    )


def test_a_conclusion_is_a_finished_run_linked_to_its_evidence(config: TrackingConfig, tmp_path: Path) -> None:
    logged(config, CELL)
    store = runs.open_existing(config)
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.md").write_text("# yes", encoding="utf-8")
    evidence_ids = [f"{place:032x}" for place in range(400)]
    run_id = runs.log_conclusion(
        store,
        "recommendation",
        "recommendation · test",
        folder,
        evidence_ids=evidence_ids,
        params={"policy": "test"},
        tags={"chosen.demo": evidence_ids[0]},
        metrics={"quality/demo": 0.5},
        note="- yes",
    )
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.params, run.data.metrics) == (
        "FINISHED",
        {"policy": "test"},
        {"quality/demo": 0.5},
    )
    tags = run.data.tags
    assert (tags["bioquant.kind"], tags["evidence.num_runs"], tags["chosen.demo"]) == (
        "recommendation",
        "400",
        evidence_ids[0],
    )
    assert ",".join(tags[f"evidence.{number}"] for number in range(3)).split(",") == evidence_ids
    assert [item.path for item in store.client.list_artifacts(run_id)] == ["report.md"]
    assert len(runs.read(store)) == 1


@pytest.mark.slow
def test_a_server_is_read_over_http_and_its_files_are_fetched_once(bioquant: Command, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/m.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--port", str(port), "--workers", "1"]
    with serving(command, port, tmp_path) as uri:
        here = {"root": tmp_path, "MLFLOW_TRACKING_URI": uri, "BIOQUANT_CACHE": str(tmp_path / "cache")}
        assert bioquant("run", "-m", "quant=none,bnb_int8", *QUICK, **here).returncode == 0
        first = bioquant("recommend", "--json", **here)
        assert first.returncode == 0, first.stderr
        kept = sorted((tmp_path / "cache" / "runs").rglob("predictions.parquet"))
        written = [path.stat().st_mtime_ns for path in kept]
        assert len(kept) == 2
        assert bioquant("recommend", "--json", **here).stdout == first.stdout
        assert [path.stat().st_mtime_ns for path in kept] == written
        found = MlflowClient(uri).search_runs(["1"], "tags.`bioquant.kind` = 'recommendation'")
        assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]


def test_a_table_has_a_row_a_cell_the_largest_model_first(config: TrackingConfig) -> None:
    small = {"memory/weights_mib": 100.0}
    logged(config, replace(CELL, quant="nf4", metrics=small), CELL, replace(CELL, task="another", metrics=small))
    table = runs.table(runs.read(runs.open_existing(config)))
    assert list(zip(table["task"], table["quant"], table["memory/weights_mib"], strict=True)) == [
        ("another", "none", 100.0),
        ("demo", "none", 500.0),
        ("demo", "nf4", 100.0),
    ]
    assert table["quality"].tolist() == [1.0, 1.0, 1.0]
    assert table["latency/example_ms_p50"].isna().tolist() == [True, False, True]


def test_flips_stand_side_by_side(config: TrackingConfig) -> None:
    logged(
        config, replace(CELL, answers=["yes", "yes", "maybe"]), replace(CELL, quant="nf4", answers=["yes", "no", None])
    )
    store = runs.open_existing(config)
    sets, _ = runs.evidence(store, runs.read(store))
    compared = compare(sets, PolicyConfig(name="default"))
    [pair] = compared.comparisons
    assert runs.flips(store, compared, pair).to_dict("records") == [
        {
            "flip": flip,
            "example_id": example_id,
            "prompt": f"Prompt of {example_id}",
            "right": right,
            "baseline": before,
            "candidate": after,
            "baseline_output": before,
            "candidate_output": "" if after == "(invalid)" else after,
        }
        for flip, example_id, right, before, after in (
            ("lost", "e2", "maybe", "maybe", "(invalid)"),
            ("gained", "e1", "no", "yes", "no"),
        )
    ]


def test_no_flips_are_an_empty_table_with_its_columns(config: TrackingConfig) -> None:
    logged(config, CELL, replace(CELL, quant="nf4"))
    store = runs.open_existing(config)
    sets, _ = runs.evidence(store, runs.read(store))
    compared = compare(sets, PolicyConfig(name="default"))
    found = runs.flips(store, compared, compared.comparisons[0])
    assert (len(found), tuple(found.columns)) == (0, runs.FLIP)


def test_mentions_that_the_text_does_not_hold_are_listed(config: TrackingConfig) -> None:
    real = Span(start=0, end=7, label="Drug", text="aspirin")
    made_up = Span(start=-1, end=-1, label="Drug", text="unobtainium")
    logged(config, Cell(kind="ner", targets=[(real,), (real,), ()], answers=[(real, made_up), None, ()], num_test=3))
    store = runs.open_existing(config)
    [run] = runs.read(store)
    found = runs.hallucinated(store, run)
    assert found[["example_id", "type", "mention"]].to_numpy().tolist() == [["e0", "Drug", "unobtainium"]]
    assert runs.predictions(store, run)["example_id"].tolist() == ["e0", "e1", "e2"]
