"""What is known of a cell that is to be registered: its run, its baseline, and how the two compare."""

from dataclasses import dataclass

from mlflow.entities import Run

from bioquant import runs
from bioquant.compare import Comparison, compare
from bioquant.config import PolicyConfig
from bioquant.errors import RegistryError
from bioquant.evidence import LoggedRun
from bioquant.shown import without_password
from bioquant.tracking import Store
from bioquant.tracking.calls import RefusedError, asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A finished cell, and its comparison with its baseline.

    comparison: None where the cell is its own baseline, and where there is none. gap: why there is none, which only
    `--force` accepts; else empty.
    """

    run: LoggedRun
    comparison: Comparison | None
    gap: str


def gather(store: Store, run_id: str, policy: PolicyConfig, *, force: bool) -> Evidence:
    """Read the run and its baselines, and compare. Raises RegistryError, TrackingError."""
    cell = _finished_cell(store, run_id)
    baselines = [run for run in runs.of_cell(store, cell.data.tags["baseline_cell_id"]) if run.info.run_id != run_id]
    run, *others = runs.described(store, [cell, *baselines])
    sets, unread = runs.evidence(store, [run] if run.is_baseline else [run, *others])
    compared = compare(sets, policy)
    gap = next((one.reason for one in (*unread, *compared.refusals) if one.run.run_id == run_id), "")
    if gap and not force:
        raise RegistryError(
            f"run {run_id} ({run.label} on {run.task}) has no finished baseline pair: {gap} (--force registers it all "
            "the same, and its card says so)"
        )
    comparison = None if gap or run.is_baseline else compared.comparisons[0]
    return Evidence(run=run, comparison=comparison, gap=gap)


def _finished_cell(store: Store, run_id: str) -> Run:
    """Raises RegistryError for what is no finished cell."""
    run = find(store, run_id)
    kind = run.data.tags.get("bioquant.kind", "")
    if kind == "recommendation":
        raise RegistryError(f"run {run_id} is a recommendation: bioquant register recommendation={run_id}")
    if kind != "cell":
        raise RegistryError(
            f"run {run_id} is no cell that was evaluated: name one of the runs that bioquant compare lists."
        )
    if run.info.status != "FINISHED":
        raise RegistryError(f"run {run_id} is {run.info.status}, not FINISHED: only a finished cell is evidence.")
    return run


def find(store: Store, run_id: str) -> Run:
    """A run by its id. Raises RegistryError where there is none."""
    try:
        return asked(lambda: store.client.get_run(run_id))
    except RefusedError as error:
        raise RegistryError(
            f"run '{run_id}' is not in the tracking store '{without_password(store.uri)}': copy its id from the run's "
            "page, or name another store with --uri."
        ) from error
