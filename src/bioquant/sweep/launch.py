"""The parent of a sweep: plans every cell, owns every MLflow run, and outlives its workers."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bioquant import attempts, tables, tracking
from bioquant.config import RunConfig
from bioquant.errors import CellsFailedError, ConfigError
from bioquant.hardware import device_of
from bioquant.sweep import preview
from bioquant.sweep.cells import AXES, Cell, SweepPlan, groups, plan_sweep
from bioquant.sweep.crew import Crew, Sweep
from bioquant.sweep.devices import Slot
from bioquant.sweep.display import Display
from bioquant.sweep.parent import close_finished, parent_run
from bioquant.sweep.preview import Estimator
from bioquant.sweep.queue import CellQueue
from bioquant.sweep.site import Site
from bioquant.tables import Row

MAX_NAMED = 20
"""So many failures are told in full at the end; all of them are in the table `cells.json` of the sweep's run."""


def show_plan(
    configs: Sequence[RunConfig],
    commands: Sequence[str],
    folder: Path,
    site: Site,
    estimate: Estimator,
    *,
    as_json: bool,
) -> None:
    """Plan all cells, show what comes of each, and leave no trace. Raises UserError."""
    plan = plan_sweep(configs, commands, folder, site.gpus)
    refuse_empty(plan)
    plan = without_finished(plan, configs[0], tracking.open_store(configs[0].tracking))
    remove_empty(folder)
    preview.show(preview.rows(plan, estimate), Console(), as_json=as_json)


def run_sweep(configs: Sequence[RunConfig], commands: Sequence[str], folder: Path, site: Site, rows: list[Row]) -> None:
    """Plan all cells, show the plan, then run what is not finished; `rows` gets a row of each cell that ends.

    Raises a UserError before anything runs, CellsFailedError after everything has, KeyboardInterrupt where it was
    stopped.
    """
    first, mark = configs[0], attempts.mark()
    plan = plan_sweep(configs, commands, folder, site.gpus)
    refuse_empty(plan)
    store = tracking.open_store(first.tracking)
    # Before what is finished is looked up: a cell that was killed once its result was logged is closed as FINISHED.
    say_reaped(tracking.reap(store))
    plan = without_finished(plan, first, store)
    preview.show(preview.rows(plan, preview.checkpoint_size), Console(stderr=True))
    rows += [tables.row(cell.plan, outcome) for cell, outcome in plan.finished]
    attempts.forget_finished(cell.plan.fingerprint for cell, _ in plan.finished)
    if plan.cells:
        room = site.slots([device_of(group[0].plan.config, site.gpus) for group in groups(plan.cells)])
        with parent_run(store, plan, folder, mark=mark, anew=not first.resume) as sweep:
            run_cells(sweep, plan.cells, folder, site, room, rows)
    else:
        remove_empty(folder)
        close_finished(store, plan, folder, rows)
    refuse_other_prompts(rows)


def without_finished(plan: SweepPlan, config: RunConfig, store: tracking.Store) -> SweepPlan:
    """The plan of what is to be run; with resume=false that is all of it."""
    if not config.resume:
        return plan
    return plan.without(tracking.finished(store, [cell.plan.fingerprint for cell in plan.cells]))


def refuse_empty(plan: SweepPlan) -> None:
    """Raise ConfigError where no cell is left to plan, with the reasons."""
    if not plan.cells:
        reasons = dict.fromkeys(reason for _, reason in plan.pruned)
        raise ConfigError(f"none of the {len(plan.pruned)} cells can run: {'; '.join(reasons)}.")


def remove_empty(folder: Path) -> None:
    """Where nothing ran, nothing is left but what Hydra's sweeper wrote."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def say_reaped(reaped: Sequence[tracking.Reaped]) -> None:
    """Runs that an earlier process left open."""
    if reaped:
        print(f"closed {len(reaped)} runs whose process is gone: {reaped[0].owner}", file=sys.stderr, flush=True)


def run_cells(
    sweep: Sweep, cells: Sequence[Cell], folder: Path, site: Site, room: Sequence[Slot], rows: list[Row]
) -> None:
    """Run the cells and log the sweep's table. Raises CellsFailedError, KeyboardInterrupt."""
    display = Display(Console(stderr=True), cells)
    queue = CellQueue(cells, lambda cell: device_of(cell.plan.config, site.gpus), joining=site.joining)
    crew = Crew(sweep, queue, site.hire(folder), display, rows)
    with display.shown():
        crew.run(room)
    tracking.log_sweep_table(sweep.store, sweep.run_id, rows)
    failures = failed(rows)
    if crew.stopped.is_set():
        print(f"{failures}\nstopped: the same command again goes on from here", file=sys.stderr, flush=True)
        raise KeyboardInterrupt
    if failures:
        raise CellsFailedError(failures)


def failed(rows: Sequence[Row]) -> str:
    """How many cells failed, why, and the command that repeats each; empty where none did."""
    bad = [row for row in rows if row["error"]]
    if not bad:
        return ""
    named = [f"\n  {_name(row)}\n    {row['error_kind']}: {row['error']}\n    {row['command']}" for row in bad]
    more = f"\n  and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    return f"{len(bad)} of {len(rows)} cells failed:{''.join(named[:MAX_NAMED])}{more}"


def _name(row: Row) -> str:
    return " · ".join(str(row[axis]) for axis in (*AXES, "setting") if row[axis])


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
