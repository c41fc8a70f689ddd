"""Kill -9 at random moments and between any two steps: what is resumed is what an undisturbed run gives, to the byte.

Nothing is left open, nothing is finished twice. `pytest -rP` shows the table of trials.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from faults import kill_at

SMALL = (
    "model=tiny_random",
    "limit=10",
    "engine.batch=2",
    "engine.max_new_tokens=12",
    "measure.latency_examples=0",
    "measure.bootstrap_resamples=50",
)

DRAWN = (*SMALL, "prompt.num_samples=3", "prompt.temperature=0.7", "prompt.reasoning_tokens=8")
SWEEP = ("-m", *DRAWN, "quant=none,bnb_nf4", "task=demo_ner,demo_mlc", "prompt=zero_shot,self_consistency")
NUM_CELLS = 8

SINGLE = (*SMALL, "limit=36", "task=demo_re", "prompt=five_shot")
LIKELIEST = (*SMALL, "limit=36", "task=demo_qa", "engine.scoring=loglikelihood")

SEEDS = range(int(os.environ.get("BIOQUANT_KILL_SEEDS", "4")))
KILLS = 8
"""A seed. Each is a trial: killed, resumed, and in the end compared."""


@dataclass(frozen=True)
class Kill:
    """Who was killed, how long after the command began, and how many examples were journaled by then."""

    victim: str
    after_s: float
    journaled: int


def start(root: Path, arguments: tuple[str, ...], **environment: str) -> subprocess.Popen[bytes]:
    with (root / "stderr.log").open("ab") as log:
        return subprocess.Popen(
            [Path(sys.executable).with_name("bioquant"), "run", *arguments],
            cwd=root,
            env={**os.environ, "BIOQUANT_ROOT": str(root), **environment},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def project(folder: Path, fresh_database: Path) -> Path:
    """A new project; its database has MLflow's tables already, which take seconds to make."""
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(fresh_database, folder / "mlruns" / "mlflow.db")
    return folder


def undisturbed(root: Path, arguments: tuple[str, ...]) -> dict[str, bytes]:
    assert start(root, arguments).wait(timeout=900) == 0, (root / "stderr.log").read_text()
    return finished(root)


def runs(root: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def finished(root: Path) -> dict[str, bytes]:
    """The predictions of each finished cell by its fingerprint; each was finished once."""
    cells = [run for run in runs(root) if run.data.tags["bioquant.kind"] == "cell" and run.info.status == "FINISHED"]
    assert set(Counter(run.data.tags["fingerprint"] for run in cells).values()) == {1}
    folders = {run.data.tags["fingerprint"]: Path(run.data.tags["folder"]) for run in cells}
    return {fingerprint: (folder / "predictions.jsonl").read_bytes() for fingerprint, folder in folders.items()}


def journaled(root: Path) -> int:
    """Lines in all journals: they grow with each example, in whichever folder it is."""
    return sum(path.read_bytes().count(b"\n") for path in root.glob("multirun/**/journal.jsonl"))


def await_moment(process: subprocess.Popen[bytes], root: Path, rng: Random) -> None:
    """Until a random moment: one time in four while it starts, else some examples on. Or until it ends."""
    early = rng.random() < 0.25
    examples = journaled(root) + rng.randint(1, 8)
    pause = rng.uniform(0, 3 if early else 0.3)
    while process.poll() is None and not early and journaled(root) < examples:
        time.sleep(0.02)
    time.sleep(pause)


def strike(process: subprocess.Popen[bytes], rng: Random) -> str:
    """Kill the parent or one of its workers."""
    workers = psutil.Process(process.pid).children()
    if workers and rng.random() < 0.5:
        rng.choice(workers).kill()
        return "worker"
    process.kill()
    return "parent"


def disturbed(root: Path, arguments: tuple[str, ...], rng: Random, kills: int) -> list[Kill]:
    """The same command, killed at random moments, again and again until it ends: on a fast machine early."""
    trials = list[Kill]()
    while True:
        begun, process = time.monotonic(), start(root, arguments)
        while len(trials) < kills and process.poll() is None:
            await_moment(process, root, rng)
            if process.poll() is None:
                trials.append(Kill(strike(process, rng), time.monotonic() - begun, journaled(root)))
                if trials[-1].victim == "parent":
                    break
        code = process.wait(timeout=900)
        # 1: a cell whose worker was killed twice is given up; the same command takes it up again.
        assert code in (0, 1, -signal.SIGKILL), (root / "stderr.log").read_text()
        if code == 0:
            return trials


def check(root: Path, expected: dict[str, bytes]) -> None:
    assert finished(root) == expected
    assert {run.info.status for run in runs(root)} <= {"FINISHED", "FAILED", "KILLED"}
    assert [run.info.status for run in runs(root) if run.data.tags["bioquant.kind"] == "sweep"][:1] in (
        [],
        ["FINISHED"],
    )
    assert not psutil.Process().children(recursive=True)
    assert not list(root.glob("multirun/.cells/*.json"))


def show(seed: int, trials: list[Kill]) -> None:
    for number, kill in enumerate(trials, start=1):
        print(f"| {seed} | {number} | {kill.victim} | {kill.after_s:.1f} | {kill.journaled} |")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, fresh_database: Path) -> dict[str, bytes]:
    found = undisturbed(project(tmp_path_factory.mktemp("undisturbed") / "project", fresh_database), SWEEP)
    assert len(found) == NUM_CELLS
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sweep_that_is_killed_again_and_again(
    tmp_path: Path, fresh_database: Path, expected: dict[str, bytes], seed: int
) -> None:
    rng, trials = Random(seed), list[Kill]()
    while len(trials) < KILLS:
        root = project(tmp_path / str(len(trials)), fresh_database)
        trials += disturbed(root, SWEEP, rng, KILLS - len(trials))
        check(root, expected)
    show(seed, trials)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "seed"), [(SINGLE, 10), (LIKELIEST, 11)], ids=["generated", "likeliest"])
def test_a_single_cell_that_is_killed(
    tmp_path: Path, fresh_database: Path, arguments: tuple[str, ...], seed: int
) -> None:
    root = project(tmp_path / "disturbed", fresh_database)
    show(seed, disturbed(root, arguments, Random(seed), 3))
    check(root, undisturbed(project(tmp_path / "undisturbed", fresh_database), arguments))


ONE_CELL = (*DRAWN, "task=demo_mlc")
TWO_CELLS = ("-m", *DRAWN, "task=demo_ner,demo_mlc")
"""Cells of the sweep above, whose predictions are known."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "step", "nth", "moment"),
    [
        (ONE_CELL, "tracking.log_result", 1, "after"),  # its result is logged, its end is not
        (ONE_CELL, "tracking.lifecycle.end_run", 1, "after"),  # its end is on disk, and may not be delivered
        (ONE_CELL, "attempts.done", 1, "before"),  # MLflow has it all, its note is still there
        (TWO_CELLS, "tracking.end_run", 1, "before"),
        (TWO_CELLS, "attempts.done", 2, "before"),
        (TWO_CELLS, "tracking.log_sweep_table", 1, "before"),  # no cell is left, but the sweep's own run
        (TWO_CELLS, "tracking.lifecycle.flush", 1, "after"),  # the sweep's run is finished, its note is still there
    ],
)
def test_a_kill_between_two_steps_leaves_nothing_open_and_nothing_is_run_twice(
    tmp_path: Path,
    fresh_database: Path,
    expected: dict[str, bytes],
    arguments: tuple[str, ...],
    step: str,
    nth: int,
    moment: str,
) -> None:
    root = project(tmp_path / "project", fresh_database)
    killed = start(root, arguments, **kill_at(tmp_path / "killer", step, nth, moment))
    assert killed.wait(timeout=300) == -signal.SIGKILL, (root / "stderr.log").read_text()
    assert start(root, arguments).wait(timeout=300) == 0, (root / "stderr.log").read_text()
    num_cells = 1 if arguments is ONE_CELL else 2
    found = finished(root)
    assert len(found) == num_cells
    check(root, {fingerprint: expected[fingerprint] for fingerprint in found})
    assert [run.info.status for run in runs(root)] == ["FINISHED"] * (num_cells + (arguments is TWO_CELLS))
