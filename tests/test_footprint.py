"""A cell's figures through the product, with a real model: the same alone and after a larger one in one process."""

import json
from pathlib import Path

import pytest

from conftest import Command

CELL = (
    "model=smollm2_135m",
    "task=demo_qa",
    "engine.batch=48",
    "engine.max_new_tokens=2",
    "measure.latency_examples=0",
)


def peaks(bioquant: Command, root: Path, limits: str) -> list[float]:
    """MiB of each cell, in the order in which one process ran them."""
    done = bioquant("run", "-m", *CELL, f"limit={limits}", "resume=false", "--json", root=root)
    assert done.returncode == 0, done.stderr
    return [row["peak_mib"] for row in json.loads(done.stdout)]


@pytest.mark.slow
def test_a_cells_peak_is_its_own_whatever_ran_before_it(bioquant: Command, tmp_path: Path) -> None:
    larger, after = peaks(bioquant, tmp_path, "36,2")
    alone, _ = peaks(bioquant, tmp_path, "2,3")
    assert larger - alone > 100
    assert after - alone < 0.3 * (larger - alone)
