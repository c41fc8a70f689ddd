"""Single cells through the launchers of Hydra, joblib and submitit: each is a job and keeps its own MLflow run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from conftest import Command
from faults import happened, inject
from test_sweep import wait_until
from test_sweep_kill import SMALL, finished, project, runs

CELLS = ("-m", *SMALL, "task=demo_re,demo_mlc")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_other_launchers_run_each_cell_on_its_own(
    bioquant: Command, tmp_path: Path, fresh_database: Path, launcher: str
) -> None:
    root = project(tmp_path / "project", fresh_database)
    done = bioquant("run", *CELLS, f"hydra/launcher={launcher}", root=root)
    assert done.returncode == 0, done.stderr
    assert [run.info.status for run in runs(root)] == ["FINISHED", "FINISHED"]
    assert len(finished(root)) == 2


def job_of(parent: subprocess.Popen[str]) -> psutil.Process:
    """The process of a SLURM-like job."""
    children = psutil.Process(parent.pid).children(recursive=True)
    return next(child for child in children if "submitit.core._submit" in child.cmdline())


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on_in_its_own_run(tmp_path: Path, fresh_database: Path) -> None:
    """As SLURM does it: a signal, the job ends, and is queued again with the same folder."""
    root = project(tmp_path / "project", fresh_database)
    alone = project(tmp_path / "alone", fresh_database)
    cells = ("-m", *SMALL, "task=demo_ner")
    faults = tmp_path / "faults"
    hang = inject(faults, {"none · demo_ner · zero_shot": ("hang", 3, 1)})
    command = [Path(sys.executable).with_name("bioquant"), "run", *cells, "hydra/launcher=submitit_local"]
    environment = {**os.environ, "BIOQUANT_ROOT": str(root)}
    with subprocess.Popen(
        command, cwd=root, env={**environment, **hang}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: happened(faults) == 1)
        job_of(process).send_signal(signal.SIGUSR2)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    [run] = runs(root)
    assert run.info.status == "FINISHED"
    assert "error.kind" not in run.data.tags
    assert "memory/peak_device_mib" not in run.data.metrics  # it went on from its journal
    [log] = root.glob("multirun/*/.submitit/*/*_log.out")
    assert "Requeued job" in log.read_text(encoding="utf-8")
    again = subprocess.run(command[:-1], cwd=alone, env={**environment, "BIOQUANT_ROOT": str(alone)}, check=False)
    assert again.returncode == 0
    assert finished(root) == finished(alone)
