"""What reaches MLflow: on a SQLite file and on a real server, and with which status a run ends."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bioquant import tracking
from bioquant.config import TrackingConfig
from bioquant.errors import ModelError, TrackingError
from bioquant.plan import plan
from conftest import Command
from test_compose import composed
from test_plan import DATASET
from tracking_parts import PLAN, free_port, server_command, serving

QUICK = ("model=tiny_random", "limit=4", "measure.latency_examples=2", "measure.bootstrap_resamples=100")


@pytest.fixture
def store(fresh_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Store:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return tracking.open_store(TrackingConfig(name="t", uri=f"sqlite:///{tmp_path}/mlflow.db"))


def started(store: tracking.Store, folder: Path) -> str:
    return tracking.start_run(store, PLAN, folder, sweep_id=None, parent_run_id=None)


def test_the_store_is_made_where_it_is_missing_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    store = tracking.open_store(TrackingConfig(name="t", uri=f"sqlite:///{tmp_path}/deep/folder/mlflow.db"))
    again = tracking.open_store(TrackingConfig(name="t", uri=store.uri))
    assert again.experiment_id == store.experiment_id
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.artifact_location == (tmp_path / "deep" / "folder" / "artifacts" / "bioquant").as_uri()


def test_a_run_is_open_before_anything_is_loaded(tmp_path: Path, store: tracking.Store) -> None:
    run_id = started(store, tmp_path)
    tracking.flush(store)
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["quant"] == "none"
    assert run.data.tags["cell_id"] == PLAN.cell_id
    assert "**smollm2_135m**" in run.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ModelError("gone"), "FAILED", "model"),
        (ValueError("odd\nlines"), "FAILED", "ValueError"),
        (KeyboardInterrupt(), "KILLED", None),
    ],
)
def test_a_run_ends_with_what_happened(
    tmp_path: Path, store: tracking.Store, error: BaseException, status: str, kind: str | None
) -> None:
    (tmp_path / "run.log").write_text("why", encoding="utf-8")
    run_id = started(store, tmp_path)
    with pytest.raises(type(error)), tracking.closing(store, run_id, tmp_path):
        raise error
    run = store.client.get_run(run_id)
    assert run.info.status == status
    assert run.data.tags.get("error.kind") == kind
    assert "\n" not in run.data.tags.get("error.message", "")


def test_a_run_that_went_well_is_finished(tmp_path: Path, store: tracking.Store) -> None:
    run_id = started(store, tmp_path)
    with tracking.closing(store, run_id, tmp_path):
        pass
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_params_are_few_and_short(tmp_path: Path) -> None:
    params = tracking.run_params(PLAN.config, "sweep_1")
    assert len(params) <= 40
    assert list(params)[:4] == ["model", "quant", "task", "prompt"]
    assert max(len(value) for value in params.values()) < 250


def test_the_dataset_is_another_one_when_its_digest_is(tmp_path: Path, store: tracking.Store) -> None:
    other = plan(composed(), replace(DATASET, digest="e" * 64), ())
    for cell in (PLAN, other):
        run_id = tracking.start_run(store, cell, tmp_path, sweep_id=None, parent_run_id=None)
        tracking.flush(store)
        [logged] = store.client.get_run(run_id).inputs.dataset_inputs
        assert logged.dataset.digest == cell.dataset.digest[:36]
        assert logged.dataset.name == "demo_qa"


ENDINGS = {
    "exception": ("FAILED", "ValueError"),
    "sys.exit(1)": ("FAILED", "SystemExit"),
    "Ctrl-C": ("KILLED", None),
    "SIGTERM": ("KILLED", None),
    "SIGKILL": ("KILLED", None),
    "SIGABRT": ("KILLED", None),
    "os._exit(0)": ("KILLED", None),
    "full disk": ("FAILED", "disk_full"),
}
"""How a process can end, and the status its run must have then. What only the next start can set is set by `reap`."""

ENDING = """
import errno, os, signal, sys
from multiprocessing import get_context
from pathlib import Path
from bioquant import tracking
from bioquant.config import TrackingConfig
from bioquant.tracking import connection, courier
from bioquant.verbs.run import _interrupt
from tracking_parts import PLAN

def fail(error):
    raise error

HOW = {
    "exception": lambda: fail(ValueError("odd")),
    "sys.exit(1)": lambda: sys.exit(1),
    "Ctrl-C": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGABRT": os.abort,
    "os._exit(0)": lambda: os._exit(0),
    "full disk": lambda: fail(OSError(errno.ENOSPC, "No space left on device", "x.parquet")),
}

def end(uri, folder, how):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    store = tracking.open_store(TrackingConfig(name="t", uri=uri))
    run_id = tracking.start_run(store, PLAN, folder / how, sweep_id=how, parent_run_id=None)
    with tracking.closing(store, run_id, folder / how):
        HOW[how]()

uri, folder = sys.argv[1:]
for how in HOW:
    process = get_context("fork").Process(target=end, args=(uri, Path(folder), how))
    process.start()
    process.join()
"""


def test_however_a_process_ends_its_run_has_a_terminal_status(store: tracking.Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDING, store.uri, str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, timeout=300, check=True)
    tracking.reap(store)
    tracking.flush(store)
    runs = store.client.search_runs([store.experiment_id])
    found = {run.data.tags["sweep_id"]: (run.info.status, run.data.tags.get("error.kind")) for run in runs}
    assert found == ENDINGS
    assert all(run.info.end_time for run in runs)


def test_a_store_of_an_unknown_kind_is_one_line() -> None:
    with pytest.raises(TrackingError, match=r"^tracking store 'ftp://x' cannot be used: "):
        tracking.open_store(TrackingConfig(name="t", uri="ftp://x"))


@pytest.mark.slow
def test_a_run_on_a_real_server_with_proxied_artifacts(bioquant: Command, tmp_path: Path) -> None:
    port = free_port()
    with serving(server_command(tmp_path, port), port, tmp_path) as uri:
        result = bioquant("run", *QUICK, root=tmp_path, MLFLOW_TRACKING_URI=uri)
        assert result.returncode == 0, result.stderr
        client = MlflowClient(uri)
        [run] = client.search_runs([client.get_experiment_by_name("bioquant").experiment_id])
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        assert "predictions.parquet" in {item.path for item in client.list_artifacts(run.info.run_id)}
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.slow
def test_ui_serves_the_store_the_runs_are_in(bioquant: Command, tmp_path: Path) -> None:
    assert bioquant("run", *QUICK, root=tmp_path).returncode == 0
    port = free_port()
    command = [str(Path(sys.executable).with_name("bioquant")), "ui", "--port", str(port)]
    with serving(command, port, tmp_path) as uri:
        client = MlflowClient(uri)
        [run] = client.search_runs([client.get_experiment_by_name("bioquant").experiment_id])
        assert run.info.run_name == "tiny_random · none · demo_qa · zero_shot"


@pytest.mark.slow
def test_a_server_away_from_start_to_end_of_a_run_then_sync(bioquant: Command, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    never = bioquant("run", *QUICK, root=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert never.returncode == 2
    with serving(server_command(tmp_path, port), port, tmp_path):
        tidy = bioquant("doctor", "--reap", root=tmp_path, MLFLOW_TRACKING_URI=uri)
        assert (tidy.returncode, tidy.stdout) == (0, "")
        assert tidy.stderr == "No run is RUNNING without its process.\n"
    assert bioquant("sync", root=tmp_path).stdout == "Nothing waits for delivery.\n"
    away = bioquant("run", *QUICK, root=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert away.returncode == 0, away.stderr
    assert f"warning: tracking store '{uri}': no server answers there. What is logged waits on disk" in away.stderr
    assert "warning: 1 run on disk and not yet at the tracking store" in away.stderr
    still = bioquant("sync", root=tmp_path)
    assert still.returncode == 2
    assert still.stderr.endswith("error: 1 of 1 run still on disk: no server answers there. Repeat: bioquant sync\n")
    with serving(server_command(tmp_path, port), port, tmp_path):
        doctor = bioquant("doctor", "--json", root=tmp_path, MLFLOW_TRACKING_URI=uri)
        advice = {line["check"]: line["what to do"] for line in json.loads(doctor.stdout)}["tracking"]
        assert advice == "1 of its runs wait on disk: bioquant sync"
        synced = bioquant("sync", root=tmp_path)
        assert (synced.returncode, synced.stdout) == (0, f"1 run delivered to {uri}, experiment bioquant.\n")
        client = MlflowClient(uri)
        [run] = client.search_runs([client.get_experiment_by_name("bioquant").experiment_id])
        assert run.info.status == "FINISHED"
        assert "predictions.parquet" in {item.path for item in client.list_artifacts(run.info.run_id)}
