"""What is kept of a machine's readings."""

from itertools import pairwise
from pathlib import Path

import pytest

from bioquant import timeline
from bioquant.timeline import MOST_READINGS, Reading


def readings(number: int) -> list[Reading]:
    return [Reading(1000 * second, {"system/cpu_utilization_percentage": float(second)}) for second in range(number)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    timeline.write(tmp_path, readings(3))
    assert timeline.read(tmp_path) == readings(3)


@pytest.mark.parametrize("number", [0, 1, MOST_READINGS, MOST_READINGS + 1, 36_000])
def test_a_long_series_is_thinned_evenly_and_keeps_its_end(number: int) -> None:
    kept = timeline.thinned(readings(number))
    assert len(kept) <= MOST_READINGS
    assert kept[-1:] == readings(number)[-1:]
    assert len({after.timestamp_ms - before.timestamp_ms for before, after in pairwise(kept)}) <= 1
    assert len(kept) >= min(number, MOST_READINGS // 2)
