"""A worker process: how it answers, stops and ends, with real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bioquant.compose import to_mapping
from bioquant.sweep.process import CellError, ProcessWorker, WorkerDiedError, outcome_of
from test_compose import composed
from test_sweep_cells import OUTCOME


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[ProcessWorker]:
    found = ProcessWorker({"BIOQUANT_ROOT": str(tmp_path)}, tmp_path / "worker_0.log")
    yield found
    found.close()


def request(folder: Path, *overrides: str) -> dict[str, object]:
    config = composed("model=tiny_random", "measure.latency_examples=0", *overrides)
    return {"config": to_mapping(config), "folder": str(folder), "run_id": "r"}


def test_what_an_answer_means() -> None:
    assert outcome_of({"outcome": {"metrics": OUTCOME.metrics, "input_ids_sha256": "a"}}) == OUTCOME
    with pytest.raises(KeyboardInterrupt):
        outcome_of({"stopped": True})
    with pytest.raises(CellError) as known:
        outcome_of({"error_kind": "oom", "error": "too large"})
    assert (known.value.kind, str(known.value)) == ("oom", "too large")
    assert not isinstance(known.value, WorkerDiedError)
    with pytest.raises(WorkerDiedError) as unknown:
        outcome_of({"error_kind": "KeyError", "error": "x", "last_words": True})
    assert unknown.value.kind == "KeyError"


@pytest.mark.slow
def test_a_user_s_error_is_an_answer_and_the_worker_goes_on_to_its_end(tmp_path: Path) -> None:
    worker = ProcessWorker({"BIOQUANT_ROOT": str(tmp_path)}, tmp_path / "worker_0.log")
    for _ in range(2):
        with pytest.raises(CellError) as caught:
            worker.ask(request(tmp_path / "cell", "task=pubmedqa", f"data.root={tmp_path}"), lambda _: None)
        assert caught.value.kind == "data"
        assert worker.alive()
    assert "DataError" in (tmp_path / "cell" / "run.log").read_text()
    worker.close()
    assert worker._process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "ending"),
    [
        (signal.SIGKILL, "killed by SIGKILL: often the system's out-of-memory killer"),
        (signal.SIGABRT, "killed by SIGABRT"),
    ],
)
def test_a_death_is_told_with_how_and_its_last_words_are_kept(
    worker: ProcessWorker, tmp_path: Path, how: signal.Signals, ending: str
) -> None:
    with pytest.raises(WorkerDiedError) as caught:
        worker.ask(request(tmp_path / "cell", "task=demo_ner"), lambda _: worker._process.send_signal(how))
    assert str(caught.value) == f"the worker process ended without an answer ({ending})."
    assert caught.value.kind == "worker_died"
    assert not worker.alive()
    log = (tmp_path / "cell" / "run.log").read_text()
    assert "the worker's last words:" in log
    assert ("Fatal Python error: Aborted" in log) is (how is signal.SIGABRT)


@pytest.mark.slow
def test_a_dead_worker_is_not_asked_in_vain(worker: ProcessWorker, tmp_path: Path) -> None:
    worker.kill()
    worker._process.wait()
    worker.stop()
    with pytest.raises(WorkerDiedError):
        worker.ask(request(tmp_path / "cell"), lambda _: None)


@pytest.mark.slow
def test_it_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """While it works: its input ends without a word."""
    ask = json.dumps(request(tmp_path / "cell", "task=demo_ner", "engine.max_new_tokens=4000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "bioquant.sweep.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "BIOQUANT_ROOT": str(tmp_path)},
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process.stdin:
        process.stdin.write(ask + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"examples": 0}
    assert process.wait(timeout=30) == 1
    process.stdout.close()
