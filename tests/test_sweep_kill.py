"""Kill -9 at random moments: a resumed run gives what an undisturbed one does, to the byte, and leaves nothing open."""

import os
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

SMALL = (
    "model=tiny_random",
    "limit=10",
    "engine.batch=2",
    "engine.max_new_tokens=12",
    "measure.latency_examples=0",
    "measure.bootstrap_resamples=50",
)

SWEEP = (
    "-m",
    *SMALL,
    "quant=none,bnb_nf4",
    "task=demo_ner,demo_mlc",
    "prompt=zero_shot,self_consistency",
    "prompt.num_samples=3",
    "prompt.temperature=0.7",
    "prompt.reasoning_tokens=8",
)
NUM_CELLS = 6

SINGLE = (*SMALL, "task=demo_re", "prompt=five_shot")
LIKELIEST = (*SMALL, "task=demo_qa", "engine.scoring=loglikelihood")

KILLS = 8
"""A seed. Each is a trial: killed, resumed, and in the end compared."""


@dataclass(frozen=True)
class Kill:
    """Who was killed, when (seconds since the command began), and how many examples had been journaled by then."""

    victim: str
    after_s: float
    journaled: int


def start(root: Path, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    with (root / "stderr.log").open("ab") as log:
        return subprocess.Popen(
            [Path(sys.executable).with_name("bioquant"), "run", *arguments],
            cwd=root,
            env={**os.environ, "BIOQUANT_ROOT": str(root)},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


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


def disturbed(root: Path, arguments: tuple[str, ...], seed: int, kills: int) -> list[Kill]:
    """The same command again and again, killed at random moments, until it has been left alone to its end."""
    rng, trials = Random(seed), list[Kill]()
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
    assert not psutil.Process().children(recursive=True)
    assert not list(root.glob("multirun/.cells/*.json"))


def show(seed: int, trials: list[Kill]) -> None:
    """The table of trials, in what pytest captures: `pytest -s` or -rP shows it."""
    for number, kill in enumerate(trials, start=1):
        print(f"| {seed} | {number} | {kill.victim} | {kill.after_s:.1f} | {kill.journaled} |")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = undisturbed(tmp_path_factory.mktemp("undisturbed"), SWEEP)
    assert len(found) == NUM_CELLS
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_that_is_killed_again_and_again(tmp_path: Path, expected: dict[str, bytes], seed: int) -> None:
    trials = disturbed(tmp_path, SWEEP, seed, KILLS)
    show(seed, trials)
    assert len(trials) == KILLS
    check(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "seed"), [(SINGLE, 10), (LIKELIEST, 11)], ids=["generated", "likeliest"])
def test_a_single_cell_that_is_killed(tmp_path: Path, arguments: tuple[str, ...], seed: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    trials = disturbed(tmp_path / "b", arguments, seed, 3)
    show(seed, trials)
    check(tmp_path / "b", undisturbed(tmp_path / "a", arguments))
