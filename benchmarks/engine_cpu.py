"""Five-shot PubMedQA on the CPU, against lm-evaluation-harness: `python benchmarks/engine_cpu.py [--examples 24]`.

The same prompts, to the token, through our engine and through the harness's `hf` model at several batch sizes, in turn
in one process, both as generated answers and as the choices' log-likelihoods. The answers are compared. Needs
`pip install 'bioquant[benchmarks]'` and the benchmark files ($BIOQUANT_DATA). The target: at least 3 times as fast as
the harness at its best batch size.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from bioquant import answering, models, run
from bioquant.compose import compose_one
from bioquant.config import RunConfig
from bioquant.engine.tokens import PromptTokenizer
from bioquant.engine.transformers import TransformersModel
from bioquant.records import Message

OVERRIDES = ["model=smollm2_135m", "task=pubmedqa", "prompt=five_shot", "engine.device=cpu"]
MAX_NEW_TOKENS = 8


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, wall seconds and CPU seconds: on a busy machine the latter are the fairer ones."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=place) for place, each in enumerate(arguments)]


class Ours:
    """Our engine at the batch size a user gets."""

    def __init__(self, config: RunConfig, model: TransformersModel) -> None:
        self.config = config
        self.model = model

    def generate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        found = {g.index: g.text for g in self.model.generate(prompts, answering.settings(self.config))}
        return [found[place] for place in range(len(prompts))]

    def choose(self, prompts: Sequence[Sequence[Message]], choices: Sequence[Sequence[str]]) -> list[int]:
        found = dict(self.model.loglikelihood(prompts, choices, answering.limits(self.config)))
        return [max(range(len(found[place])), key=found[place].__getitem__) for place in range(len(prompts))]


class Harness:
    """lm-evaluation-harness over the same weights and texts."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.model = HFLM(pretrained=network, tokenizer=tokenizer, backend="causal", batch_size=1, max_length=8192)

    def generate(self, texts: Sequence[str], batch_size: int) -> list[str]:
        self.model.batch_size_per_gpu = batch_size
        rules = {"until": ["<|im_end|>"], "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False}
        return self.model.generate_until(instances("generate_until", [(text, rules) for text in texts]), True)

    def choose(self, texts: Sequence[str], choices: Sequence[Sequence[str]], batch_size: int) -> list[int]:
        self.model.batch_size_per_gpu = batch_size
        pairs = [(text, choice) for text, options in zip(texts, choices, strict=True) for choice in options]
        sums = [logprob for logprob, _ in self.model.loglikelihood(instances("loglikelihood", pairs), True)]
        found: list[int] = []
        for options in choices:
            own, sums = sums[: len(options)], sums[len(options) :]
            found.append(max(range(len(own)), key=own.__getitem__))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16])
    options = parser.parse_args()
    composed = compose_one([*OVERRIDES, f"limit={options.examples}", f"engine.max_new_tokens={MAX_NEW_TOKENS}"])
    cell = run.prepare(composed, run.read(composed))
    config, asked = cell.config, cell.examples
    prompts = [example.messages for example in asked]
    choices = [example.row.choices for example in asked]
    loaded = models.load(config.model, config.quant, config.engine.device)
    tokenizer = PromptTokenizer(loaded.tokenizer, None)
    texts = [tokenizer.text(prompt) for prompt in prompts]
    harness = Harness(models.load(config.model, config.quant, config.engine.device).model, loaded.tokenizer)
    ours = Ours(config, TransformersModel(loaded.model, loaded.tokenizer, loaded.device, 8192))

    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__},"
    )
    print(f"transformers {version('transformers')}, lm-eval {version('lm-eval')}; {config.model.name}, float32,")
    tokens = [len(ours.model.encode(prompt)) for prompt in prompts]
    print(f"{len(prompts)} prompts of {min(tokens)} to {max(tokens)} tokens\n")
    print(f"{'':<34}{'wall s':>9}{'CPU s':>9}{'same answers':>14}")
    for name, own_call, other_call in (
        ("generate", lambda: ours.generate(prompts), lambda size: harness.generate(texts, size)),
        ("log-likelihood", lambda: ours.choose(prompts, choices), lambda size: harness.choose(texts, choices, size)),
    ):
        own, wall, cpu = timed(own_call)
        print(f"{'bioquant, ' + name:<34}{wall:>9.1f}{cpu:>9.1f}")
        best = float("inf")
        for size in options.batch_sizes:
            found, other_wall, other_cpu = timed(lambda size=size, call=other_call: call(size))
            same = sum(str(a).strip() == str(b).strip() for a, b in zip(own, found, strict=True))
            best = min(best, other_cpu)
            print(f"{f'lm-eval, batch {size}, {name}':<34}{other_wall:>9.1f}{other_cpu:>9.1f}{same:>10} of {len(own)}")
        print(f"{'':<34}{'':>9}{best / cpu:>8.1f}x\n")


if __name__ == "__main__":
    main()
