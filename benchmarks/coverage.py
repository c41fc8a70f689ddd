"""Do the intervals cover and the verdicts err as often as they say? `python benchmarks/coverage.py [--trials 1000]`.

Samples are drawn from a made-up population of examples that all cells have answered, so the true differences are known;
each sample then goes through `bioquant.compare` as logged runs would. The targets: 95 % intervals cover the truth in 93
to 97 % of samples; where 100 candidates have no effect, Holm lets any be significant in at most 5 % of samples, and so
any be called worse; a true loss of just the tolerated size is called within in about 2.5 %.
"""

import argparse
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from bioquant.compare import Comparison, compare
from bioquant.config import PolicyConfig
from bioquant.evidence import ExampleSet, gather
from bioquant.records import Answer, Span
from bioquant.statistics import Verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from generated import Cell, answered

POLICY = PolicyConfig(name="coverage", max_quality_loss=0.01)
POPULATION = 20_000
RESAMPLES = 2_000
KEPT = 0.9
LABELS = {
    "qa": (("yes", "no", "maybe"), (0.55, 0.34, 0.11)),
    "re": (("a", "b", "c", "d", "e"), (0.5, 0.2, 0.15, 0.1, 0.05)),
}
MENTIONS = tuple(Span(start=10 * place, end=10 * place + 5, label="Gene", text="BRCA1") for place in range(4))
SPURIOUS = Span(start=90, end=95, label="Gene", text="TP53")

Answers = list[Answer]


def targets(kind: str, generator: np.random.Generator) -> Answers:
    if kind == "ner":
        return [tuple(span for span in MENTIONS if generator.random() < 0.4) for _ in range(POPULATION)]
    names, shares = LABELS[kind]
    return [str(name) for name in generator.choice(names, p=shares, size=POPULATION)]


def drawn(kind: str, gold: Answers, ease: np.ndarray, generator: np.random.Generator) -> Answers:
    """One cell's answers: an example is answered rightly as often as it is easy."""
    if kind == "ner":
        return [
            tuple(span for span in target if generator.random() < chance) + (SPURIOUS,) * int(generator.random() < 0.15)
            for target, chance in zip(gold, ease, strict=True)
        ]
    wrong = generator.choice(LABELS[kind][0], size=POPULATION)
    right = generator.random(POPULATION) < ease
    return [target if hit else str(miss) for target, hit, miss in zip(gold, right, wrong, strict=True)]


def population(kind: str, num_candidates: int, *, spoiled: float = 0.0) -> ExampleSet:
    """A baseline and candidates that draw their answers alike, nine of ten of them the same; no one is better.

    spoiled: the share of a candidate's right answers that are then taken from it.
    """
    generator = np.random.default_rng(1)
    gold = targets(kind, generator)
    ease = generator.beta(2, 1, size=POPULATION)
    shared = drawn(kind, gold, ease, generator)
    cells: list[Cell] = []
    for place in range(num_candidates + 1):
        fresh = drawn(kind, gold, ease, generator)
        kept = generator.random(POPULATION) < KEPT
        answers = [old if keep else new for old, new, keep in zip(shared, fresh, kept, strict=True)]
        if place:
            lost = generator.random(POPULATION) < spoiled
            answers = [
                None if loss and one == target else one for one, target, loss in zip(answers, gold, lost, strict=True)
            ]
        cells.append(Cell(targets=gold, answers=answers, kind=kind, quant=f"q{place:03}" if place else "none"))
    return gather(answered(cell) for cell in cells)[0]


def sample(
    examples: ExampleSet, size: int, generator: np.random.Generator, policy: PolicyConfig = POLICY
) -> list[Comparison]:
    """The comparisons of `size` examples drawn from the population."""
    places = generator.integers(POPULATION, size=size)
    ids = tuple(f"e{place}" for place in range(size))
    some = replace(
        examples,
        digest=f"{generator.integers(2**32):08x}",
        example_ids=ids,
        units=ids,
        answered={run_id: codes[places] for run_id, codes in examples.answered.items()},
        asked={run_id: np.zeros(size, dtype=np.int32) for run_id in examples.asked},
    )
    vars(some)["tally"] = examples.tally  # computed once for the population, not once a sample
    runs = tuple(replace(run, metrics={"quality": some.quality(run.run_id)}) for run in some.runs)
    vars(some)["runs"] = runs
    return list(compare([some], policy, resamples=RESAMPLES).comparisons)


def truths(examples: ExampleSet) -> dict[str, float]:
    """By run id, what each candidate truly scores above its baseline."""
    baseline = next(run for run in examples.runs if run.is_baseline)
    return {run.run_id: examples.quality(run.run_id) - examples.quality(baseline.run_id) for run in examples.runs}


def coverage(kind: str, size: int, trials: int) -> None:
    """How often the interval of a difference holds the true one."""
    examples, generator = population(kind, 1, spoiled=0.02), np.random.default_rng(size)
    truth = truths(examples)
    found = [sample(examples, size, generator)[0] for _ in range(trials)]
    covered = sum(one.ci_low <= truth[one.candidate.run_id] <= one.ci_high for one in found)
    changed = sum(one.num_changed for one in found) / trials
    true = 100 * truth[found[0].candidate.run_id]
    print(
        f"{kind:>4}, {size:>4} examples, {changed:>5.1f} changed, true difference {true:+.2f} points: "
        f"{covered / trials:.1%} of {trials} intervals cover it",
        flush=True,
    )


def family(kind: str, size: int, trials: int) -> None:
    """How often any of 100 candidates without an effect is called significantly different, or worse."""
    examples, generator = population(kind, 100), np.random.default_rng(size)
    found = [sample(examples, size, generator) for _ in range(trials)]
    significant = sum(any(one.p_holm <= 1 - POLICY.confidence for one in some) for some in found)
    worse = sum(any(one.verdict is Verdict.worse for one in some) for some in found)
    print(
        f"{kind:>4}, {size:>4} examples, 100 candidates without an effect: in {significant / trials:.1%} of {trials} "
        f"samples any is significant (Holm), in {worse / trials:.1%} any is called worse",
        flush=True,
    )


def limit(kind: str, size: int, trials: int) -> None:
    """How often a candidate is called within that truly loses just what is tolerated."""
    examples, generator = population(kind, 1, spoiled=0.0133), np.random.default_rng(size)
    loss = -min(truths(examples).values())
    policy = replace(POLICY, max_quality_loss=loss)
    found = [sample(examples, size, generator, policy)[0] for _ in range(trials)]
    within = sum(one.verdict is Verdict.within for one in found)
    print(
        f"{kind:>4}, {size:>4} examples, {100 * loss:.2f} points truly lost and as many tolerated: called within in "
        f"{within / trials:.1%} of {trials} samples",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000)
    options = parser.parse_args()
    start = perf_counter()
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores")
    for kind in ("qa", "re", "ner"):
        for size in (200, 500, 1000):
            coverage(kind, size, options.trials)
    for kind in ("qa", "re"):
        limit(kind, 1000, options.trials)
        family(kind, 500, options.trials // 5)
    print(f"{perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
