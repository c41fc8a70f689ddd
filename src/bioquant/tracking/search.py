"""What other runs there are: cells that are finished, and runs whose owner is gone."""

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bioquant.errors import TrackingError
from bioquant.records import Outcome
from bioquant.tracking import owner
from bioquant.tracking.events import Batch, End, Event, Status
from bioquant.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Reaped:
    """A run that was still RUNNING though its owner is gone, and what it was closed with.

    status: FINISHED where its whole result was logged, else KILLED; the tag `reaped` says whose it was.
    """

    run_id: str
    name: str
    owner: str
    status: Status


def finished(store: Store, fingerprints: Collection[str]) -> dict[str, Outcome]:
    """The FINISHED cells among these fingerprints, the latest of each: one search (paged), and what is in the spool.

    Where the server is away: the cells this project delivered before, and those that wait in the spool.
    """
    found = _on_the_server(store, fingerprints) | _in_the_spool(store)
    return {fingerprint: found[fingerprint] for fingerprint in fingerprints if fingerprint in found}


def reap(store: Store) -> list[Reaped]:
    """Close the runs still RUNNING whose owner is gone: on this host by pid and start time, elsewhere by heartbeat age.

    What it writes is spooled and delivered like all else. Where the server is away: the runs in the spool alone.
    """
    closed = list(_reap_spooled(store))
    spoken_for = {store.spool.run_id_of(key) for key in store.spool.runs()}
    for run in _running(store):
        if _is_twin(store, run):
            _delete(store, run.info.run_id)
        elif run.info.run_id not in spoken_for and owner.gone(run.data.tags):
            last_sign_s = float(run.data.tags.get("owner.heartbeat", time.time()))
            closed.append(_close(store, run.info.run_id, run.info.run_name or "", run.data.tags, "KILLED", last_sign_s))
    return closed


def _on_the_server(store: Store, fingerprints: Collection[str]) -> dict[str, Outcome]:
    """By fingerprint; where the server is away, from what was delivered before. A filter of MLflow takes one value."""
    try:
        one = f" and tags.fingerprint = '{next(iter(fingerprints))}'" if len(fingerprints) == 1 else ""
        runs = list(_search(store, f"attributes.status = 'FINISHED' and tags.`bioquant.kind` = 'cell'{one}"))
    except TrackingError:
        records = store.spool.delivered().values()
        return {
            record["fingerprint"]: _outcome(record["metrics"], record)
            for record in records
            if record.get("fingerprint") and "metrics" in record
        }
    return {
        run.data.tags["fingerprint"]: _outcome(run.data.metrics, run.data.tags)
        for run in reversed(runs)
        if "fingerprint" in run.data.tags
    }


def _outcome(metrics: Mapping[str, float], tags: Mapping[str, str]) -> Outcome:
    """A result, without how the machine fared, which is a course over time and no figure of the cell."""
    values = {name: value for name, value in metrics.items() if not name.startswith("system/")}
    return Outcome(metrics=values, input_ids_sha256=tags.get("input_ids_sha256", ""))


def _in_the_spool(store: Store) -> dict[str, Outcome]:
    summaries = map(store.spool.summary, store.spool.runs())
    return {
        found.tags["fingerprint"]: _outcome(found.metrics, found.tags)
        for found in summaries
        if found.status == "FINISHED" and "fingerprint" in found.tags
    }


def _reap_spooled(store: Store) -> Iterator[Reaped]:
    for key in store.spool.runs():
        found = store.spool.summary(key)
        if found.status is None and owner.gone(found.tags):
            status: Status = "FINISHED" if "quality" in found.metrics else "KILLED"
            yield _close(store, key, found.name or key, found.tags, status, store.spool.last_sign_s(key))


def _running(store: Store) -> "list[Run]":
    with contextlib.suppress(TrackingError):
        return list(_search(store, "attributes.status = 'RUNNING'"))
    return []


def _is_twin(store: Store, run: "Run") -> bool:
    """Whether a slow server made this run for one that was made again since; such a run is and stays empty."""
    key = run.data.tags.get("spool_key")
    used = store.spool.run_id_of(key) if key else None
    return used is not None and used != run.info.run_id


def _delete(store: Store, run_id: str) -> None:
    """What cannot be deleted now is found again at the next start."""
    from bioquant.tracking.calls import asked

    with contextlib.suppress(TrackingError):
        asked(lambda: store.client.delete_run(run_id))


def _close(store: Store, run_id: str, name: str, tags: Mapping[str, str], status: Status, last_sign_s: float) -> Reaped:
    whose = owner.described(tags)
    reason = f"{whose} is gone; closed {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    events: list[Event] = [Batch(tags={"reaped": reason}), End(status=status, end_ms=int(last_sign_s * 1000))]
    store.spool.add(run_id, events, last=True)
    if store.courier is not None:
        store.courier.nudge(run_id)
    return Reaped(store.spool.run_id_of(run_id) or run_id, name, whose, status)


def _search(store: Store, condition: str) -> "Iterator[Run]":
    """The runs that fulfil it, the latest first. Raises TrackingError."""
    from bioquant.tracking.calls import asked

    order = ["attributes.end_time DESC"]

    def page(token: str | None) -> "PagedList[Run]":
        return asked(
            lambda: store.client.search_runs(
                [store.experiment_id], condition, max_results=PAGE, order_by=order, page_token=token
            )
        )

    found = page(None)
    yield from found
    while found.token:
        found = page(found.token)
        yield from found
