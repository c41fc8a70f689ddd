"""How a machine fared over time, in a file of the cell: written where it is measured, read where it is logged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FILE = "system.json"

MOST_READINGS = 300
"""What is kept, evenly spread: a night's seconds would be more than anybody can see in a chart."""


class Reading(NamedTuple):
    """Values under MLflow's names of system metrics, at milliseconds since the epoch."""

    timestamp_ms: int
    values: dict[str, float]


def write(folder: Path, readings: Sequence[Reading]) -> None:
    """Keep the readings, thinned, in the folder."""
    (folder / FILE).write_text(json.dumps(thinned(readings)) + "\n", encoding="utf-8")


def read(folder: Path) -> list[Reading]:
    """What `write` has kept."""
    return [Reading(*reading) for reading in json.loads((folder / FILE).read_text(encoding="utf-8"))]


def thinned(readings: Sequence[Reading]) -> list[Reading]:
    """At most MOST_READINGS, equally far apart, the last among them."""
    step = max(1, -(-len(readings) // MOST_READINGS))
    return list(readings[::-1][::step][::-1])
