"""Runs whose owner is gone are closed with what is known; finished cells are found wherever they are."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bioquant import tracking
from bioquant.config import TrackingConfig
from bioquant.errors import ModelError, TrackingError
from bioquant.tracking import calls, owner
from tracking_parts import LOGGED, PLAN, RESULT, log, start

HERE = socket.gethostname()


@pytest.fixture
def store(fresh_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Store:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return opened(tmp_path)


def opened(folder: Path) -> tracking.Store:
    return tracking.open_store(TrackingConfig(name="t", uri=f"sqlite:///{folder}/mlflow.db"))


def statuses(store: tracking.Store) -> list[str]:
    assert tracking.flush(store).waiting == 0
    runs = store.client.search_runs([store.experiment_id], order_by=["attributes.start_time"])
    return [run.info.status for run in runs]


OWNER_SCRIPT = (
    "import os, sys, time; from pathlib import Path; from bioquant import tracking;"
    "from bioquant.config import TrackingConfig; from tracking_parts import *;"
    "store = tracking.open_store(TrackingConfig(name='t', uri=sys.argv[1])); folder = Path(sys.argv[2]);"
    "parent = tracking.start_sweep(store, 's', folder, {'quant': ['none']});"
    "run_id = start(store, folder, parent); write_files(folder);"
    "sys.argv[3] == 'logged' and tracking.log_result(store, run_id, RESULT, folder);"
    "tracking.flush(store); print('ready', flush=True); time.sleep(600)"
)


@pytest.mark.parametrize(("how", "closed_as"), [("logged", "FINISHED"), ("started", "KILLED")])
def test_runs_of_a_process_killed_with_sigkill_are_closed_at_the_next_start(
    store: tracking.Store, tmp_path: Path, how: str, closed_as: str
) -> None:
    """A cell whose whole result is on disk is FINISHED though its process could not say so any more."""
    command = [sys.executable, "-c", OWNER_SCRIPT, store.uri, str(tmp_path / "cell"), how]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert tracking.reap(store) == [], "its owner is alive"
        assert statuses(store) == ["RUNNING", "RUNNING"]
        before = time.time()
        process.send_signal(signal.SIGKILL)
    time.sleep(1.5)
    closed = tracking.reap(store)
    assert sorted(run.status for run in closed) == sorted(["KILLED", closed_as])
    assert {run.owner for run in closed} == {f"process {process.pid} on {HERE}"}
    assert sorted(statuses(store)) == sorted(["KILLED", closed_as])
    for run in store.client.search_runs([store.experiment_id]):
        assert run.data.tags["reaped"].startswith(f"process {process.pid} on {HERE} is gone; closed 2")
        assert run.info.end_time / 1000 <= before + 0.5, "it ended when it was last heard of"
    assert tracking.reap(store) == []
    assert (PLAN.fingerprint in tracking.finished(store, [PLAN.fingerprint])) == (how == "logged")


def owned(store: tracking.Store, **tags: str) -> str:
    """A run on the server that this project's spool knows nothing of."""
    run = store.client.create_run(store.experiment_id, tags={key.replace("_", "."): tag for key, tag in tags.items()})
    return run.info.run_id


def test_who_is_gone(store: tracking.Store) -> None:
    now = int(time.time())
    me = {"owner_host": HERE, "owner_pid": str(os.getpid())}
    started = psutil.Process().create_time()
    alive = {
        "mine": owned(store, **me, owner_started=f"{started:.2f}"),
        "an older version's": owned(store, **me),
        "another host's": owned(store, owner_host="n7", owner_pid="1", owner_heartbeat=str(now - 500)),
        "another host's without a beat": owned(store, owner_host="n7", owner_pid="1"),
        "somebody else's": owned(store),
    }
    gone = {
        "a reused pid": owned(store, **me, owner_started=f"{started - 100:.2f}"),
        "no such process": owned(store, owner_host=HERE, owner_pid="4194305"),
        "a silent host's": owned(store, owner_host="n7", owner_pid="1", owner_heartbeat=str(now - 700)),
    }
    closed = {run.run_id: run for run in tracking.reap(store)}
    assert closed.keys() == set(gone.values())
    assert closed[gone["a silent host's"]].owner == "process 1 on n7"
    tracking.flush(store)
    for run_id in gone.values():
        assert store.client.get_run(run_id).info.status == "KILLED"
    for run_id in alive.values():
        assert store.client.get_run(run_id).info.status == "RUNNING"
    assert store.client.get_run(gone["a silent host's"]).info.end_time == (now - 700) * 1000


def test_an_owner_tells_that_it_is_alive(
    store: tracking.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start(store, tmp_path / "cell")
    monkeypatch.setattr(owner, "heartbeat", lambda: "12345")
    monkeypatch.setattr(owner, "HEARTBEAT_S", 0.2)
    tracking.beat(store, run_id)
    deadline = time.monotonic() + 20
    while store.client.get_run(run_id).data.tags["owner.heartbeat"] != "12345" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.client.get_run(run_id).data.tags["owner.heartbeat"] == "12345"
    tracking.end_run(store, run_id, "FINISHED")
    assert statuses(store) == ["FINISHED"]


@pytest.mark.parametrize("delivered", [True, False])
def test_a_preempted_cell_goes_on_in_its_own_run(
    store: tracking.Store, tmp_path: Path, delivered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cell"
    run_id = start(store, folder)
    with pytest.raises(KeyboardInterrupt), tracking.closing(store, run_id, folder):
        raise KeyboardInterrupt
    if delivered:
        assert statuses(store) == ["KILLED"]
    later = opened(tmp_path)
    found = tracking.run_of(folder)
    assert found == run_id
    tracking.reattach(later, found)
    assert statuses(later) == ["RUNNING"]
    assert tracking.reap(later) == []
    log(later, found, folder)
    assert statuses(later) == ["FINISHED"]
    [run] = later.client.search_runs([later.experiment_id])
    assert run.data.metrics == LOGGED
    assert run.data.tags["owner.pid"] == str(os.getpid())


def test_a_folder_that_no_run_was_started_for(tmp_path: Path) -> None:
    assert tracking.run_of(tmp_path) is None


def test_finished_cells_are_the_latest_of_their_fingerprint(store: tracking.Store, tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.75)):
        run_id = start(store, tmp_path / name)
        log(store, run_id, tmp_path / name)
        tracking.flush(store)
        store.client.log_metric(run_id, "quality", value, timestamp=int(time.time() * 1000) + 10_000)
    failed = start(store, tmp_path / "c")
    tracking.end_run(store, failed, "FAILED", ModelError("x"))
    tracking.flush(store)
    found = tracking.finished(store, [PLAN.fingerprint, "f" * 64])
    assert found.keys() == {PLAN.fingerprint}
    assert found[PLAN.fingerprint].metrics["quality"] == 0.75
    assert found[PLAN.fingerprint].input_ids_sha256 == "a" * 64


def test_a_finished_cell_is_found_before_and_after_its_delivery_and_with_the_server_away(
    store: tracking.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {PLAN.fingerprint: tracking.outcome(RESULT)}
    waiting = tracking.open_spool(TrackingConfig(name="t", uri=store.uri))
    run_id = start(waiting, tmp_path / "cell")
    assert tracking.finished(store, [PLAN.fingerprint]) == {}
    log(waiting, run_id, tmp_path / "cell")
    assert tracking.finished(store, [PLAN.fingerprint]) == expected
    assert tracking.flush(store).waiting == 0
    assert tracking.finished(store, [PLAN.fingerprint]) == expected

    def away(_: object) -> None:
        raise calls.AwayError("gone")

    monkeypatch.setattr(calls, "asked", away)
    assert tracking.finished(store, [PLAN.fingerprint]) == expected
    assert tracking.reap(store) == []


def test_a_search_takes_all_pages(store: tracking.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bioquant.tracking import search

    monkeypatch.setattr(search, "PAGE", 2)
    for number in range(5):
        tags = {"bioquant.kind": "cell", "fingerprint": f"f{number}"}
        run = store.client.create_run(store.experiment_id, tags=tags)
        store.client.set_terminated(run.info.run_id)
    assert tracking.finished(store, [f"f{number}" for number in range(9)]).keys() == {f"f{n}" for n in range(5)}


def test_an_artifact_folder_that_cannot_be_written_is_told_and_holds_up_no_other_run(
    store: tracking.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands in the place of the run's artifacts: as bad as a server's folder that a client may not write."""
    run_id = start(store, tmp_path / "bad")
    folder = tmp_path / "artifacts" / "bioquant" / run_id
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    log(store, run_id, tmp_path / "bad")
    log(store, start(store, tmp_path / "good"), tmp_path / "good")
    left = tracking.flush(store)
    assert left.waiting == 0
    [reason] = left.refused.values()
    assert str(folder) in reason
    assert f"warning: the tracking store refuses what {store.spool.key_of(run_id)} logs: " in capsys.readouterr().err
    with pytest.raises(TrackingError, match=r"^the tracking store refuses 1 run, kept in the spool:\n  local-.*: "):
        tracking.sync(store)
    folder.unlink()
    assert tracking.sync(store) == 1
    assert statuses(store) == ["FINISHED", "FINISHED"]
