"""A sweep in which nearly everything goes wrong, and its end state in MLflow."""

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from conftest import Command
from faults import inject
from tracking_parts import free_port, server_command, serving

GRID = (
    "-m",
    "model=tiny_random",
    "limit=4",
    "engine.batch=2",
    "engine.max_new_tokens=4",
    "prompt.reasoning_tokens=4",
    "measure.latency_examples=0",
    "measure.bootstrap_resamples=50",
    "quant=none,bnb_nf4,bnb_fp4",
    "task=demo_qa,demo_ner,demo_re,demo_mlc",
    "prompt=zero_shot,one_shot,five_shot,cot,five_shot_cot",
)
NUM_CELLS = 60

ONCE = {
    "none · demo_qa · zero_shot": ("exception", 1, 1),
    "none · demo_ner · one_shot": ("exit", 1, 1),
    "none · demo_re · five_shot": ("abort", 3, 1),
    "none · demo_mlc · cot": ("kill", 2, 1),
    "bnb_fp4 · demo_mlc · cot": ("segfault", 2, 1),
}
"""One retry is enough."""

ALWAYS = {
    "bnb_nf4 · demo_qa · zero_shot": ("exception", 1, 99),
    "bnb_nf4 · demo_ner · one_shot": ("exit", 1, 99),
    "bnb_nf4 · demo_re · five_shot": ("abort", 1, 99),
    "bnb_nf4 · demo_mlc · cot": ("kill", 1, 99),
    "bnb_fp4 · demo_qa · five_shot_cot": ("oom", 0, 99),
}

REASONS = {
    "bnb_nf4 · demo_qa · zero_shot": ("RuntimeError", "injected"),
    "bnb_nf4 · demo_ner · one_shot": ("worker_died", "the worker process ended without an answer (exit code 3)."),
    "bnb_nf4 · demo_re · five_shot": (
        "worker_died",
        "the worker process ended without an answer (killed by SIGABRT).",
    ),
    "bnb_nf4 · demo_mlc · cot": (
        "worker_died",
        "the worker process ended without an answer (killed by SIGKILL: often the system's out-of-memory killer).",
    ),
    "bnb_fp4 · demo_qa · five_shot_cot": ("oom", "out of memory on cpu even at batch size 1"),
}


def runs(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def server_goes_away(folder: Path, port: int, sweep_root: Path, back: threading.Event) -> None:
    """A server that is up, is killed in the middle of the sweep, and comes back once cells have ended without it."""
    with serving(server_command(folder, port), port, folder):
        await_scored(sweep_root, 15, back)
    await_scored(sweep_root, 25, back)
    with serving(server_command(folder, port), port, folder):
        back.wait(900)


def await_scored(sweep_root: Path, num_cells: int, over: threading.Event) -> None:
    """Until so many cells have their scores, or the test is over."""
    while len(list(sweep_root.glob("multirun/*/*/scores.json"))) < num_cells and not over.wait(0.1):
        pass


@pytest.mark.slow
def test_sixty_cells_with_faults_of_seven_kinds(bioquant: Command, tmp_path: Path) -> None:
    root, server, port, over = tmp_path / "project", tmp_path / "server", free_port(), threading.Event()
    root.mkdir()
    server.mkdir()
    uri = f"http://127.0.0.1:{port}"
    thread = threading.Thread(target=server_goes_away, args=(server, port, root, over))
    thread.start()
    try:
        await_server(uri)
        environment = {"MLFLOW_TRACKING_URI": uri}
        done = bioquant("run", *GRID, root=root, **environment, **inject(tmp_path / "faults", ONCE | ALWAYS))
        assert done.returncode == 1, done.stderr
        check_failures(uri, done)
        again = bioquant("run", *GRID, root=root, **environment)
        assert again.returncode == 0, again.stderr
        check_whole(uri)
    finally:
        over.set()
        thread.join()


def await_server(uri: str) -> None:
    code = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"
    deadline = time.monotonic() + 120
    while subprocess.run([sys.executable, "-c", code, f"{uri}/health"], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline


def check_failures(uri: str, done: subprocess.CompletedProcess[str]) -> None:
    parents, cells = split(uri)
    show("with faults", [*parents, *cells])
    assert [run.info.status for run in parents] == ["FAILED"]
    assert Counter(run.info.status for run in cells) == {"FINISHED": NUM_CELLS - len(ALWAYS), "FAILED": len(ALWAYS)}
    failed = {run.info.run_name.removeprefix("tiny_random · "): run.data.tags for run in cells if is_failed(run)}
    assert failed.keys() == REASONS.keys()
    for name, (kind, message) in REASONS.items():
        assert failed[name]["error.kind"] == kind
        assert failed[name]["error.message"].startswith(message)
        assert f"  tiny_random · {name}\n    {kind}: {message}" in done.stderr
    assert done.stderr.count("Once more, in a fresh worker.") == len(ONCE) + len(ALWAYS) - 1
    assert "5 of 60 cells failed:" in done.stderr
    assert "Traceback" not in done.stderr


def check_whole(uri: str) -> None:
    parents, cells = split(uri)
    show("the same command again, without", [*parents, *cells])
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert Counter(run.info.status for run in cells) == {"FINISHED": NUM_CELLS, "FAILED": len(ALWAYS)}
    finished = [run for run in cells if run.info.status == "FINISHED"]
    assert len({run.data.tags["fingerprint"] for run in finished}) == NUM_CELLS
    assert all({"quality", "memory/weights_mib"} <= run.data.metrics.keys() for run in finished)
    assert len({run.data.tags["sweep_id"] for run in (*parents, *cells)}) == 1


def show(what: str, found: list[Run]) -> None:
    """The end state, in what pytest captures: `pytest -s` or -rP shows it."""
    print(what, dict(Counter((run.data.tags["bioquant.kind"], run.info.status) for run in found)))
    for run in filter(is_failed, found):
        print(f"  {run.info.run_name}: {run.data.tags['error.kind']}: {run.data.tags['error.message'][:90]}")


def split(uri: str) -> tuple[list[Run], list[Run]]:
    """The sweep's own runs, and the cells'."""
    found = runs(uri)
    return (
        [run for run in found if run.data.tags["bioquant.kind"] == "sweep"],
        [run for run in found if run.data.tags["bioquant.kind"] == "cell"],
    )


def is_failed(run: Run) -> bool:
    return run.info.status == "FAILED"
