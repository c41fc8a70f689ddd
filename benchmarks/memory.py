"""Predicted against measured memory on a GPU: `python benchmarks/memory.py`.

Real shapes with random weights, two batches each: one prompt of 512 tokens alone, and 16 rows whose prompts share
1,024 tokens and have 512 of their own; 32 tokens generated. Measured is the peak of torch's allocator since the batch
began, and what the driver says is in use on the whole device (sampled every 20 ms). The small batch is measured once
more after the large one: it must not inherit its peak.
"""

import argparse
import gc
from importlib.metadata import version

import torch

from bioquant import memory, models, quantization
from bioquant.compose import compose_one
from bioquant.config import Device, RunConfig
from bioquant.engine import GenerationSettings
from bioquant.engine.batching import Limits, row_width
from bioquant.engine.transformers import TransformersModel
from bioquant.errors import OutOfMemoryError
from bioquant.measure.memory import MemoryMeter
from bioquant.records import Message

SHAPES = ["llama_3_2_1b", "llama_3_2_3b", "llama_3_1_8b", "qwen2_5_14b", "qwen2_5_32b", "llama_3_3_70b"]
QUANTS = ["none", "bnb_int8", "bnb_nf4_dq"]
NEW_TOKENS = 32
PREFILL = 8192
GIB = 2**30

SMALL = memory.BatchShape(rows=1, shared=0, prompt=512, width=row_width(512 + NEW_TOKENS), prefill_tokens=PREFILL)
LARGE = memory.BatchShape(rows=16, shared=1024, prompt=512, width=row_width(512 + NEW_TOKENS), prefill_tokens=PREFILL)


def prompts(shape: memory.BatchShape) -> list[list[Message]]:
    """Prompts of exactly so many tokens: a character is one."""
    frame = 19
    shared = "s" * max(0, shape.shared - 6)
    letters = "abcdefghijklmnopqrstuvwxyz"
    own = shape.prompt - frame + (6 if shape.shared else 0)
    return [[Message(role="user", content=shared + letters[row] * own)] for row in range(shape.rows)]


def measured(engine: TransformersModel, shape: memory.BatchShape) -> tuple[float, float | None]:
    """Peaks in bytes: the allocator's and the device's."""
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, limits=Limits(rows=shape.rows, prefill_tokens=PREFILL))
    meter = MemoryMeter(engine.device)
    meter.reset()
    list(engine.generate(prompts(shape), settings))
    peak = meter.peak()
    assert peak.allocated_mib is not None
    return peak.allocated_mib * 2**20, None if peak.device_mib is None else peak.device_mib * 2**20


def compared(config: RunConfig, engine: TransformersModel, shape: memory.BatchShape) -> str:
    """Predicted, measured and the error, of the allocator and of the device."""
    expected = memory.predict(config.model, config.quant, shape, Device.cuda)
    allocated, device = measured(engine, shape)
    found = (
        f"{expected.peak_allocated / GIB:.2f} | {allocated / GIB:.2f} | {expected.peak_allocated / allocated - 1:+.1%}"
    )
    if device is None:
        return f"{found} | | | "
    return f"{found} | {expected.peak_device / GIB:.2f} | {device / GIB:.2f} | {expected.peak_device / device - 1:+.1%}"


def lines(name: str, quant: str) -> list[str]:
    config = compose_one([f"model={name}", "model.source=random", "model.dtype=bfloat16", f"quant={quant}"])
    if memory.predict(config.model, config.quant, SMALL, Device.cuda).peak_device > torch.cuda.mem_get_info()[1]:
        return [f"| {name} | {quant} | does not fit this device |"]
    try:
        loaded = models.load(config.model, config.quant, Device.cuda)
    except OutOfMemoryError:
        return [f"| {name} | {quant} | does not fit this device while it is loaded |"]
    graphs = quantization.steps_can_be_graphs(config.quant)
    engine = TransformersModel(loaded.model, loaded.tokenizer, loaded.device, 8192, graphs=graphs)
    weights = loaded.report.bytes_after / GIB
    found = [f"| {name} | {quant} | {weights:.2f} | 1 | {compared(config, engine, SMALL)} |"]
    found.append(f"| {name} | {quant} | {weights:.2f} | 16 | {compared(config, engine, LARGE)} |")
    found.append(f"| {name} | {quant} | {weights:.2f} | 1 again | {compared(config, engine, SMALL)} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=SHAPES, help="whose shapes")
    parser.add_argument("--quants", nargs="+", default=QUANTS)
    options = parser.parse_args()
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "bitsandbytes"))
    print(f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / GIB:.1f} GiB, {versions}; GiB")
    print("| model | quant | weights | rows | allocated: predicted | measured | error | device: predicted | ", end="")
    print("measured | error |\n|---|---|---|---|---|---|---|---|---|---|")
    for name in options.models:
        for quant in options.quants:
            print("\n".join(lines(name, quant)), flush=True)
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
