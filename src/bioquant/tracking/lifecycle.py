"""A run's life: started, logged to, ended; each step is on disk before the server hears of it.

Every `run_id` is what `start_run` gave back: MLflow's run id, or, where the server was away, a local key that every
function here takes in its place, in every process of the project, before and after the run's delivery.
"""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from bioquant import privacy, timeline
from bioquant.errors import DiskFullError, is_disk_full, kind_of
from bioquant.plan import RunPlan
from bioquant.records import RunResult
from bioquant.tracking import views
from bioquant.tracking.content import (
    dataset_input,
    metric_values,
    owner_tags,
    result_tags,
    run_params,
    run_tags,
    sweep_name,
    sweep_note,
)
from bioquant.tracking.delivering import flush
from bioquant.tracking.events import Batch, Create, End, Event, File, Point, Reopen, Status, Text
from bioquant.tracking.store import Store

TABLE_ROWS = 500
"""Rows of the predictions table the UI shows; `predictions.parquet` holds them all."""

TABLE_COLUMNS = ["example_id", "prompt", "output", "answer", "target", "correct", "invalid"]

PATIENCE_S = 5.0
"""How long a run's start waits for its MLflow id before it goes on with a local key."""

REQUEUED = (-1, 144)
"""How submitit exits from inside a job, once it has queued it again: on SLURM, and in its local mode."""

MOST_POINTS = 1000
"""Values that MLflow takes in one call."""

RESULT_FILES = (
    "config.yaml",
    "environment.json",
    "predictions.parquet",
    "quantization.json",
    "scores.json",
    "labels.json",
    "labels.png",
    "predictions.json",
)

FAILURE_FILES = ("config.yaml", "run.log", "journal.jsonl")


def start_run(store: Store, plan: RunPlan, folder: Path, *, sweep_id: str | None, parent_run_id: str | None) -> str:
    """Open the cell's run with its params, tags and dataset; returns its id, which `run.json` in the folder keeps too.

    The run is RUNNING, and owned by this process, until `end_run`. Raises DiskFullError.
    """
    tags = run_tags(plan, folder, sweep_id)
    run_id = _start(
        store,
        Create(name=plan.name, tags=tags, start_ms=_now_ms(), parent=parent_run_id),
        [Batch(params=run_params(plan.config, sweep_id)), dataset_input(plan)],
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"run_id": run_id}) + "\n", encoding="utf-8")
    except OSError as error:
        end_run(store, run_id, "FAILED", error)
        raise DiskFullError.at(folder) if is_disk_full(error) else error from error
    return run_id


def start_sweep(store: Store, sweep_id: str, folder: Path, axes: Mapping[str, Sequence[str]]) -> str:
    """Open the parent run of a sweep; its params are the values each axis takes."""
    note = sweep_note(axes, views.cells_of(store.experiment_id, sweep_id))
    tags = {"sweep_id": sweep_id, "bioquant.kind": "sweep", "folder": str(folder), views.NOTE: note} | owner_tags()
    params = {axis: ",".join(values) for axis, values in axes.items()} | {"sweep_id": sweep_id}
    return _start(store, Create(name=sweep_name(axes), tags=tags, start_ms=_now_ms()), [Batch(params=params)])


def run_of(folder: Path) -> str | None:
    """The id of the run that was started for this folder, for a requeued job that finds its folder taken."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8"))["run_id"] if path.exists() else None


def reattach(store: Store, run_id: str) -> None:
    """Go on in a run that another process began (a preempted cell): RUNNING again, owned by this process.

    Raises TrackingError where a local key is not known in this project's spool.
    """
    store.spool.add(run_id, [Reopen(), Batch(tags=owner_tags())])
    _own(store, run_id)


def log_result(store: Store, run_id: str, result: RunResult, folder: Path) -> None:
    """Metrics, the tags that are known only now, and the files of the cell's folder. Raises DiskFullError."""
    now = _now_ms()
    table = pd.read_parquet(folder / "predictions.parquet", columns=TABLE_COLUMNS).head(TABLE_ROWS)
    table.to_json(folder / "predictions.json", orient="split", index=False)
    tags = result_tags(result) | _shown_as_table("predictions.json")
    metrics = tuple(Point(name, value, now, 0) for name, value in metric_values(result).items())
    files = [File(path=str((folder / name).absolute())) for name in RESULT_FILES]
    _log(store, run_id, [Batch(metrics=metrics, tags=tags), *_over_time(folder), *files])


def _over_time(folder: Path) -> list[Batch]:
    """How the machine fared, as MLflow's system metrics; it takes MOST_POINTS values in one call."""
    points = [
        Point(name, value, reading.timestamp_ms, step)
        for step, reading in enumerate(timeline.read(folder))
        for name, value in reading.values.items()
    ]
    return [Batch(metrics=tuple(points[start : start + MOST_POINTS])) for start in range(0, len(points), MOST_POINTS)]


def log_sweep_table(store: Store, run_id: str, rows: Sequence[Mapping[str, object]]) -> None:
    """The sweep's cells as a table on the parent run."""
    text = pd.DataFrame(list(rows)).to_json(orient="split", index=False)
    assert text is not None
    _log(store, run_id, [Text(name="cells.json", text=text), Batch(tags=_shown_as_table("cells.json"))])


def log_failure(store: Store, run_id: str, folder: Path) -> None:
    """What a failed cell left behind: its configuration, its log with the traceback, the predictions it had made."""
    files = [File(path=str((folder / name).absolute())) for name in FAILURE_FILES if (folder / name).exists()]
    if files:
        _log(store, run_id, files, last=True)


def end_run(store: Store, run_id: str, status: Status, error: BaseException | None = None) -> None:
    """Give the run its terminal status and, where it failed, the reason. Waits for no server; see `flush`."""
    events: list[Event] = [End(status=status, end_ms=_now_ms())]
    if error is not None:
        message = " ".join(privacy.told(error).split())[:1000]
        events.insert(0, Batch(tags={"error.kind": kind_of(error), "error.message": message}))
    if store.courier is not None:
        store.courier.disown(run_id)
    _log(store, run_id, events, last=True)


@contextmanager
def closing(store: Store, run_id: str, folder: Path) -> Generator[None]:
    """End the run with what really happened inside: FINISHED, FAILED with its reason, or KILLED.

    KILLED is Ctrl-C, SIGTERM, and the end of a job that is queued again. Then waits for the delivery, as `flush` does:
    for a process with one run, or for the parent of a sweep.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in REQUEUED):
            end_run(store, run_id, "KILLED")
            raise
        log_failure(store, run_id, folder)
        end_run(store, run_id, "FAILED", error)
        raise
    else:
        end_run(store, run_id, "FINISHED")
    finally:
        flush(store)


def beat(store: Store, run_id: str) -> None:
    """Speak for the run until `end_run`: the server is told every HEARTBEAT_S that its owner is alive.

    A run that this process started or re-attached is spoken for without being asked. Never waits, never fails.
    """
    _own(store, run_id)


def _start(store: Store, create: Create, events: Sequence[Event]) -> str:
    key = store.spool.create([create, *events])
    run_id = None if store.courier is None else store.courier.created(key, PATIENCE_S)
    _own(store, run_id or key)
    return run_id or key


def _own(store: Store, run_id: str) -> None:
    if store.courier is not None:
        store.courier.own(run_id)
        store.courier.nudge(run_id)


def _log(store: Store, run_id: str, events: Sequence[Event], *, last: bool = False) -> None:
    store.spool.add(run_id, events, last=last)
    if store.courier is not None:
        store.courier.nudge(run_id)


def _shown_as_table(name: str) -> dict[str, str]:
    """The tag by which the UI shows an artifact side by side across runs."""
    return {"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"}])}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
