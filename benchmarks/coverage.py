"""Do the intervals cover and the verdicts err as often as they say? `python benchmarks/coverage.py [--trials 1000]`.

Samples are drawn from a made-up population of examples that both cells have answered, so the true difference is known;
each sample then goes through `bioquant.compare` as logged runs would. The targets: 95 % intervals cover the truth in 93
to 97 % of samples; with no true difference, Holm over 100 comparisons gives any significant one in at most 5 % of
samples, and so any verdict "worse"; a true loss of just the tolerated size is called "within" in about 2.5 %.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from bioquant.compare import compare
from bioquant.config import PolicyConfig
from bioquant.evidence import Answered, ExampleSet, gather
from bioquant.records import Answer, Span
from bioquant.statistics import Verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from generated import Cell, answered

POLICY = PolicyConfig(name="coverage", max_quality_loss=0.01)
POPULATION = 20_000
RESAMPLES = 2_000
LABELS = ("a", "b", "c", "d", "e")
SHARES = (0.5, 0.2, 0.15, 0.1, 0.05)
MENTIONS = tuple(Span(start=10 * place, end=10 * place + 5, label="Gene", text="BRCA1") for place in range(4))

Answers = Sequence[Answer | None]


@dataclass(frozen=True)
class Population:
    """What two cells answered to every example there is, and the true difference of their metrics."""

    examples: ExampleSet
    truth: float


def population(kind: str, seed: int, *, worse: float) -> Population:
    """A baseline right on some seven of ten, and a candidate that changes some of its answers; `worse` shifts which."""
    generator = np.random.default_rng(seed)
    targets, baseline, candidate = MAKERS[kind](generator, worse)
    cells = [
        Cell(targets=targets, answers=baseline, kind=kind),
        Cell(targets=targets, answers=candidate, kind=kind, quant="q0"),
    ]
    examples = gather(answered(cell) for cell in cells)[0]
    one, other = sorted(examples.runs, key=lambda run: run.quant != "none")
    return Population(examples, examples.quality(other.run_id) - examples.quality(one.run_id))


def single(generator: np.random.Generator, worse: float, labels: Sequence[str], shares: Sequence[float]):
    targets = generator.choice(labels, p=shares, size=POPULATION)
    wrong = generator.choice(labels, size=POPULATION)
    hard = generator.beta(2, 1, size=POPULATION)
    baseline = np.where(generator.random(POPULATION) < hard, targets, wrong)
    lose, gain = generator.random(POPULATION) < 0.05 + worse, generator.random(POPULATION) < 0.10
    lost = np.where((baseline == targets) & lose, wrong, baseline)
    candidate = np.where((baseline != targets) & gain, targets, lost)
    return [str(x) for x in targets], [str(x) for x in baseline], [str(x) for x in candidate]


def mentions(generator: np.random.Generator, worse: float):
    def some(share: float, of: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(span for span in of if generator.random() < share)

    targets = [some(0.4, MENTIONS) for _ in range(POPULATION)]
    baseline = [
        (*some(0.7, gold), *(Span(start=90, end=95, label="Gene", text="TP53"),) * (generator.random() < 0.2))
        for gold in targets
    ]
    candidate = [
        some(0.7, gold) if generator.random() < 0.15 + worse else answer
        for gold, answer in zip(targets, baseline, strict=True)
    ]
    return targets, baseline, candidate


MAKERS: dict[str, Callable] = {
    "qa": lambda generator, worse: single(generator, worse, ("yes", "no", "maybe"), (0.55, 0.34, 0.11)),
    "re": lambda generator, worse: single(generator, worse, LABELS, SHARES),
    "ner": mentions,
}


def sample(examples: ExampleSet, size: int, generator: np.random.Generator) -> ExampleSet:
    """`size` examples of the population."""
    drawn = generator.integers(len(examples.example_ids), size=size)
    ids = tuple(f"e{place}" for place in range(size))
    sampled = replace(
        examples,
        digest=f"{generator.integers(2**32):08x}",
        example_ids=ids,
        units=ids,
        answered={run_id: codes[drawn] for run_id, codes in examples.answered.items()},
        asked={run_id: np.zeros(size, dtype=np.int32) for run_id in examples.asked},
    )
    object.__setattr__(sampled, "tally", examples.tally)
    runs = tuple(replace(run, metrics={**run.metrics, "quality": sampled.quality(run.run_id)}) for run in sampled.runs)
    object.__setattr__(sampled, "runs", runs)
    return sampled


def coverage(kind: str, size: int, trials: int) -> None:
    made = population(kind, seed=1, worse=0.0)
    generator = np.random.default_rng(size)
    covered = below = 0
    for _ in range(trials):
        [found] = compare([sample(made.examples, size, generator)], POLICY, resamples=RESAMPLES).comparisons
        covered += found.ci_low <= made.truth <= found.ci_high
        below += made.truth < found.ci_low
    print(
        f"{kind:>4} n={size:<5} true delta {made.truth:+.4f}: covered {covered / trials:.3f} (too high {below / trials:.3f})",
        flush=True,
    )


if __name__ == "__main__":
    for kind in ("qa", "re", "ner"):
        for size in (200, 500):
            t = perf_counter()
            coverage(kind, size, 300)
            print(perf_counter() - t)
