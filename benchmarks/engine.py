"""Evaluation speed on a GPU against `generate` in static padded batches: `python benchmarks/engine.py`.

An 8B model of random weights (values change neither time nor memory), 128 requests that share 1,024 prompt tokens and
have 224 to 288 of their own, 32 tokens generated each. The pair of each recipe is measured one after the other on the
same loaded model; the first run of ours includes the capture of its CUDA graphs and is shown apart. Then the time of a
token at batch 1 and 16, after a prompt of 512 tokens.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from transformers import GenerationConfig

from bioquant import models, quantization
from bioquant.compose import compose_one
from bioquant.config import Device
from bioquant.engine import GenerationSettings
from bioquant.engine.batching import Limits, chunks
from bioquant.engine.transformers import TransformersModel
from bioquant.models.random import PAD_ID
from bioquant.records import Message

REQUESTS = 128
SHARED = 1024
OWN = (224, 288)
NEW_TOKENS = 32
STATIC_BATCH = 16

Prompt = list[Message]


def text(generator: random.Random, length: int) -> str:
    """As many characters as tokens: random weights come with a byte-level tokenizer."""
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz ", k=length))


def requests() -> list[Prompt]:
    generator = random.Random(0)
    shared = text(generator, SHARED - len("<|im_start|>user\n"))
    own = [generator.randint(*OWN) for _ in range(REQUESTS)]
    return [[Message(role="user", content=shared + text(generator, length))] for length in own]


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and the peak of allocated memory in GiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30


def static_batches(network: Any, prompts: Sequence[list[int]]) -> None:
    """Left-padded batches in the order given, through transformers' own generate and attention."""
    rules = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=PAD_ID)
    for part in chunks(prompts, STATIC_BATCH):
        width = max(map(len, part))
        ids = torch.tensor([[PAD_ID] * (width - len(prompt)) + prompt for prompt in part], device="cuda")
        with torch.inference_mode():
            network.generate(ids, attention_mask=(ids != PAD_ID).long(), generation_config=rules)


def token_ms(engine: TransformersModel, rows: int) -> float:
    """Milliseconds a decoding step, median of groups, at so many rows."""
    prompts = [[Message(role="user", content="x" * 512)]] * (rows * 3)
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS * 2, limits=Limits(rows=rows))
    times = engine.timed(prompts, settings, num_warmup=1)
    found = sorted((t.token_s[-1] - t.token_s[0]) / (len(t.token_s) - 1) for t in times)
    return found[len(found) // 2] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama_3_1_8b", help="whose shape")
    parser.add_argument("--quants", nargs="+", default=["none", "bnb_nf4", "bnb_nf4_dq"])
    options = parser.parse_args()
    prompts = requests()
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, limits=Limits(rows=REQUESTS))
    lines: list[str] = []
    for quant in options.quants:
        config = compose_one(
            [f"model={options.model}", "model.source=random", "model.dtype=bfloat16", f"quant={quant}"]
        )
        loaded = models.load(config.model, config.quant, Device.cuda)
        network: Any = loaded.model
        graphs = quantization.steps_can_be_graphs(config.quant)
        engine = TransformersModel(network, loaded.tokenizer, loaded.device, 8192, graphs=graphs)
        first, _ = measured(lambda: list(engine.generate(prompts, settings)))
        ours, our_peak = measured(lambda: list(engine.generate(prompts, settings)))
        steps = [token_ms(engine, rows) for rows in (1, 16)]
        ids = [engine.encode(prompt) for prompt in prompts]
        network.set_attn_implementation("sdpa")
        static_batches(network, ids[:STATIC_BATCH])
        theirs, their_peak = measured(lambda: static_batches(network, ids))
        figures = f"| {theirs:.1f} ({their_peak:.1f}) | {ours:.2f} ({our_peak:.1f}) | {theirs / ours:.1f}x "
        lines.append(f"| {quant} {figures}| {first:.2f} | {steps[0]:.2f} | {steps[1]:.2f} |")
        del engine, network, loaded
        gc.collect()
        torch.cuda.empty_cache()
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "bitsandbytes"))
    print(f"{torch.cuda.get_device_name()}, {versions}, {options.model}")
    print("| quant | static batches of 16, s (peak GiB) | ours, s (GiB) | ratio | ours, first run, s | ", end="")
    print("ms a token, batch 1 | batch 16 |\n|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
