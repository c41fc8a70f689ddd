"""What the platform costs beside the model: the same cells as one sweep, and through Hydra's basic launcher.

    python benchmarks/sweep.py --seeds 15 --basic-seeds 5     # 2 quants x 4 tasks x 15 seeds: 120 cells of tiny_random

Model time is what the cells themselves report: loading (once a worker in a sweep, once a cell otherwise) and answering.
The rest of the wall time, over the cells, is the platform's: starting, planning, reading data, scoring, files, logging.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mlflow import MlflowClient

TINY = (
    "model=tiny_random",
    "quant=none,bnb_nf4",
    "task=demo_qa,demo_ner,demo_re,demo_mlc",
    "limit=8",
    "engine.max_new_tokens=4",
    "measure.latency_examples=0",
    "measure.bootstrap_resamples=1000",
)


@dataclass(frozen=True)
class Timed:
    """A command's wall and CPU seconds, and the seconds its cells' models loaded and answered.

    working_s: from the first cell's start to the last one's end.
    """

    cells: int
    wall_s: float
    cpu_s: float
    working_s: float
    answering_s: float
    loading_s: float
    device: str

    def overhead_s(self) -> float:
        """Of the platform, a cell."""
        return (self.wall_s - self.answering_s - self.loading_s) / self.cells


def timed(arguments: Sequence[str]) -> Timed:
    """Run the command in an empty project of its own."""
    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "BIOQUANT_ROOT": root, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "bioquant", "run", "-m", *arguments]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return summed(cells_of(root), wall, cpu, grouped="hydra/launcher=basic" not in arguments)


def cells_of(root: str) -> list[Any]:
    """The runs of the cells."""
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`bioquant.kind` = 'cell'", max_results=10_000)
    assert {run.info.status for run in found} == {"FINISHED"}
    return list(found)


def summed(cells: Sequence[Any], wall_s: float, cpu_s: float, *, grouped: bool) -> Timed:
    """What the cells took: in a sweep those of a worker share one load, and each reports it."""
    metrics = [run.data.metrics for run in cells]
    answering = sum(cell["num_examples"] / cell["throughput/examples_per_s"] for cell in metrics)
    loads = {
        (run.data.params["quant"] if grouped else run.info.run_id): run.data.metrics["load/seconds"] for run in cells
    }
    working_ms = max(run.info.end_time for run in cells) - min(run.info.start_time for run in cells)
    device = cells[0].data.tags["device.name"]
    return Timed(len(cells), wall_s, cpu_s, working_ms / 1000, answering, sum(loads.values()), device)


HEADING = "| {} | cells | wall s | CPU s | answering s | loading s | platform s a cell |\n|" + " --- |" * 7


def line(name: str, found: Timed) -> str:
    """One line of the table."""
    return (
        f"| {name} | {found.cells} | {found.wall_s:.1f} | {found.cpu_s:.1f} | {found.answering_s:.1f} "
        f"| {found.loading_s:.1f} | {found.overhead_s():.2f} |"
    )


def versions() -> str:
    """Of Python and of what the time is spent in."""
    libraries = ("torch", "transformers", "bitsandbytes", "mlflow", "hydra-core")
    return ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in libraries)])


def main() -> None:
    """The grouped launcher against Hydra's own, which loads the model in each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--basic-seeds", type=int, default=15, help="the basic launcher's")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {versions()}\n\n{HEADING.format('launcher')}",
        flush=True,
    )
    print(line("grouped", timed((*TINY, f"seed=range(0,{options.seeds})"))), flush=True)
    print(line("basic", timed((*TINY, f"seed=range(0,{options.basic_seeds})", "hydra/launcher=basic"))), flush=True)


if __name__ == "__main__":
    main()
