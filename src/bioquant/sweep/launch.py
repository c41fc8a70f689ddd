"""The parent of a sweep: plans every cell, owns every MLflow run, and outlives its workers."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bioquant import run, tables, tracking
from bioquant.compose import to_mapping
from bioquant.config import RunConfig
from bioquant.errors import CellsFailedError
from bioquant.loading import what_is_loaded
from bioquant.plan import RunPlan
from bioquant.sweep.process import CellError, Worker
from bioquant.tables import Row

AXES = ("model", "quant", "task", "prompt")


@dataclass(frozen=True, slots=True)
class Cell:
    """A planned cell of a sweep, the folder it writes to, and the command that runs it alone."""

    plan: RunPlan
    folder: Path
    command: str

    @property
    def group(self) -> tuple[str, str]:
        """Cells that agree in it share a loaded model."""
        config = self.plan.config
        return repr(config.model), repr((config.quant, what_is_loaded(config.engine)))

    @property
    def is_baseline(self) -> bool:
        """Whether the model is unquantized."""
        return self.plan.cell_id == self.plan.baseline_cell_id


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep under way: where it is logged, and the parent run its cells hang under."""

    id: str
    store: tracking.Store
    run_id: str


def run_sweep(
    configs: Sequence[RunConfig], commands: Sequence[str], folder: Path, report: Callable[[Row], None]
) -> None:
    """Plan all cells, then run them; each one's table row is reported as it ends.

    Raises a UserError before anything runs, CellsFailedError after everything has.
    """
    plans = run.prepare_all(configs)
    numbered = enumerate(zip(plans, commands, strict=True))
    cells = order([Cell(plan, folder / str(number), command) for number, (plan, command) in numbered])
    store = tracking.open_store(configs[0].tracking)
    sweep = Sweep(folder.name, store, tracking.start_sweep(store, folder.name, folder, axes(configs)))
    rows: list[Row] = []
    with tracking.closing(store, sweep.run_id, folder):
        for group in groups(cells):
            for row in run_group(sweep, group):
                rows.append(row)
                report(row)
        tracking.log_sweep_table(store, sweep.run_id, rows)
        raise_failures(rows)
        refuse_other_prompts(rows)


def order(cells: Sequence[Cell]) -> list[Cell]:
    """By model and quant, the baseline first, otherwise in the order the axes were given."""
    rank = {name: index for index, name in enumerate(dict.fromkeys(name for cell in cells for name in cell.group))}
    return sorted(cells, key=lambda cell: (rank[cell.group[0]], not cell.is_baseline, rank[cell.group[1]]))


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Neighbours that share a loaded model."""
    return [list(group) for _, group in groupby(cells, key=lambda cell: cell.group)]


def axes(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """The values each axis takes in the sweep."""
    return {axis: list(dict.fromkeys(getattr(config, axis).name for config in configs)) for axis in AXES}


def run_group(sweep: Sweep, cells: Sequence[Cell]) -> Iterator[Row]:
    """One group in a worker process; a worker that dies costs the cell it was in, and a fresh one takes the rest."""
    worker = Worker()
    try:
        for cell in cells:
            if not worker.alive():
                worker = Worker()
            yield run_in(worker, sweep, cell)
    finally:
        worker.close()


def run_in(worker: Worker, sweep: Sweep, cell: Cell) -> Row:
    """One cell in a worker, its MLflow run opened before and closed after with what really happened."""
    run_id = tracking.start_run(sweep.store, cell.plan, cell.folder, sweep_id=sweep.id, parent_run_id=sweep.run_id)
    request = {"config": to_mapping(cell.plan.config), "folder": str(cell.folder), "run_id": run_id}
    try:
        with tracking.closing(sweep.store, run_id, cell.folder):
            return tables.row(cell.plan, worker.ask(request))
    except CellError as error:
        print(f"{cell.plan.name} failed: {error}", file=sys.stderr, flush=True)
        return tables.row(cell.plan, None, f"{error} Repeat: {cell.command}")


def raise_failures(rows: Sequence[Row]) -> None:
    """Raise CellsFailedError where cells failed, with each one's reason and the command that repeats it."""
    failed = [f"\n  {row['error']}" for row in rows if row["error"]]
    if failed:
        raise CellsFailedError(f"{len(failed)} of {len(rows)} cells failed:{''.join(failed)}")


def refuse_other_prompts(rows: Sequence[Row]) -> None:
    """Raise CellsFailedError where a candidate was not asked what its baseline was: the two cannot be compared."""
    asked: dict[object, set[object]] = {}
    for row in rows:
        asked.setdefault(row["baseline_cell_id"], set()).add(row["input_ids_sha256"])
    for row in rows:
        if len(asked[row["baseline_cell_id"]]) > 1:
            raise CellsFailedError(
                f"the quants of {row['model']} on {row['task']} with {row['prompt']} were asked different prompts "
                "(their input ids differ), so they cannot be compared: use one tokenizer and one context length."
            )
