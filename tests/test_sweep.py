"""A sweep's order, its workers, and what it leaves in MLflow, with a real model in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

from bioquant.errors import CellsFailedError
from bioquant.sweep.launch import failed, refuse_other_prompts
from conftest import Command
from faults import happened, inject

TINY = ("model=tiny_random", "limit=4", "measure.latency_examples=2", "measure.bootstrap_resamples=100")


def test_quants_that_were_asked_different_prompts_are_not_compared() -> None:
    rows = [
        {"model": "m", "task": "t", "prompt": "p", "baseline_cell_id": "b", "input_ids_sha256": asked}
        for asked in ("one", "one", "other")
    ]
    refuse_other_prompts(rows[:2])
    with pytest.raises(CellsFailedError) as caught:
        refuse_other_prompts(rows)
    assert str(caught.value) == (
        "the quants of m on t with p were asked different prompts (their input ids differ), "
        "so they cannot be compared: use one tokenizer and one context length."
    )


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")


def runs_of(root: Path) -> list[object]:
    experiment = client(root).get_experiment_by_name("bioquant")
    assert experiment is not None
    return list(client(root).search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


@pytest.mark.slow
def test_a_sweep_is_a_parent_run_with_its_cells_as_children(bioquant: Command, tmp_path: Path) -> None:
    result = bioquant("run", "-m", *TINY, "quant=none,bnb_nf4", "task=demo_qa,demo_ner", "--json", root=tmp_path)
    assert result.returncode == 0, result.stderr
    parent, *children = runs_of(tmp_path)
    assert parent.data.tags["bioquant.kind"] == "sweep"
    assert parent.data.params["quant"] == "none,bnb_nf4"
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert [(run.data.params["quant"], run.data.params["task"]) for run in children] == [
        ("none", "demo_qa"),
        ("none", "demo_ner"),
        ("bnb_nf4", "demo_qa"),
        ("bnb_nf4", "demo_ner"),
    ]
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["sweep_id"] == run.data.params["sweep_id"] == parent.data.tags["sweep_id"]
        assert len(run.data.params) <= 40
        assert {
            "quality",
            "quality_ci_low",
            "invalid_rate",
            "memory/weights_mib",
            "latency/ttft_ms_p50",
        } <= run.data.metrics.keys()
        [dataset] = run.inputs.dataset_inputs
        assert dataset.dataset.digest == run.data.tags["dataset_sha256"][:36]
        assert len(run.data.tags["fingerprint"]) == 64
    baseline, _, candidate, _ = children
    assert candidate.data.tags["baseline_cell_id"] == baseline.data.tags["cell_id"]
    assert candidate.data.tags["input_ids_sha256"] == baseline.data.tags["input_ids_sha256"]
    assert len(json.loads(result.stdout)) == 4
    assert not list(tmp_path.rglob("multirun/**/mlflow.db"))
    assert_artifacts(tmp_path, candidate.info.run_id)
    course = client(tmp_path).get_metric_history(candidate.info.run_id, "system/cpu_utilization_percentage")
    assert [reading.step for reading in course] == list(range(len(course)))
    assert course


def assert_artifacts(root: Path, run_id: str) -> None:
    names = {item.path for item in client(root).list_artifacts(run_id)}
    assert {"config.yaml", "predictions.parquet", "predictions.json", "environment.json", "quantization.json"} <= names
    table = pd.read_parquet(client(root).download_artifacts(run_id, "predictions.parquet"))
    assert len(table) == 4
    proof = json.loads(Path(client(root).download_artifacts(run_id, "quantization.json")).read_text(encoding="utf-8"))
    assert proof["replaced"]
    assert proof["bytes_after"] < proof["bytes_before"]


@pytest.mark.slow
def test_two_runs_of_one_cell_give_the_same_bytes(bioquant: Command, tmp_path: Path) -> None:
    for _ in range(2):
        done = bioquant("run", *TINY, "quant=bnb_int8", "task=demo_mlc", "resume=false", root=tmp_path)
        assert done.returncode == 0
    first, second = (path.read_bytes() for path in sorted(tmp_path.glob("multirun/*/predictions.jsonl")))
    assert first == second
    one, two = runs_of(tmp_path)
    assert one.data.tags["cell_id"] == two.data.tags["cell_id"]


@pytest.mark.slow
def test_the_same_command_again_runs_only_what_is_missing(bioquant: Command, tmp_path: Path) -> None:
    first = ("run", "-m", *TINY, "task=demo_qa,demo_mlc", "--json")
    rows = json.loads(bioquant(*first, root=tmp_path).stdout)
    again = bioquant(*first, root=tmp_path)
    assert again.returncode == 0
    assert "2 cells: all are finished already; resume=false runs them again." in again.stderr
    assert json.loads(again.stdout) == [{**row, "command": ""} for row in rows]
    assert len(runs_of(tmp_path)) == 3
    assert len(list(tmp_path.glob("multirun/sweep_*"))) == 1
    larger = bioquant("run", "-m", *TINY, "task=demo_qa,demo_mlc,demo_re", root=tmp_path)
    assert "3 cells: 1 to run in 1 groups" in larger.stderr
    assert len(runs_of(tmp_path)) == 5
    alone = bioquant("run", *TINY, "task=demo_re", root=tmp_path)
    assert "tiny_random · none · demo_re · zero_shot is finished already: resume=false runs it again" in alone.stderr
    assert len(runs_of(tmp_path)) == 5


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_leaves_nothing(bioquant: Command, tmp_path: Path) -> None:
    axes = ("task=demo_qa,demo_ner", "prompt=zero_shot,one_shot", "prompt.kinds=[qa]")
    asked = ("run", "-m", *TINY, *axes, "sweep.dry_run=true")
    shown = bioquant(*asked, root=tmp_path)
    assert shown.returncode == 0
    assert "4 cells: 2 to run in 1 groups that load a model once, 8 examples; 0 finished; 2 pruned." in shown.stdout
    assert "pruned 1: prompt 'one_shot' makes no sense for ner tasks (prompt.kinds: qa)" in shown.stdout
    rows = json.loads(bioquant(*asked, "--json", root=tmp_path).stdout)
    assert [row["state"] for row in rows] == ["to run", "to run", "pruned", "pruned"]
    assert rows[0]["command"].startswith("bioquant run model=tiny_random limit=4")
    assert not list(tmp_path.glob("multirun/sweep_*"))
    assert runs_of(tmp_path) == []


@pytest.mark.slow
def test_a_sweep_of_nothing_that_can_run_says_why(bioquant: Command, tmp_path: Path) -> None:
    done = bioquant("run", "-m", *TINY, "task=demo_ner", "prompt.kinds=[re,qa]", "seed=1,2", root=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: none of the 2 cells can run: prompt 'zero_shot' makes no sense for ner tasks (prompt.kinds: re, qa).\n"
    )


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_told_before_anything_runs(bioquant: Command, tmp_path: Path) -> None:
    done = bioquant("run", "-m", *TINY, "launcher.devices=[7]", "seed=1,2", root=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "launcher.devices: there is no GPU 7 here. GPUs this process may use: none." in done.stderr
    done = bioquant("run", "-m", *TINY, "engine.device=cuda", "seed=1,2", root=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "launcher.gpus_per_worker=1 but the GPUs to use are: none." in done.stderr
    assert runs_of(tmp_path) == []


@pytest.mark.slow
def test_a_cell_that_fails_does_not_take_the_others_with_it(bioquant: Command, tmp_path: Path) -> None:
    """Of a context of 1,000 tokens, an answer of 990 leaves no room for a prompt, however short."""
    result = bioquant("run", "-m", *TINY, "model.context_length=1000", "engine.max_new_tokens=4,990", root=tmp_path)
    assert result.returncode == 1
    named = "tiny_random · none · demo_qa · zero_shot · engine.max_new_tokens=990"
    assert f"error: 1 of 2 cells failed:\n  {named}\n    config: " in result.stderr
    assert "\n    bioquant run model=tiny_random" in result.stderr
    assert "Traceback" not in result.stderr
    parent, good, bad = runs_of(tmp_path)
    assert (parent.info.status, good.info.status, bad.info.status) == ("FAILED", "FINISHED", "FAILED")
    assert bad.data.tags["error.kind"] == "config"
    assert "prompt tokens" in bad.data.tags["error.message"]
    assert "run.log" in {item.path for item in client(tmp_path).list_artifacts(bad.info.run_id)}


@pytest.mark.slow
def test_each_worker_sees_what_its_slot_says(bioquant: Command, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'bioquant.sweep.worker' in sys.orig_argv:\n"
        "    names = ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS')\n"
        f"    open(f'{seen}/{{os.getpid()}}', 'w').write(' '.join(os.environ.get(name, '-') for name in names))\n"
    )
    done = bioquant(
        "run",
        "-m",
        *TINY,
        "quant=none,bnb_nf4",
        "launcher.cpu_workers=2",
        root=tmp_path,
        PYTHONPATH=str(tmp_path),
        OMP_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    assert [path.read_text() for path in seen.iterdir()] == [" 1 1", " 1 1"]


def started(root: Path, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
    """A sweep of two quants; what it says goes to stderr.log."""
    # A test run started in the background ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = ["model=tiny_random", "quant=none,bnb_nf4", "task=demo_ner", "measure.latency_examples=0", *overrides]
    with (root / "stderr.log").open("a") as log:
        return subprocess.Popen(
            [Path(sys.executable).with_name("bioquant"), "run", "-m", *command],
            cwd=root,
            env={**os.environ, "BIOQUANT_ROOT": str(root), **environment},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def stderr_of(root: Path) -> str:
    return (root / "stderr.log").read_text(encoding="utf-8")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


FIRST = "none · demo_ner · zero_shot"


def hung(root: Path) -> subprocess.Popen[bytes]:
    """A sweep whose first cell has begun to answer, and goes no further."""
    faults = root / "faults"
    process = started(root, **inject(faults, {FIRST: ("hang", 1, 1)}))
    wait_until(lambda: happened(faults) == 1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_stop_at_once_leaves_no_run_running(tmp_path: Path, how: signal.Signals) -> None:
    """Even where a cell hangs: Ctrl-C twice, or SIGTERM once."""
    process = hung(tmp_path)
    process.send_signal(how)
    if how is signal.SIGINT:
        wait_until(lambda: "Ctrl-C again stops at once" in stderr_of(tmp_path))
        process.send_signal(how)
    assert process.wait(timeout=120) == 130, stderr_of(tmp_path)
    assert "stopped: the same command again goes on from here" in stderr_of(tmp_path)
    assert [run.info.status for run in runs_of(tmp_path)] == ["KILLED", "KILLED"]


@pytest.mark.slow
def test_ctrl_c_once_finishes_the_examples_in_flight_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The first batch waits until the worker is told to stop: it is finished, and no other is begun."""
    overrides = ("engine.batch=4", "engine.max_new_tokens=20", "limit=24")
    faults = tmp_path / "faults"
    process = started(tmp_path, *overrides, **inject(faults, {FIRST: ("hold", 1, 1)}))
    wait_until(lambda: happened(faults) == 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, stderr_of(tmp_path)
    assert "stopping after the examples in flight; Ctrl-C again stops at once" in stderr_of(tmp_path)
    [journal] = tmp_path.glob("multirun/*/0/journal.jsonl")
    assert len(journal.read_text().splitlines()) == 4
    assert {run.info.status for run in runs_of(tmp_path)} == {"KILLED"}
    assert started(tmp_path, *overrides).wait(timeout=300) == 0, stderr_of(tmp_path)
    parent, killed, *finished = runs_of(tmp_path)
    assert parent.info.status == "FINISHED"
    assert killed.info.status == "KILLED"
    assert [run.info.status for run in finished] == ["FINISHED", "FINISHED"]
    assert {run.data.tags["sweep_id"] for run in (parent, killed, *finished)} == {parent.data.tags["sweep_id"]}


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_cells_between_them(tmp_path: Path) -> None:
    """None of the cells is run twice, and both sweeps know them all in the end."""
    overrides = ("limit=8", "task=demo_ner,demo_qa,demo_re", "engine.max_new_tokens=8")
    both = [started(tmp_path, *overrides) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0], stderr_of(tmp_path)
    cells = [run for run in runs_of(tmp_path) if run.data.tags["bioquant.kind"] == "cell"]
    assert [run.info.status for run in cells] == ["FINISHED"] * 6
    assert len({run.data.tags["fingerprint"] for run in cells}) == 6


@pytest.mark.slow
def test_an_orphaned_worker_is_gone_at_once(tmp_path: Path) -> None:
    process = hung(tmp_path)
    [worker] = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    worker.wait(timeout=60)


def test_failed_cells_of_the_same_names_are_told_apart() -> None:
    names = {
        "model": "m",
        "quant": "q",
        "task": "t",
        "prompt": "p",
        "error_kind": "quant",
        "error": "no",
        "command": "c",
    }
    rows = [names | {"setting": setting} for setting in ("quant.block_size=64", "")]
    assert failed(rows) == (
        "2 of 2 cells failed:\n  m · q · t · p · quant.block_size=64\n    quant: no\n    c"
        "\n  m · q · t · p\n    quant: no\n    c"
    )
