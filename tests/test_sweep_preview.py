"""The plan as it is shown."""

import io
import json

import pytest
from rich.console import Console

from bioquant.plan import RunPlan
from bioquant.sweep.cells import SweepPlan
from bioquant.sweep.preview import Estimate, PlannedCell, checkpoint_sizes, duration, rows, show
from test_sweep_cells import OUTCOME, planned

REASON = "prompt 'self_consistency' makes no sense for ner tasks (prompt.kinds: re, mlc, qa)"


def plan() -> SweepPlan:
    whole = planned(
        ("limit=4",),
        ("limit=4", "task=demo_re"),
        ("limit=4", "quant=bnb_nf4"),
        *[("task=demo_ner", "prompt=self_consistency", f"seed={seed}") for seed in range(5)],
    )
    return whole.without({whole.cells[1].plan.fingerprint: OUTCOME})


def expected(cell: RunPlan) -> Estimate:
    return Estimate(seconds=3600.0 if cell.is_baseline else None, memory_mib=2048, disk_mib=10_240)


def shown(planned: list[PlannedCell]) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(planned, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_cell_is_in_the_plan_with_what_becomes_of_it() -> None:
    found = rows(plan(), expected)
    assert [row.state for row in found] == ["to run", "to run", "finished"] + ["pruned"] * 5
    assert {row.reason for row in found} == {"", REASON}
    assert found[0].expected.seconds == 3600
    assert found[2].expected == Estimate()


def test_the_plan_in_words() -> None:
    text = shown(rows(plan(), expected))
    lines = [line.split() for line in text.splitlines()]
    assert ["tiny_random", "none", "1", "1", "5", "4", "2.0", "60", "min"] in lines
    assert ["tiny_random", "bnb_nf4", "1", "4", "2.0", "unknown"] in lines
    assert f"pruned 5: {REASON}\n" in text
    name = "tiny_random · none · demo_ner · self_consistency"
    assert f"  {name}, {name}, {name} and 2 more\n" in text
    assert text.endswith(
        "8 cells: 2 to run in 2 groups that load a model once, 8 examples; 1 finished; 5 pruned. "
        "Time on one device: unknown. Checkpoints to fetch: 10 GiB.\n"
    )


def test_nothing_to_run_is_said_in_one_line() -> None:
    whole = planned((), ("seed=1",))
    done = whole.without({cell.plan.fingerprint: OUTCOME for cell in whole.cells})
    assert shown(rows(done, expected)) == "2 cells: all are finished already; resume=false runs them again.\n"


def test_as_json_it_is_a_row_a_cell() -> None:
    console = Console(file=io.StringIO())
    show(rows(plan(), expected), console, as_json=True)
    assert isinstance(console.file, io.StringIO)
    found = json.loads(console.file.getvalue())
    assert len(found) == 8
    assert found[0]["expected"] == {"seconds": 3600.0, "memory_mib": 2048, "disk_mib": 10_240}
    assert found[0]["command"] == "run 0"


def test_a_hub_model_that_is_not_here_needs_its_parameters_times_their_width(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = planned((), ("model=qwen2_5_0_5b",))
    local, hub = (cell.plan for cell in whole.cells)
    monkeypatch.setattr("bioquant.sweep.preview.is_cached", lambda _: False)
    sizes = checkpoint_sizes(whole.cells)
    assert hub.config.model.num_parameters
    assert sizes(hub).disk_mib == hub.config.model.num_parameters * 2 / 2**20
    assert sizes(local).disk_mib is None
    monkeypatch.setattr("bioquant.sweep.preview.is_cached", lambda _: True)
    assert checkpoint_sizes(whole.cells)(hub).disk_mib == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (4, "4 s"),
        (89, "89 s"),
        (95, "2 min"),
        (5_340, "89 min"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
