"""Evaluation speed on a GPU against `generate` in static padded batches: `python benchmarks/engine.py`.

An 8B model of random weights (values change neither time nor memory), 128 requests that share 1,024 prompt tokens and
have 224 to 288 of their own, 32 tokens generated each. The pair of each recipe is measured one after the other on the
same loaded model, tokenizing apart; what is needed once is shown beside it: making the engine (its check of the
architecture, and compiling), and the first run, which captures the CUDA graphs. Then the time of a token at batch 1 and
16, after a prompt of 512 tokens.
"""

import argparse
import gc
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from transformers import GenerationConfig

from bioquant import models
from bioquant.compose import compose_one
from bioquant.config import Device
from bioquant.engine import GenerationSettings
from bioquant.engine.batching import Limits, chunks
from bioquant.engine.tokens import PromptTokenizer
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


@dataclass(frozen=True)
class Figures:
    """Seconds of the workload, in the first run and again, peak in GiB, and milliseconds a token at batch 1 and 16."""

    ready_s: float
    first_s: float
    again_s: float
    peak_gib: float
    token_ms: tuple[float, float]


def ours(loaded: models.LoadedModel, prompts: Sequence[Prompt], *, compiled: bool) -> Figures:
    """ready_s: making the engine, its check and, where it is asked for, compiling."""
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, limits=Limits(rows=REQUESTS))
    network: Any = loaded.model
    network.set_attn_implementation("sdpa")
    start = time.perf_counter()
    engine = TransformersModel(loaded.model, loaded.tokenizer, loaded.device, 8192, graphs=True, compiled=compiled)
    ready_s = time.perf_counter() - start
    for prompt in prompts:
        engine.encode(prompt)
    first_s, _ = measured(lambda: list(engine.generate(prompts, settings)))
    again_s, peak = measured(lambda: list(engine.generate(prompts, settings)))
    return Figures(ready_s, first_s, again_s, peak, (token_ms(engine, 1), token_ms(engine, 16)))


def static(loaded: models.LoadedModel, prompts: Sequence[Prompt]) -> tuple[float, float]:
    """Seconds and peak of the baseline, warm."""
    network: Any = loaded.model
    network.set_attn_implementation("sdpa")
    tokenizer = PromptTokenizer(loaded.tokenizer, None)
    ids = [tokenizer.encode(tokenizer.text(prompt)) for prompt in prompts]
    static_batches(network, ids[:STATIC_BATCH])
    return measured(lambda: static_batches(network, ids))


def compared(model: str, quant: str, prompts: Sequence[Prompt]) -> list[str]:
    """A recipe's lines of the table."""
    config = compose_one([f"model={model}", "model.source=random", "model.dtype=bfloat16", f"quant={quant}"])
    loaded = models.load(config.model, config.quant, Device.cuda)
    static_s, static_peak = static(loaded, prompts)
    found = [f"| {quant} | static batches of {STATIC_BATCH} | | | {static_s:.2f} | {static_peak:.1f} | 1 | | |"]
    for name, compiled in (("ours", False), ("ours, compiled", True)):
        figures = ours(loaded, prompts, compiled=compiled)
        alone, many = figures.token_ms
        found.append(
            f"| {quant} | {name} | {figures.ready_s:.1f} | {figures.first_s:.2f} | {figures.again_s:.2f} "
            f"| {figures.peak_gib:.1f} | {static_s / figures.again_s:.1f} | {alone:.2f} | {many:.2f} |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama_3_1_8b", help="whose shape")
    parser.add_argument("--quants", nargs="+", default=["none", "bnb_nf4", "bnb_nf4_dq"])
    options = parser.parse_args()
    prompts = requests()
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "bitsandbytes"))
    print(f"{torch.cuda.get_device_name()}, {platform.processor()}, {versions}, {options.model}")
    print(
        "| quant | engine | ready, s | first run, s | again, s | peak, GiB | ratio | ms a token, batch 1 | batch 16 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for quant in options.quants:
        print("\n".join(compared(options.model, quant, prompts)), flush=True)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
