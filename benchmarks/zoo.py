"""Real shapes with random weights in every recipe, through the product: `python benchmarks/zoo.py`.

    python benchmarks/zoo.py --models qwen2_5_32b llama_3_3_70b --quants none bnb_int8 bnb_nf4_dq
    python benchmarks/zoo.py --models llama_3_1_8b --quants none bnb_int8 bnb_nf4 quanto_int8 torchao_int8
    python benchmarks/zoo.py --device cpu --models tiny_random --quants none bnb_int8     # a dry test of the script

One sweep a model, each recipe at batch 1 and 16, logged as MLflow runs under $BIOQUANT_ROOT; the tables are read from
there. A weight's value changes neither memory nor speed. Figures are medians; joules are the board's, over the whole
evaluation, for each generated token, prompts included. The bandwidth limit: the weights without the input embedding,
read once a token at the bandwidth that a copy of 2 GiB reaches here.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from sweep import versions

from bioquant import memory
from bioquant.compose import compose_one

GIB = 2**30
CARDS_MIB = {24: 24_564, 40: 40_960, 48: 46_068, 80: 81_559}
"""What nvidia-smi shows of a GeForce RTX 4090, an A100 40GB, an L40S and an H100 80GB."""
CALIBRATION = (
    *("quant.calibration.task=demo_re", "quant.calibration.num_samples=8", "quant.calibration.num_tokens=128"),
)
"""For gptq_int4; the other recipes do not look at it."""


def sweep(model: str, options: argparse.Namespace) -> int:
    """Run a model's cells; the exit code, which is not 0 where a cell did not fit."""
    cells = [
        f"model={model}",
        f"quant={','.join(options.quants)}",
        "task=demo_qa",
        "engine.batch=1,16",
        f"engine.device={options.device}",
        f"engine.max_new_tokens={options.tokens}",
        "limit=16",
        "measure.latency_examples=4",
        "measure.latency_batch_size=16",
        "measure.bootstrap_resamples=200",
        *CALIBRATION,
        *([] if model == "tiny_random" else ["model.source=random"]),
        *options.overrides,
    ]
    return subprocess.run([sys.executable, "-m", "bioquant", "run", "-m", *cells], stdout=subprocess.DEVNULL).returncode


def cells() -> list[Any]:
    """All cells that are logged there, in the order of the table."""
    client = MlflowClient(f"sqlite:///{os.environ['BIOQUANT_ROOT']}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`bioquant.kind` = 'cell'", max_results=10_000)
    return sorted(found, key=lambda run: run.info.start_time)


def bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device; of 20 the fastest."""
    source = torch.zeros(2 * GIB, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = max(best, 2 * source.numel() / (time.perf_counter() - start))
    return best


def embedding_bytes(model: str) -> int:
    """Of the input embedding, of which a step reads a row; 0 where the head is the same matrix."""
    config = compose_one([f"model={model}"]).model
    shape = memory.anatomy(config)
    tied = any(linear.tied for linear in shape.linears.values())
    return 0 if tied else shape.vocab_size * shape.hidden_size * shape.itemsize


def row(one: Any, two: Any, speed: float | None) -> list[str]:
    """A recipe's row: its cell at batch 1, and at batch 16."""
    alone, together, params = one.data.metrics, two.data.metrics, one.data.params
    step_ms = alone["latency/tpot_ms_p50"]
    read = alone["memory/weights_mib"] * 2**20 - embedding_bytes(params["model"])
    return [
        params["model"],
        params["quant"],
        f"{alone['memory/weights_mib'] / 1024:.2f}",
        f"{alone['load/seconds']:.1f}",
        *(f"{cell['memory/peak_allocated_mib'] / 1024:.2f}" for cell in (alone, together)),
        *(_gib(cell, "memory/peak_device_mib") for cell in (alone, together)),
        f"{alone['latency/ttft_ms_p50']:.0f}",
        f"{step_ms:.1f}",
        f"{together['latency_batched/tpot_ms_p50']:.1f}",
        "-" if speed is None else f"{1000 * read / speed / step_ms:.0%}",
        *(_joules(cell) for cell in (alone, together)),
    ]


def _gib(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[name] / 1024:.2f}" if name in metrics else "-"


def _joules(metrics: dict[str, float]) -> str:
    if "energy/joules_per_example" not in metrics:
        return "-"
    tokens = metrics["throughput/output_tokens_per_s"] / metrics["throughput/examples_per_s"]
    return f"{metrics['energy/joules_per_example'] / tokens:.2f}"


HEADINGS = (
    *("model", "quant", "weights GiB", "load s", "peak b1", "b16", "device b1", "b16"),
    *("TTFT ms", "ms/token b1", "b16", "of the limit", "J/token b1", "b16"),
)


def holds(pair: Sequence[Any]) -> list[str]:
    """Whether each card would have held the measured peak of the device, at batch 1 and 16, and what was predicted."""
    params = pair[0].data.params
    peaks = [run.data.metrics.get("memory/peak_device_mib") for run in pair]
    cards = [
        "/".join("-" if peak is None else "yes" if peak <= size else "no" for peak in peaks)
        for size in CARDS_MIB.values()
    ]
    predicted = [_gib(run.data.metrics, "memory/predicted_device_mib") for run in pair]
    return [params["model"], params["quant"], *cards, "/".join(predicted)]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *rows))


def main() -> None:
    """Run the sweeps, then print the tables and what did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", nargs="+", default=["llama_3_2_3b", "llama_3_1_8b", "qwen2_5_14b"])
    parser.add_argument("--quants", nargs="+", default=["none", "bnb_int8", "bnb_nf4_dq"])
    parser.add_argument("--tokens", type=int, default=16, help="generated for each example")
    parser.add_argument("--overrides", nargs="*", default=[], help="of bioquant run")
    options = parser.parse_args()
    os.environ.setdefault("BIOQUANT_ROOT", str(Path.cwd()))
    for model in options.models:
        start = time.perf_counter()
        code = sweep(model, options)
        print(f"{model}: exit code {code}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    found = cells()
    finished = [run for run in found if run.info.status == "FINISHED"]
    by_recipe: dict[tuple[str, str], dict[str, Any]] = {}
    for run in finished:
        params = run.data.params
        by_recipe.setdefault((params["model"], params["quant"]), {})[params["engine.batch"]] = run
    pairs = [(runs["1"], runs["16"]) for runs in by_recipe.values() if len(runs) == 2]
    speed = bandwidth() if options.device == "cuda" else None
    print(f"{finished[0].data.tags['device.name']}; {versions()}")
    if speed is not None:
        print(f"bandwidth of a copy: {speed / 1e12:.2f} TB/s")
    print(f"demo_qa, {options.tokens} generated tokens, 16 examples\n")
    print(table(HEADINGS, [row(*pair, speed) for pair in pairs]))
    print("\nheld at batch 1/16 by a card of so many GB; predicted device GiB\n")
    print(table(("model", "quant", *map(str, CARDS_MIB), "predicted"), [holds(pair) for pair in pairs]))
    for run in found:
        if run.info.status != "FINISHED":
            print(f"{run.info.run_name}, batch {run.data.params['engine.batch']}: {run.data.tags['error.message']}")


if __name__ == "__main__":
    main()
