"""The text that a recipe is calibrated on: a task's few-shot pool, or a file of the user's own. No torch.

Never a test example: neither of the task whose pool it is, nor of the cell's own.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from bioquant import compose, datasets, places, prompts, quantization, recipe_checks
from bioquant.config import RunConfig, TaskConfig
from bioquant.errors import ConfigError, DataError, QuantError, unknown
from bioquant.records import Dataset, Row


@dataclass(frozen=True, slots=True)
class Calibration:
    """Texts in the order in which they are taken. rows: the pool examples behind them; none for a file."""

    texts: tuple[str, ...]
    rows: tuple[Row, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the texts, in their order."""
        return hashlib.sha256(json.dumps(self.texts, ensure_ascii=False).encode()).hexdigest()


def decided(config: RunConfig) -> RunConfig:
    """The cell with the digest of its calibration text, which is part of its identity; as it is where there is none.

    Raises ConfigError, DataError, QuantError.
    """
    quant = config.quant
    if not quantization.calibrates(quant) or quant.calibration.sha256 is not None:
        return config
    recipe_checks.check_recipe(quant)
    found = _read(config)
    return replace(config, quant=replace(quant, calibration=replace(quant.calibration, sha256=found.sha256)))


def texts(config: RunConfig) -> Sequence[str]:
    """What a recipe is calibrated on, as its digest says. Raises ConfigError, DataError, QuantError."""
    found, expected = _read(config), config.quant.calibration.sha256
    if expected != found.sha256:
        raise QuantError(
            f"quant '{config.quant.name}': its calibration text here (digest {found.sha256[:12]}) is not what it "
            f"was planned with ({(expected or 'none')[:12]}): point quant.calibration and $BIOQUANT_DATA to that one."
        )
    return found.texts


def unmet(config: RunConfig, dataset: Dataset) -> str | None:
    """Why the cell's dataset must not meet its calibration text, in words; None where it may.

    A file's text is not compared: what of it comes from a test split only its owner can know.
    """
    if not quantization.calibrates(config.quant) or config.quant.calibration.task in (None, config.task.name):
        return None
    shared = prompts.leaks(dataset.test, _read(config).rows)
    if not shared:
        return None
    test_id, pool_id = shared[0]
    return (
        f"quant '{config.quant.name}' is calibrated on the pool of task '{config.quant.calibration.task}', of which "
        f"{len(shared):,} examples stand in the test split of task '{config.task.name}' (pool '{pool_id}' = test "
        f"'{test_id}')"
    )


def check(config: RunConfig, dataset: Dataset) -> None:
    """Whether the cell's dataset may meet its calibration text. Raises ConfigError."""
    reason = unmet(config, dataset)
    if reason is not None:
        raise ConfigError(f"{reason}: choose another quant.calibration.task.")


def _read(config: RunConfig) -> Calibration:
    calibration = config.quant.calibration
    if calibration.file is not None:
        return _of_file(calibration.file, calibration.seed)
    assert calibration.task is not None  # see `recipe_checks.check_recipe`
    return _of_task(calibration.task, calibration.seed, places.data_root(config.data.root))


@cache
def _of_task(name: str, seed: int, root: Path | None) -> Calibration:
    """The pool's examples with their gold answers, as few-shot prompts show them."""
    tasks = compose.names("task")
    if name not in tasks:
        raise ConfigError(unknown("quant.calibration.task", name, tasks))
    task: TaskConfig = compose.load_option(places.conf_dir() / "task" / f"{name}.yaml", TaskConfig)
    dataset = datasets.load(task, root)
    rows = list(prompts.clean_pool(dataset.test, dataset.pool))
    if not rows:
        raise ConfigError(f"quant.calibration.task={name} has no few-shot pool: choose another task, or a file.")
    Random(seed).shuffle(rows)
    return Calibration(tuple(prompts.worked(row, task) for row in rows), tuple(rows))


@cache
def _of_file(name: str, seed: int) -> Calibration:
    """The paragraphs of a text file, which blank lines part."""
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"quant.calibration.file={name} cannot be read as text: {error}.") from error
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if not paragraphs:
        raise DataError(f"quant.calibration.file={name} holds no text.")
    Random(seed).shuffle(paragraphs)
    return Calibration(tuple(paragraphs))
