"""What reaches MLflow: on a SQLite file and on a real server, and with which status a run ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

QUICK = ("model=tiny_random", "limit=4", "measure.latency_examples=2", "measure.bootstrap_resamples=100")
PLAN = plan(composed(), DATASET, ())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Store:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    return tracking.open_store(TrackingConfig(name="t", uri=f"sqlite:///{tmp_path}/deep/folder/mlflow.db"))


def started(store: tracking.Store, folder: Path) -> str:
    return tracking.start_run(store, PLAN, folder, sweep_id=None, parent_run_id=None)


def test_the_store_is_made_where_it_is_missing_and_found_again(tmp_path: Path, store: tracking.Store) -> None:
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


def test_a_store_of_an_unknown_kind_is_one_line() -> None:
    with pytest.raises(TrackingError, match=r"^tracking store 'ftp://x' cannot be used: "):
        tracking.open_store(TrackingConfig(name="t", uri="ftp://x"))


@contextmanager
def serving(command: list[str], port: int, cwd: Path) -> Iterator[str]:
    """A real server, up and answering: 20 s alone, minutes beside other work, which is no failure of what is tested."""
    uri = f"http://127.0.0.1:{port}"
    env = {**os.environ, "BIOQUANT_ROOT": str(cwd), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        (cwd / "server.log").open("w") as log,
        subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            deadline = time.monotonic() + 600
            while not answers(f"{uri}/health"):
                assert process.poll() is None, (cwd / "server.log").read_text()
                assert time.monotonic() < deadline, (cwd / "server.log").read_text()
                time.sleep(0.5)
            yield uri
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself, with its workers
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_a_run_on_a_real_server_with_proxied_artifacts(bioquant: Command, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/m.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--port", str(port), "--workers", "1"]
    with serving(command, port, tmp_path) as uri:
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
