"""What the platform costs beside the model: the same cells as one sweep, and through Hydra's basic launcher.

    python benchmarks/sweep.py overhead --seeds 15        # 2 quants x 4 tasks x 15 seeds = 120 cells of tiny_random
    python benchmarks/sweep.py scaling --model llama_3_1_8b --task medqa,hoc --limit 200   # one GPU, then two

Model time is what the cells themselves report: loading (once a worker in a sweep, once a cell otherwise) and answering.
The rest of the wall time, over the cells, is the platform's: starting, planning, reading data, scoring, files, logging.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
    """A command's wall and CPU seconds, and the seconds its cells' models loaded and answered."""

    cells: int
    wall_s: float
    cpu_s: float
    answering_s: float
    loading_s: float

    def overhead_s(self) -> float:
        """Of the platform, a cell."""
        return (self.wall_s - self.answering_s - self.loading_s) / self.cells


def timed(arguments: Sequence[str]) -> Timed:
    """Run the command in an empty project of its own."""
    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "BIOQUANT_ROOT": root, "HF_HUB_OFFLINE": "1"}
        command = [Path(sys.executable).with_name("bioquant"), "run", "-m", *arguments]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, check=True)
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
    return Timed(len(cells), wall_s, cpu_s, answering, sum(loads.values()))


def show(name: str, found: Timed) -> None:
    """One line of the table."""
    print(
        f"| {name} | {found.cells} | {found.wall_s:.1f} | {found.cpu_s:.1f} | {found.answering_s:.1f} "
        f"| {found.loading_s:.1f} | {found.overhead_s():.2f} |",
        flush=True,
    )


def overhead(options: argparse.Namespace) -> None:
    """The grouped launcher against Hydra's own."""
    arguments = (*TINY, f"seed=range(0,{options.seeds})")
    show("grouped", timed(arguments))
    show("basic", timed((*arguments, "hydra/launcher=basic")))


def scaling(options: argparse.Namespace) -> None:
    """One worker, then two on two GPUs."""
    given = (f"model={options.model}", f"quant={options.quant}", f"task={options.task}", f"limit={options.limit}")
    arguments = (*given, "measure.latency_examples=0")
    one = timed((*arguments, "launcher.devices=[0]"))
    show("one GPU", one)
    two = timed((*arguments, "launcher.devices=[0,1]"))
    show("two GPUs", two)
    print(f"speed-up {one.wall_s / two.wall_s:.2f}")


def main() -> None:
    """Say on what, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    first = modes.add_parser("overhead")
    first.add_argument("--seeds", type=int, default=15)
    first.set_defaults(run=overhead)
    second = modes.add_parser("scaling")
    second.add_argument("--model", default="smollm2_135m")
    second.add_argument("--quant", default="none,bnb_nf4")
    second.add_argument("--task", default="demo_qa,demo_ner,demo_re,demo_mlc")
    second.add_argument("--limit", default="null")
    second.set_defaults(run=scaling)
    options = parser.parse_args()
    print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg(), "python": sys.version.split()[0]}))
    print("| launcher | cells | wall s | CPU s | answering s | loading s | platform s a cell |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    options.run(options)


if __name__ == "__main__":
    main()
