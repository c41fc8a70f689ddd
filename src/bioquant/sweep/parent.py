"""The parent run of a sweep: opened once, and gone on with where the same sweep was interrupted or had failures."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bioquant import attempts, tracking
from bioquant.sweep.cells import SweepPlan
from bioquant.sweep.crew import Sweep
from bioquant.tables import Row


@contextmanager
def parent_run(store: tracking.Store, plan: SweepPlan, folder: Path, *, mark: int, anew: bool) -> Generator[Sweep]:
    """The sweep, RUNNING while the context lasts and ended with what really happened.

    The same cells again are the same sweep until all of them are finished, unless another process is still at it, or
    it is to be `anew`.
    """
    key = _key(store, plan)
    with attempts.turn(key) as ours:
        known = attempts.recall(key) if ours and not anew else None
        if known is not None:
            sweep = Sweep(known["id"], store, known["run_id"], mark)
            tracking.reattach(store, sweep.run_id)
        else:
            run_id = tracking.start_sweep(store, folder.name, folder, plan.axes())
            sweep = Sweep(folder.name, store, run_id, mark)
        if ours:
            attempts.remember(key, {"id": sweep.id, "run_id": sweep.run_id})
        with tracking.closing(store, sweep.run_id, folder):
            yield sweep
        if ours:
            attempts.forget(key)


def close_finished(store: tracking.Store, plan: SweepPlan, folder: Path, rows: Sequence[Row]) -> None:
    """All cells are finished: so is the sweep's run, where its process was killed before it could say so."""
    key = _key(store, plan)
    with attempts.turn(key) as ours:
        known = attempts.recall(key) if ours else None
        if known is None:
            tracking.flush(store)
            return
        tracking.reattach(store, known["run_id"])
        with tracking.closing(store, known["run_id"], folder):
            tracking.log_sweep_table(store, known["run_id"], rows)
        attempts.forget(key)


def _key(store: tracking.Store, plan: SweepPlan) -> str:
    cells = sorted(cell.plan.fingerprint for cell in plan.legal)
    identity = "\n".join([store.uri, store.experiment_id, *cells])
    return f"sweep-{hashlib.sha256(identity.encode()).hexdigest()}"
