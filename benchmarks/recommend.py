"""Seconds and memory of `bioquant recommend` over many runs: `python benchmarks/recommend.py [--runs 2000]`.

Makes a real tracking store of generated runs (10 tasks of the four kinds, 4 prompting methods, 5 precisions, as many
models as it takes; 1,000 predictions each) unless --folder holds one, and times the whole command on it. The targets
for 2,000 runs: below 60 s and below 2 GiB on two cores.
"""

import argparse
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import product
from pathlib import Path
from time import perf_counter

from mlflow import MlflowClient

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from bioquant.records import Answer, Span
from generated import METRICS, Cell, log

EXAMPLES = 1_000
LABELS = ("a", "b", "c", "d", "e", "f", "g")
TASKS = {
    f"{kind}_{number}": kind for kind, number in [*product(("qa", "re"), (1, 2, 3)), *product(("mlc", "ner"), (1, 2))]
}
PROMPTS = ("zero_shot", "five_shot", "cot", "knn_five_shot")
QUANTS = {
    "none": (1.0, 0.0),
    "bnb_int8": (0.55, 0.005),
    "bnb_nf4": (0.35, 0.02),
    "quanto_int8": (0.55, 0.004),
    "quanto_int4": (0.35, 0.05),
}


def gold(kind: str, chance: random.Random) -> Answer:
    if kind == "mlc":
        return tuple(label for label in LABELS if chance.random() < 0.25)
    if kind == "ner":
        places = [place for place in range(0, 60, 12) if chance.random() < 0.4]
        return tuple(Span(start=place, end=place + 7, label="Chemical", text="aspirin") for place in places)
    return chance.choice(("yes", "no", "maybe") if kind == "qa" else LABELS[:5])


def spoiled(kind: str, target: Answer, chance: random.Random) -> Answer | None:
    if isinstance(target, str):
        return chance.choice(("yes", "no", "maybe", None) if kind == "qa" else LABELS[:5])
    kept = tuple(part for part in target if chance.random() < 0.6)
    if kind == "ner":
        return (*kept, Span(start=80, end=84, label="Chemical", text="iron")) if chance.random() < 0.3 else kept
    return kept or ("g",)


def cells(number: int) -> list[Cell]:
    """Grid by grid: all tasks, prompts and precisions of one model after another, until there are enough."""
    chance = random.Random(0)
    targets = {task: [gold(kind, chance) for _ in range(EXAMPLES)] for task, kind in TASKS.items()}
    made: list[Cell] = []
    for place in range(-(-number // (len(TASKS) * len(PROMPTS) * len(QUANTS)))):
        for (task, kind), prompt in product(TASKS.items(), PROMPTS):
            skill = 0.6 + 0.02 * place + 0.02 * PROMPTS.index(prompt)
            full = [one if chance.random() < skill else spoiled(kind, one, chance) for one in targets[task]]
            for quant, (memory, damage) in QUANTS.items():
                answers = (
                    full
                    if quant == "none"
                    else [
                        spoiled(kind, target, chance) if chance.random() < damage + 0.02 else answer
                        for target, answer in zip(targets[task], full, strict=True)
                    ]
                )
                metrics = {name: value * memory * (1 + place) for name, value in METRICS.items()}
                made.append(
                    Cell(
                        targets=targets[task],
                        answers=answers,
                        kind=kind,
                        model=f"model_{place}",
                        quant=quant,
                        task=task,
                        prompt=prompt,
                        metrics=metrics,
                        start_ms=1_000 + len(made),
                    )
                )
    return made[:number]


def fill(folder: Path, number: int) -> None:
    start = perf_counter()
    (folder / "mlruns").mkdir(parents=True)
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.create_experiment("bioquant", artifact_location=(folder / "mlruns" / "artifacts").as_uri())
    for cell in cells(number):
        log(client, experiment, cell)
    print(f"{number} runs of {EXAMPLES} predictions written in {perf_counter() - start:.0f} s to {folder}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="where the store is kept for another time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "project"
        if not (folder / "mlruns").exists():
            fill(folder, options.runs)
        command = [str(Path(sys.executable).with_name("bioquant")), "recommend"]
        start = perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "BIOQUANT_ROOT": str(folder)})
        seconds = perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = used.ru_maxrss / 2**20
    libraries = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "numpy", "pyarrow"))
    print(
        f"{seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of CPU), peak {peak:.2f} GiB (target: 60 s, 2 GiB) "
        f"on {os.cpu_count()} cores; Python {platform.python_version()}, {libraries}"
    )


if __name__ == "__main__":
    main()
