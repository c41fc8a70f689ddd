"""The first use of a store: by sixteen processes at once, with wrong addresses, and on the server of `deploy/`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from bioquant import tracking
from bioquant.config import TrackingConfig
from bioquant.errors import TrackingError
from conftest import REPOSITORY, Command
from tracking_parts import ARTIFACTS, LOGGED, answers, free_port

SERVER = REPOSITORY / "deploy" / "server.sh"

PROCESSES = 16

FIRST_USE = """
import os, sys
from multiprocessing import get_context
from pathlib import Path
from bioquant import tracking
from bioquant.config import TrackingConfig
from bioquant.tracking import connection, courier
from tracking_parts import log, start

def first_use(uri, folder, root, barrier):
    os.environ["BIOQUANT_ROOT"] = root
    barrier.wait()
    store = tracking.open_store(TrackingConfig(name="t", uri=uri))
    log(store, start(store, Path(folder)), Path(folder))
    left = tracking.flush(store)
    sys.exit(left.waiting + len(left.refused))

uri, number, *places = sys.argv[1:]
context = get_context("fork")
barrier = context.Barrier(int(number))
pairs = zip(places[::2], places[1::2])
processes = [context.Process(target=first_use, args=(uri, *pair, barrier)) for pair in pairs]
[process.start() for process in processes]
[process.join() for process in processes]
print([process.exitcode for process in processes])
"""


def open_at_once(uri: str, folders: list[Path], roots: list[Path]) -> None:
    """Sixteen processes that open the store at the same moment, each logging a run."""
    places = [str(path) for pair in zip(folders, roots, strict=True) for path in pair]
    command = [sys.executable, "-c", FIRST_USE, uri, str(PROCESSES), *places]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=500, check=False)
    assert done.stdout == f"{[0] * PROCESSES}\n", done.stderr


def assert_all_there(uri: str) -> None:
    client = MlflowClient(uri)
    assert [experiment.name for experiment in client.search_experiments()].count("bioquant") == 1
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * PROCESSES
    for run in runs:
        assert run.data.metrics == LOGGED
        assert {item.path for item in client.list_artifacts(run.info.run_id)} == ARTIFACTS


@pytest.mark.slow
def test_sixteen_processes_on_a_fresh_sqlite_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    open_at_once(uri, [tmp_path / str(number) for number in range(PROCESSES)], [tmp_path] * PROCESSES)
    assert_all_there(uri)


@pytest.fixture(scope="module")
def deployed() -> Iterator[Path]:
    """The folder of a server that `deploy/server.sh` started; PostgreSQL's user could not enter pytest's folders."""
    if shutil.which("pg_ctlcluster") is None:
        pytest.skip("Debian's package postgresql is not installed")
    folder = Path(tempfile.mkdtemp(prefix="bq"))
    folder.chmod(0o755)
    environment = {**os.environ, "PORT": str(free_port()), "WORKERS": "2"}
    try:
        subprocess.run([SERVER, "start", folder], check=True, env=environment, timeout=200)
        (folder / "port").write_text(environment["PORT"])
        yield folder
    finally:
        subprocess.run([SERVER, "stop", folder], check=True, env=environment, timeout=60)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_sixteen_processes_on_a_fresh_postgresql(deployed: Path, tmp_path: Path) -> None:
    """Each from a project of its own, as from sixteen machines: only the database itself can hold them apart."""
    socket = str(deployed / "socket")
    as_database = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run([*as_database, "createdb", "-h", socket, "-U", "mlflow", "fresh"], check=True, cwd="/")
    folders = [tmp_path / str(number) for number in range(PROCESSES)]
    uri = f"postgresql://mlflow@/fresh?host={socket}"
    open_at_once(uri, folders, folders)
    assert_all_there(uri)


@pytest.mark.slow
def test_a_run_on_the_deployed_server(deployed: Path, bioquant: Command, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{(deployed / 'port').read_text()}"
    quick = ("model=tiny_random", "limit=4", "measure.latency_examples=2", "measure.bootstrap_resamples=100")
    result = bioquant("run", *quick, root=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert result.returncode == 0, result.stderr
    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("bioquant").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == ARTIFACTS
    assert list((deployed / "artifacts").rglob("predictions.parquet"))


@pytest.mark.slow
def test_the_deployed_server_stops_and_starts_with_its_data(deployed: Path) -> None:
    port = (deployed / "port").read_text()
    environment = {**os.environ, "PORT": port, "WORKERS": "2"}

    def server(verb: str) -> str:
        command = [SERVER, verb, deployed]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, (verb, done.stdout, done.stderr, (deployed / "mlflow.log").read_text()[-2000:])
        return done.stdout

    before = MlflowClient(f"http://127.0.0.1:{port}").create_experiment("kept")
    assert server("status") == f"PostgreSQL: up\nMLflow: up on port {port}\n"
    assert server("stop") == "stopped\n"
    assert server("status") == "PostgreSQL: down\nMLflow: down\n"
    assert not answers(f"http://127.0.0.1:{port}/health")
    assert server("start") == f"MLflow on http://127.0.0.1:{port}, its data in {deployed}\n"
    assert MlflowClient(f"http://127.0.0.1:{port}").get_experiment(before).name == "kept"


def test_the_compose_file_starts_the_server_that_is_tested_here() -> None:
    """Its flags are ones that `mlflow server` takes, and its MLflow is the one the clients are tested with."""
    compose = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    program, verb, *flags = compose["services"]["mlflow"]["command"]
    assert (program, verb) == ("mlflow", "server")
    asked = [sys.executable, "-m", "mlflow", "server", "--help"]
    known = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120).stdout
    assert [flag for flag in flags if f"{flag.split('=')[0]} " not in known] == []
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    pinned = (REPOSITORY / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert set(re.findall(r"(mlflow==[\d.]+)", dockerfile)) <= set(pinned)
    assert set(re.findall(r"psycopg\[binary\]==([\d.]+)", dockerfile)) == {
        line.removeprefix("psycopg==") for line in pinned if line.startswith("psycopg==")
    }


def test_the_server_script_says_what_it_takes() -> None:
    done = subprocess.run([SERVER, "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: give start, stop or status, then the folder of its data; not 'run'\n"


def refused(uri: str) -> str:
    with pytest.raises(TrackingError) as caught:
        tracking.open_store(TrackingConfig(name="t", uri=uri))
    return str(caught.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/db",
            "tracking store 'postgresql://me:***@127.0.0.1:1/db' cannot be used: ",
        ),
        ("sqlite:////dev/null/x.db", "tracking store 'sqlite:////dev/null/x.db' cannot be used: "),
        ("mssql://h/db", "tracking store 'mssql://h/db' cannot be used: the database driver pyodbc is not installed"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_within_seconds(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    began = time.monotonic()
    message = refused(uri)
    assert time.monotonic() - began < 10
    assert message.startswith(reason)
    assert "\n" not in message


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, but long enough to be taken for one" * 100)
    assert "file is not a database" in refused(f"sqlite:///{tmp_path}/x.db")


def test_an_experiment_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    store = tracking.open_store(TrackingConfig(name="t", uri=f"sqlite:///{tmp_path}/m.db"))
    store.client.delete_experiment(store.experiment_id)
    assert refused(store.uri) == (
        "experiment 'bioquant' was deleted in the tracking store: restore it (mlflow experiments restore "
        f"--experiment-id {store.experiment_id}), or choose another name with tracking.experiment."
    )
