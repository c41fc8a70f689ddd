"""Every recipe that runs on a CPU, on one model: bytes, perplexity, divergence, speed, and quality on two tasks.

    python benchmarks/recipes.py                    # SmolLM2-135M; needs the extras: make extras installs .venv_extras
    python benchmarks/recipes.py --folder DIR       # keeps the runs, and goes on where it stopped
    python benchmarks/recipes.py --tasks pubmedqa,mmlu_medical prompt=five_shot limit=100    # any override of a run

One sweep through `bioquant run -m ... quant.check=true`; the table is read from the MLflow runs that it logged.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from bioquant import compose, quantization
from bioquant.config import Device, QuantConfig

QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
FIGURES = {
    "weights MiB": ("memory/weights_mib", ".0f"),
    "perplexity": ("check/perplexity", ".4g"),
    "KL": ("check/kl", ".3f"),
    "load s": ("load/seconds", ".1f"),
    "TTFT ms": ("latency/ttft_ms_p50", ".0f"),
}
TOGETHER = 8
"""Rows of the larger batch that is timed."""


def command(options: argparse.Namespace) -> list[str]:
    """What a user types."""
    recipes = options.quants or sorted(filter(runs_here, QUANTS), key=lambda name: name != "none")
    return [
        *("run", "-m", f"model={options.model}", f"quant={','.join(recipes)}", f"task={','.join(options.tasks)}"),
        *("quant.check=true", "engine.device=cpu", f"engine.batch={TOGETHER}", "measure.latency_examples=10"),
        *(f"measure.latency_batch_size={TOGETHER}", *options.overrides),
    ]


def names(listed: str) -> list[str]:
    return listed.split(",")


def runs_here(name: str) -> bool:
    """Whether a recipe runs on this machine from the model alone: no published checkpoint, no calibration text."""
    quant = QUANTS[name]
    if quantization.is_published(quant) or quantization.calibrates(quant):
        return False
    return Device.cpu in quant.requires.devices and quantization.lacking_library(quant) is None


def finished(folder: Path) -> Sequence[Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "attributes.status = 'FINISHED'", order_by=["attributes.start_time"])
    return [run for run in runs if "quality" in run.data.metrics]


def rows(runs: Sequence[Run], tasks: Sequence[str]) -> list[list[str]]:
    cells: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        cells[run.data.params["quant"]][run.data.params["task"]] = run
    return [row(quant, [cells[quant][task] for task in tasks]) for quant in cells if cells[quant].keys() >= set(tasks)]


def row(quant: str, cells: Sequence[Run]) -> list[str]:
    first = cells[0].data.metrics
    figures = [format(first[key], shape) if key in first else "-" for key, shape in FIGURES.values()]
    return [f"`{quant}`", *figures, *speed(first), *(quality(cell.data.metrics) for cell in cells)]


def speed(found: Mapping[str, float]) -> list[str]:
    """Tokens a second once the first is there, at batch 1 and in all rows of the larger batch: medians."""
    steps = {1: "latency/tpot_ms_p50", TOGETHER: "latency_batched/tpot_ms_p50"}
    return [f"{1000 * rows / found[key]:.0f}" if key in found else "-" for rows, key in steps.items()]


def quality(found: Mapping[str, float]) -> str:
    return f"{found['quality']:.2f} [{found['quality_ci_low']:.2f}, {found['quality_ci_high']:.2f}]"


def show(runs: Sequence[Run], tasks: Sequence[str]) -> None:
    head = ["quant", *FIGURES, "tokens/s, batch 1", str(TOGETHER), *tasks]
    for line in (head, ["---"] * len(head), *rows(runs, tasks)):
        print(f"| {' | '.join(line)} |")
    tags = runs[0].data.tags
    print({key: value for key, value in tags.items() if key in ("device", "hardware") or key.startswith("version")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--folder", type=Path, help="where the runs are kept")
    parser.add_argument("--tasks", type=names, default=["demo_qa", "demo_ner"], metavar="A,B")
    parser.add_argument(
        "--quants", type=names, metavar="A,B", help="recipes; without it, every one that needs the model alone"
    )
    parser.add_argument("overrides", nargs="*", help="of bioquant run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        asked = command(options)
        print("bioquant", *asked, flush=True)
        environment = {**os.environ, "BIOQUANT_ROOT": str(folder)}
        subprocess.run([sys.executable, "-m", "bioquant", *asked], env=environment, check=True)
        show(finished(folder), options.tasks)


if __name__ == "__main__":
    main()
