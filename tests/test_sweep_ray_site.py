"""A sweep on a real Ray cluster of several nodes, one of which is lost while it works."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bioquant.config import Device
from bioquant.errors import ConfigError
from bioquant.launching import LauncherConfig
from bioquant.sweep import ray_site
from conftest import Command
from faults import happened, inject
from test_sweep import wait_until
from test_sweep_kill import finished, runs

SWEEP = (
    "-m",
    "model=tiny_random",
    "quant=none,bnb_nf4,bnb_fp4",
    "task=demo_ner,demo_mlc",
    "limit=8",
    "engine.batch=2",
    "engine.max_new_tokens=8",
    "measure.latency_examples=0",
    "measure.bootstrap_resamples=50",
)
NUM_CELLS = 6


class Cluster:
    """The cluster's process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._reply()["address"]

    def kill_a_node(self) -> int:
        assert self._process.stdin
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        return self._reply()["left"]

    def _reply(self) -> dict[str, object]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # Ray prints, too
                return json.loads(line)
        raise AssertionError("the cluster is gone")


@contextmanager
def cluster(num_nodes: int, folder: Path, **environment: str) -> Iterator[Cluster]:
    script = Path(__file__).with_name("ray_cluster.py")
    with (
        (folder / "ray.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, script, str(num_nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
            text=True,
        ) as process,
    ):
        yield Cluster(process)


@pytest.mark.slow
def test_a_node_that_is_lost_costs_nothing(bioquant: Command, tmp_path: Path) -> None:
    """Two nodes take a group each; one of them is killed in the middle, and its cell goes on on the other.

    Ray gives an actor one thread, so the comparison has one.
    """
    alone, root, faults, one_thread = (
        tmp_path / "alone",
        tmp_path / "ray",
        tmp_path / "faults",
        {"OMP_NUM_THREADS": "1"},
    )
    alone.mkdir()
    root.mkdir()
    with cluster(2, tmp_path, **one_thread, **inject(faults, {"zero_shot": ("hold", 3, 99)})) as nodes:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("bioquant"),
                "run",
                *SWEEP,
                "hydra/launcher=ray",
                f"launcher.address={nodes.address}",
            ],
            cwd=root,
            env={**os.environ, "BIOQUANT_ROOT": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: happened(faults) == 2)
        assert nodes.kill_a_node() == 1
        (faults / "release").touch()
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert "the node is gone" in stderr
    assert [run.info.status for run in runs(root)] == ["FINISHED"] * (NUM_CELLS + 1)
    assert bioquant("run", *SWEEP, root=alone, **one_thread).returncode == 0
    assert finished(root) == finished(alone)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told_in_one_line(bioquant: Command, tmp_path: Path) -> None:
    done = bioquant("run", *SWEEP, "hydra/launcher=ray", "launcher.address=127.0.0.1:9", root=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: launcher.address=127.0.0.1:9: no Ray cluster answers there.")
    assert done.stderr.count("\n") == 1


def test_ray_is_imported_only_when_it_is_used() -> None:
    code = (
        "import sys\n"
        "import bioquant.sweep.launch, bioquant.sweep.ray_site, bioquant.verbs.run\n"
        "assert not {'ray', 'submitit', 'joblib.externals.loky'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as caught:
        ray_site.RayCluster(LauncherConfig())
    assert str(caught.value) == "hydra/launcher=ray needs Ray, which is not installed: pip install 'bioquant[ray]'"


def test_each_group_asks_for_its_gpus_and_gets_what_it_needs_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    given: list[dict[str, str]] = []

    class Actor:
        @staticmethod
        def options(**options: object) -> type["Actor"]:
            asked.append(options)
            return Actor

        @staticmethod
        def remote(environment: dict[str, str]) -> str:
            given.append(environment)
            return "an actor"

    class Ray:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 32.0, "GPU": 4.0}

        @staticmethod
        def remote(_: type) -> type[Actor]:
            return Actor

    monkeypatch.setattr(ray_site, "_connected", lambda _: Ray)
    monkeypatch.setenv("BIOQUANT_ROOT", "/shared/project")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    site = ray_site.RayCluster(LauncherConfig(gpus_per_worker=2, cpus_per_worker=8))
    assert len(site.gpus) == 4
    on_gpu, on_cpu = site.slots([Device.cuda, Device.cpu])
    for slot in (on_gpu, on_cpu):
        assert site._actor(slot) == "an actor"
    assert [(options["num_gpus"], options["num_cpus"]) for options in asked] == [(2, 8), (0, 8)]
    assert {options["max_restarts"] for options in asked} == {0}
    assert given[0]["BIOQUANT_ROOT"] == "/shared/project"
    assert given[0]["HF_TOKEN"] == "secret"
    assert "MLFLOW_TRACKING_PASSWORD" not in given[0]
