"""What a sweep would take beside memory: time, from logged runs or by arithmetic, and disk."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from bioquant import answering, checkpoints, places, tracking
from bioquant.config import Device, ModelConfig, ModelSource, RunConfig, TrackingConfig
from bioquant.lengths import Lengths
from bioquant.memory import Anatomy

MOST_RUNS = 1000
"""Logged runs that are looked at, the latest first."""

FINISHED_CELLS = "attributes.status = 'FINISHED' and tags.`bioquant.kind` = 'cell'"

BYTES_A_CELL = 100_000
"""Of a cell's results whatever its size: plots, configuration, logs."""

BYTES_AN_EXAMPLE = 1500
"""Of results beside the prompt's text, which the journal, the table of predictions and its copy in MLflow hold."""

COPIES = 3
"""Of a prompt's text among the results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a device is assumed to do. flops: multiply-adds counted twice, a second. bytes: read from memory a second.

    read: from disk while loading, in bytes a second.
    """

    flops: float
    bytes: float
    read: float


SPEEDS = {
    Device.cuda: Speed(flops=120e12, bytes=0.8e12, read=1e9),
    Device.cpu: Speed(flops=0.1e12, bytes=7e9, read=1e9),
}
"""About 40 % of an A100's 16-bit peak and half its bandwidth; two cores of a server's CPU, measured with SmolLM2."""

ASSUMPTION = {
    Device.cuda: "120 TFLOP/s and 0.8 TB/s (an A100 at 40 % and 50 %)",
    Device.cpu: "0.1 TFLOP/s and 7 GB/s (2 cores)",
}
"""The same in words."""


@dataclass(frozen=True, slots=True)
class Logged:
    """What a finished run showed."""

    examples_per_s: float
    load_s: float


History = Mapping[tuple[str, ...], Logged]
"""Finished runs by AXES, and by all of them but the prompt, whatever that was."""

AXES = ("engine.name", "model", "quant", "task", "prompt")


def history(config: TrackingConfig, device: Device) -> History:
    """The latest logged run of each cell on this kind of device; empty where there is no store yet, which is not made.

    Raises TrackingError where a server does not answer.
    """
    uri = places.tracking_uri(config.uri)
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).exists():
        return {}
    store = tracking.open_store(config)
    runs = store.client.search_runs(
        [store.experiment_id], FINISHED_CELLS, max_results=MOST_RUNS, order_by=["attributes.start_time DESC"]
    )
    found: dict[tuple[str, ...], Logged] = {}
    for each in runs:
        speed, params = each.data.metrics.get("throughput/examples_per_s"), each.data.params
        if speed and each.data.tags.get("device", "").startswith(device):
            logged = Logged(speed, each.data.metrics.get("load/seconds", 0.0))
            for axes in (AXES, AXES[:-1]):
                found.setdefault(tuple(params[axis] for axis in axes), logged)
    return found


def logged(config: RunConfig, runs: History) -> Logged | None:
    """The run that is nearest to a cell: with its prompt, else with another prompt."""
    names = config.engine.name, config.model.name, config.quant.name, config.task.name, config.prompt.name
    return runs.get(names) or runs.get(names[:-1])


def cell_seconds(config: RunConfig, lengths: Lengths, shape: Anatomy, rows: int, device: Device) -> float:
    """Reading and answering all prompts and the latency probes, by arithmetic; answers are as long as they may be.

    A quantized model is taken to be as fast as its baseline. rows: that ride together.
    """
    assert lengths.num_examples is not None
    limit, measured = answering.max_new_tokens(config), config.measure
    tokens = lengths.shared + lengths.num_examples * lengths.mean
    groups = ceil(lengths.num_examples * config.prompt.num_samples / rows)
    for size in filter(None, (1, measured.latency_batch_size) if measured.latency_examples else ()):
        probed = ceil(measured.latency_examples / size) + measured.latency_warmup
        groups += probed
        tokens += probed * size * (lengths.shared + lengths.mean)
    return seconds(shape, tokens, groups * limit, SPEEDS[device])


def seconds(shape: Anatomy, tokens: float, steps: float, speed: Speed) -> float:
    """2 · parameters · tokens / flops + steps · bytes of the unquantized weights / bandwidth. Pure."""
    return 2 * shape.num_parameters * tokens / speed.flops + steps * shape.unquantized / speed.bytes


def load_seconds(shape: Anatomy, device: Device) -> float:
    """Reading the unquantized checkpoint from disk."""
    return shape.unquantized / SPEEDS[device].read


def download_bytes(model: ModelConfig, shape: Anatomy) -> int:
    """Of a checkpoint that is not on this machine yet, as large as its unquantized weights."""
    fetched = model.source in (ModelSource.hub, ModelSource.wheel) and not checkpoints.is_cached(model)
    return shape.unquantized if fetched else 0


def result_bytes(lengths: Lengths) -> int:
    """What a cell leaves on disk: its predictions with the prompts, several times."""
    return BYTES_A_CELL + COPIES * lengths.characters + BYTES_AN_EXAMPLE * (lengths.num_examples or 0)


def free_disk() -> int:
    """Bytes free where the hub's checkpoints are kept."""
    there = next(folder for folder in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if folder.exists())
    return shutil.disk_usage(there).free
