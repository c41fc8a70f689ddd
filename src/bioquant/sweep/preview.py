"""The plan of a sweep as it is shown before anything runs: a line a model and quant, what was pruned, what it takes."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from bioquant.checkpoints import is_cached
from bioquant.config import Dtype, ModelSource
from bioquant.plan import RunPlan
from bioquant.sweep.cells import Cell, SweepPlan

NAMED = 3
"""So many of the cells that were pruned for one reason are named."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a cell is expected to take; None where nothing is known.

    seconds: of its work, without loading the model, which takes load_s once a group. memory_mib: of its device, at its
    peak, with one example at a time. disk_mib: of the checkpoint, where it is not on this machine yet; once a model.
    fits: whether the device holds it. device: for which all of this is said.
    """

    seconds: float | None = None
    load_s: float = 0.0
    memory_mib: float | None = None
    disk_mib: float | None = None
    fits: bool = True
    device: str = ""


Estimator = Callable[[RunPlan], Estimate]


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One row of the plan. reason: why it is pruned."""

    model: str
    quant: str
    task: str
    prompt: str
    num_examples: int
    state: Literal["to run", "finished", "pruned"]
    reason: str
    expected: Estimate
    cell_id: str
    fingerprint: str
    command: str


def checkpoint_size(plan: RunPlan) -> Estimate:
    """The disk that a hub model's weights will need, from the number of its parameters; nothing else."""
    model = plan.config.model
    if model.source is not ModelSource.hub or model.num_parameters is None:
        return Estimate()
    width = 4 if model.dtype is Dtype.float32 else 2
    return Estimate(disk_mib=0.0 if is_cached(model) else model.num_parameters * width / 2**20)


def rows(sweep: SweepPlan, estimate: Estimator) -> list[PlannedCell]:
    """One row a cell: what becomes of it and why, and what it will take where it is to run."""
    return [
        *(_row(cell, "to run", "", estimate(cell.plan)) for cell in sweep.cells),
        *(_row(cell, "finished", "", Estimate()) for cell, _ in sweep.finished),
        *(_row(cell, "pruned", reason, Estimate()) for cell, reason in sweep.pruned),
    ]


def _row(cell: Cell, state: Literal["to run", "finished", "pruned"], reason: str, expected: Estimate) -> PlannedCell:
    plan, config = cell.plan, cell.plan.config
    return PlannedCell(
        model=config.model.name,
        quant=config.quant.name,
        task=config.task.name,
        prompt=config.prompt.name,
        num_examples=plan.num_examples,
        state=state,
        reason=reason,
        expected=expected,
        cell_id=plan.cell_id,
        fingerprint=plan.fingerprint,
        command=cell.command,
    )


def show(planned: Sequence[PlannedCell], console: Console, *, as_json: bool = False) -> None:
    """The plan, for people, or whole for programs."""
    if as_json:
        console.file.write(json.dumps([asdict(row) for row in planned], indent=2) + "\n")
        return
    if _in_state(planned, "to run"):
        console.print(_table(planned))
    for line in (*_pruned(planned), _totals(planned)):
        console.print(line, soft_wrap=True)


def _table(planned: Sequence[PlannedCell]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model")
    table.add_column("quant")
    for heading in ("cells\nto run", "\nfinished", "\npruned", "\nexamples", "memory\nGiB", "\ntime"):
        table.add_column(heading, justify="right")
    for model, quant in dict.fromkeys((row.model, row.quant) for row in planned):
        cells = [row for row in planned if (row.model, row.quant) == (model, quant)]
        to_run = _in_state(cells, "to run")
        numbers = [len(_in_state(cells, state)) for state in ("to run", "finished", "pruned")]
        memory = [row.expected.memory_mib for row in to_run if row.expected.memory_mib is not None]
        table.add_row(
            model,
            quant,
            *(str(number or "") for number in numbers),
            f"{sum(row.num_examples for row in to_run):,}",
            f"{max(memory) / 1024:.1f}" if memory else "-",
            _time(to_run),
        )
    return table


def _pruned(planned: Sequence[PlannedCell]) -> list[str]:
    """Each reason, how many cells it takes out, and which."""
    pruned = _in_state(planned, "pruned")
    lines: list[str] = []
    for reason in dict.fromkeys(row.reason for row in pruned):
        names = [f"{row.model} · {row.quant} · {row.task} · {row.prompt}" for row in pruned if row.reason == reason]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"pruned {len(names)}: {reason}\n  {', '.join(names[:NAMED])}{more}")
    return lines


def _totals(planned: Sequence[PlannedCell]) -> str:
    to_run = _in_state(planned, "to run")
    if not to_run:
        return f"{len(planned)} cells: all are finished already; resume=false runs them again."
    groups = len({(row.model, row.quant) for row in to_run})
    return (
        f"{len(planned)} cells: {len(to_run)} to run in {groups} groups that load a model once, "
        f"{sum(row.num_examples for row in to_run):,} examples; {len(_in_state(planned, 'finished'))} finished; "
        f"{len(_in_state(planned, 'pruned'))} pruned. Time on one device: {_about(_time(to_run))}.{_too_large(to_run)}"
        f"{_to_fetch(to_run)}"
    )


def _about(time: str) -> str:
    return f"about {time}" if time[0].isdigit() else time


def _too_large(to_run: Sequence[PlannedCell]) -> str:
    too_large = [row for row in to_run if not row.expected.fits]
    if not too_large:
        return ""
    models = ", ".join(dict.fromkeys(f"{row.model} {row.quant}" for row in too_large))
    return f" {len(too_large)} cells do not fit {too_large[0].expected.device}, and are not in that time: {models}."


def _to_fetch(to_run: Sequence[PlannedCell]) -> str:
    sizes = {row.model: row.expected.disk_mib or 0 for row in to_run}
    return f" Checkpoints to fetch: {sum(sizes.values()) / 1024:,.0f} GiB." if any(sizes.values()) else ""


def _in_state(planned: Iterable[PlannedCell], state: str) -> list[PlannedCell]:
    return [row for row in planned if row.state == state]


def _time(to_run: Iterable[PlannedCell]) -> str:
    """Of all that fit, each group's model loaded once; unknown where one is not known, since the rest says little."""
    fitting = [row for row in to_run if row.expected.fits]
    loads = {(row.model, row.quant): row.expected.load_s for row in fitting}
    known = [row.expected.seconds for row in fitting if row.expected.seconds is not None]
    if not fitting:
        return "-"
    return duration(sum(known) + sum(loads.values()) if len(known) == len(fitting) else None)


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
