"""Delivery to a real server that is away, slow, ill or forgetful: nothing is lost, nothing is there twice."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bioquant import tracking
from bioquant.config import TrackingConfig
from bioquant.errors import TrackingError
from bioquant.tracking import carrier, courier
from tracking_parts import ARTIFACTS, LOGGED, READINGS, Proxy, free_port, log, server_command, serving, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with serving(server_command(folder, port), port, folder):
        yield port


@pytest.fixture
def proxy(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    monkeypatch.setattr(courier, "PAUSES_S", (0.1,))
    found = Proxy(server)
    found.up()
    yield found
    found.down()


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> tracking.Store:
    """An experiment of its own for each test."""
    return tracking.open_store(TrackingConfig(name="t", uri=proxy.uri, experiment=tmp_path.name))


def reopened(store: tracking.Store, tmp_path: Path) -> tracking.Store:
    """As a new process opens it."""
    return tracking.open_store(TrackingConfig(name="t", uri=store.uri, experiment=tmp_path.name))


def assert_whole(store: tracking.Store, proxy: Proxy, number: int = 1, status: str = "FINISHED") -> None:
    """The server holds exactly these runs, each complete and once."""
    client = MlflowClient(f"http://127.0.0.1:{proxy.target}")
    runs = client.search_runs([store.experiment_id])
    assert len(runs) == number
    for run in runs:
        assert run.info.status == status
        assert run.info.end_time >= run.info.start_time
        assert run.data.metrics == LOGGED
        for name in run.data.metrics:
            expected = len(READINGS) if name.startswith("system/") else 1
            assert len(client.get_metric_history(run.info.run_id, name)) == expected
        assert run.data.params["quant"] == "none"
        assert len(run.inputs.dataset_inputs) == 1
        assert {item.path for item in client.list_artifacts(run.info.run_id)} == ARTIFACTS
    assert store.spool.runs() == []


def test_a_run_takes_few_calls(store: tracking.Store, proxy: Proxy, tmp_path: Path) -> None:
    log(store, start(store, tmp_path / "cell"), tmp_path / "cell")
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)
    for once in ("experiments/get-by-name", "experiments/create", "experiments/get", "experiments/set-experiment-tag"):
        del proxy.calls[once]
    assert proxy.calls["artifacts"] == len(ARTIFACTS)
    assert proxy.calls.total() - proxy.calls["artifacts"] <= 8, proxy.calls


def test_a_server_that_goes_away_in_the_middle_of_a_run(store: tracking.Store, proxy: Proxy, tmp_path: Path) -> None:
    run_id = start(store, tmp_path / "cell")
    proxy.down()
    began = time.monotonic()
    log(store, run_id, tmp_path / "cell")
    assert time.monotonic() - began < 2
    assert tracking.flush(store).waiting == 1
    proxy.up()
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)


def test_what_one_process_left_the_next_one_delivers(store: tracking.Store, proxy: Proxy, tmp_path: Path) -> None:
    run_id = start(store, tmp_path / "a")
    proxy.down()
    log(store, run_id, tmp_path / "a")
    proxy.up()
    later = reopened(store, tmp_path)
    log(later, start(later, tmp_path / "b"), tmp_path / "b")
    assert tracking.flush(later).waiting == 0
    assert_whole(later, proxy, 2)


def test_a_server_that_is_away_from_start_to_end(
    store: tracking.Store, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.down()
    offline = reopened(store, tmp_path)
    assert (
        f"warning: tracking store '{proxy.uri}': no server answers there. What is logged waits"
        in capsys.readouterr().err
    )
    began = time.monotonic()
    parent = tracking.start_sweep(offline, "s", tmp_path, {"quant": ["none"]})
    cells = [start(offline, tmp_path / name, parent) for name in "ab"]
    for run_id in cells:
        log(offline, run_id, tmp_path / "ab"[cells.index(run_id)])
    tracking.log_sweep_table(offline, parent, [{"quant": "none"}])
    tracking.end_run(offline, parent, "FINISHED")
    assert time.monotonic() - began < 5
    assert tracking.flush(offline).waiting == 3
    assert "3 runs on disk and not yet at the tracking store (no server answers there)" in capsys.readouterr().err
    with pytest.raises(
        TrackingError, match=r"^3 of 3 runs still on disk: no server answers there. Repeat: bioquant sync$"
    ):
        tracking.sync(offline)
    proxy.up()
    assert tracking.sync(reopened(store, tmp_path)) == 3
    client = MlflowClient(proxy.uri)
    found = {run.info.run_id: run for run in client.search_runs([store.experiment_id])}
    real = offline.spool.run_id_of(parent)
    assert real in found
    children = [run for run in found.values() if run.data.tags.get("mlflow.parentRunId") == real]
    assert len(children) == 2
    assert len(found) == 3
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_a_store_that_was_never_used_does_not_open_without_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    uri = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        tracking.open_store(TrackingConfig(name="t", uri=uri))
    assert time.monotonic() - began < 10
    assert str(caught.value) == (
        f"tracking store '{uri}' cannot be used: no server answers there. Start a server (bioquant ui), or set "
        "tracking.uri or MLFLOW_TRACKING_URI."
    )


def test_a_slow_server_stalls_nothing(store: tracking.Store, proxy: Proxy, tmp_path: Path) -> None:
    proxy.delay_s = 1.0
    began = time.monotonic()
    run_id = start(store, tmp_path / "cell")
    started = time.monotonic()
    log(store, run_id, tmp_path / "cell")
    assert time.monotonic() - started < 1
    assert started - began < 7
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)


def test_a_server_that_hangs_costs_a_start_seconds(
    store: tracking.Store, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    proxy.delay_s = 4.0
    began = time.monotonic()
    run_id = start(store, tmp_path / "cell")
    assert run_id.startswith("local-")
    assert time.monotonic() - began < 6
    log(store, run_id, tmp_path / "cell")
    proxy.delay_s = 0.0
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)


@pytest.mark.parametrize(
    "path", ["runs/create", "runs/log-batch", "runs/log-inputs", "artifacts/artifacts", "runs/update", "runs/get"]
)
def test_an_answer_that_is_lost_makes_nothing_twice(
    store: tracking.Store, proxy: Proxy, tmp_path: Path, path: str
) -> None:
    """The server has done what was asked, and the client cannot know."""
    proxy.lose = path
    run_id = start(store, tmp_path / "cell")
    log(store, run_id, tmp_path / "cell")
    deadline = time.monotonic() + 20
    while not proxy.lost and time.monotonic() < deadline:
        time.sleep(0.05)
    proxy.lose = None
    assert tracking.flush(store).waiting == 0
    assert proxy.lost
    assert_whole(store, proxy)


def test_a_run_that_was_made_after_nobody_waited_is_deleted(
    store: tracking.Store, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its creation, sent twice, arrives twice: the slow one only once the other is in use."""
    monkeypatch.setattr(carrier, "SETTLE_S", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.delay_s = 3.0
    run_id = start(store, tmp_path / "cell")
    proxy.delay_s = 0.0
    deadline = time.monotonic() + 20
    while len(store.client.search_runs([store.experiment_id])) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(store.client.search_runs([store.experiment_id])) == 2
    log(store, run_id, tmp_path / "cell")
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)


def test_a_run_that_a_slow_server_made_later_still_is_deleted_at_the_next_start(
    store: tracking.Store, proxy: Proxy, tmp_path: Path
) -> None:
    run_id = start(store, tmp_path / "cell")
    key = store.spool.key_of(run_id)
    log(store, run_id, tmp_path / "cell")
    assert tracking.flush(store).waiting == 0
    store.client.create_run(store.experiment_id, tags={"spool_key": key})
    assert tracking.reap(reopened(store, tmp_path)) == []
    assert_whole(store, proxy)


def test_a_server_that_fails_is_asked_again(store: tracking.Store, proxy: Proxy, tmp_path: Path) -> None:
    run_id = start(store, tmp_path / "cell")
    proxy.broken = ("runs/", 500, b"Internal Server Error")
    log(store, run_id, tmp_path / "cell")
    time.sleep(1)
    assert tracking.pending(store).waiting == 1
    proxy.broken = None
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)


def test_what_is_refused_is_kept_and_does_not_hold_up_the_others(
    store: tracking.Store, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = start(store, tmp_path / "bad")
    assert tracking.flush(store).waiting == 0
    answer = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such thing"}'
    proxy.broken = ("runs/log-batch", 400, answer)
    log(store, bad, tmp_path / "bad")
    while not tracking.pending(store).refused:
        time.sleep(0.05)
    proxy.broken = None
    log(store, start(store, tmp_path / "good"), tmp_path / "good")
    left = tracking.flush(store)
    assert left.waiting == 0
    assert list(left.refused.values()) == ["INVALID_PARAMETER_VALUE: no such thing"]
    assert "refuses what local-" in capsys.readouterr().err
    assert len(store.spool.runs()) == 1
    assert tracking.sync(reopened(store, tmp_path)) == 1
    assert_whole(store, proxy, 2)


def test_a_run_that_was_deleted_in_the_ui_takes_nothing_more(
    store: tracking.Store, proxy: Proxy, tmp_path: Path
) -> None:
    run_id = start(store, tmp_path / "cell")
    tracking.flush(store)
    store.client.delete_run(run_id)
    log(store, run_id, tmp_path / "cell")
    left = tracking.flush(store)
    assert (left.waiting, left.refused, store.spool.runs()) == (0, {}, [])


def test_a_worker_logs_without_mlflow_and_its_parent_delivers(
    store: tracking.Store, proxy: Proxy, tmp_path: Path
) -> None:
    run_id = start(store, tmp_path / "cell")
    script = (
        "import sys; from pathlib import Path; from bioquant import tracking;"
        "from bioquant.config import TrackingConfig;"
        "from tracking_parts import RESULT, write_files;"
        "uri, experiment, run_id, folder = sys.argv[1:];"
        "store = tracking.open_spool(TrackingConfig(name='t', uri=uri, experiment=experiment));"
        "write_files(Path(folder)); tracking.log_result(store, run_id, RESULT, Path(folder));"
        "assert 'mlflow' not in sys.modules"
    )
    worker = [sys.executable, "-c", script, store.uri, tmp_path.name, run_id, str(tmp_path / "cell")]
    subprocess.run(worker, check=True, cwd=Path(__file__).parent)
    tracking.end_run(store, run_id, "FINISHED")
    assert tracking.flush(store).waiting == 0
    assert_whole(store, proxy)


def test_a_server_killed_and_started_again_in_the_middle_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    port = free_port()
    config = TrackingConfig(name="t", uri=f"http://127.0.0.1:{port}")
    with serving(server_command(tmp_path, port), port, tmp_path):
        store = tracking.open_store(config)
        run_id = start(store, tmp_path / "cell")
    log(store, run_id, tmp_path / "cell")
    assert tracking.flush(store).waiting == 1
    with serving(server_command(tmp_path, port), port, tmp_path):
        assert tracking.flush(store).waiting == 0
        assert_whole(store, Proxy(port))
