"""The calls to MLflow: one event is one call, and what an error means for the rest of the spool."""

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, assert_never

import requests
import sqlalchemy.exc
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from bioquant.errors import TrackingError, is_disk_full
from bioquant.shown import masked
from bioquant.tracking.events import Batch, Create, End, Event, File, Input, Reopen, Text

Found = TypeVar("Found")

SPOOL_KEY = "spool_key"
"""The tag by which a run is found again whose creation was sent but never answered."""

REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS")
"""Answers that stay the same however often one asks."""

# A server that hangs is found out in seconds, where nothing else was asked for; MLflow's own defaults try for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
# By default a link is printed to stdout, where tables and JSON go.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
# It would draw a bar for every file.
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
# Its messages about creating tables are no news to a user; a locked database is asked again.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
# That a request is repeated is no news either; that the server is away is said once, by those who wait for it.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


class AwayError(TrackingError):
    """Nothing answers, or not in time: the whole spool has to wait."""


class NotSentError(AwayError):
    """No connection came about: nothing can have arrived."""


class UnwellError(TrackingError):
    """The call failed on the server's side (5xx, a locked database): worth another try later."""


class RefusedError(TrackingError):
    """The server understood and will not: asking again changes nothing."""


class DeletedError(TrackingError):
    """The run was deleted on the server: nothing more is wanted."""


@lru_cache(maxsize=16)
def client_of(uri: str) -> MlflowClient:
    """MLflow's client for a store, made once. A database is connected to here already: call it inside `asked`."""
    return MlflowClient(uri)


def asked(call: Callable[[], Found]) -> Found:
    """A call's answer. Raises AwayError, UnwellError, RefusedError."""
    try:
        return call()
    except MlflowException as error:
        raise _meaning(error) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        # 401 and 403: rights that somebody can give; 408, 429: later.
        raise (RefusedError if 400 <= status < 500 and status not in (401, 403, 408, 429) else UnwellError)(
            _short(error)
        ) from error
    except requests.RequestException as error:
        raise AwayError(_short(error)) from error
    except sqlalchemy.exc.OperationalError as error:
        raise AwayError(_short(error.orig or error)) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UnwellError(_short(error)) from error
    except OSError as error:  # of artifacts in a folder: a disk that is full may be so for a while only
        raise (AwayError if is_disk_full(error) else RefusedError)(_short(error)) from error


def _meaning(error: MlflowException) -> Exception:
    below = error.__cause__ or error.__context__
    if isinstance(below, requests.ConnectionError | requests.Timeout):
        return (NotSentError if "NewConnectionError" in str(below) else AwayError)("no server answers there")
    if error.error_code in REFUSALS:
        return RefusedError(_short(error))
    if error.error_code == "TEMPORARILY_UNAVAILABLE":
        return AwayError(_short(error))
    return UnwellError(_short(error))


def _short(error: BaseException) -> str:
    return masked(" ".join(str(error).split()))[:300]


def create(client: MlflowClient, experiment_id: str, key: str, event: Create, parent_id: str | None) -> str:
    """Make the run; returns its MLflow id."""
    tags = {**event.tags, SPOOL_KEY: key} | ({"mlflow.parentRunId": parent_id} if parent_id else {})
    with unrepeated():
        run = asked(lambda: client.create_run(experiment_id, start_time=event.start_ms, tags=tags, run_name=event.name))
    return run.info.run_id


@contextmanager
def unrepeated() -> Generator[None]:
    """Keep MLflow from repeating a request that timed out: a creation may have arrived, and there would be two runs."""
    before = os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = before


def with_key(client: MlflowClient, experiment_id: str, key: str) -> list[str]:
    """The runs made for a key, the oldest first: more than one where a slow server answered after nobody waited."""
    found = asked(
        lambda: client.search_runs([experiment_id], f"tags.{SPOOL_KEY} = '{key}'", order_by=["attributes.start_time"])
    )
    return [run.info.run_id for run in found]


def delete_twins(client: MlflowClient, experiment_id: str, key: str, run_id: str) -> None:
    """Delete what a slow server made beside the run that was used."""
    for twin in with_key(client, experiment_id, key):
        if twin != run_id:
            asked(lambda twin=twin: client.delete_run(twin))


def send(client: MlflowClient, run_id: str, event: Event) -> None:
    """One event of a run that has its id. Raises AwayError, UnwellError, RefusedError, DeletedError."""
    try:
        asked(lambda: _send(client, run_id, event))
    except RefusedError:
        if _is_deleted(client, run_id):
            raise DeletedError(run_id) from None
        raise


def _send(client: MlflowClient, run_id: str, event: Event) -> None:
    match event:
        case Batch():
            client.log_batch(
                run_id,
                metrics=[Metric(*point) for point in event.metrics],
                params=[Param(key, value) for key, value in event.params.items()],
                tags=[RunTag(key, value) for key, value in event.tags.items()],
            )
        case Input():
            client.log_inputs(run_id, [_dataset(event)])
        case File():
            _upload(client, run_id, Path(event.path))
        case Text():
            client.log_text(run_id, event.text, event.name)
        case End():
            client.set_terminated(run_id, event.status, end_time=event.end_ms)
        case Reopen():
            client.update_run(run_id, status="RUNNING")
        case Create():
            raise AssertionError("a run is created before its events are sent")
        case _:
            assert_never(event)


def _upload(client: MlflowClient, run_id: str, path: Path) -> None:
    if path.exists():
        client.log_artifact(run_id, str(path))
    else:
        logging.getLogger(__name__).warning("%s is gone, so run %s has no such artifact", path, run_id)


def _dataset(event: Input) -> DatasetInput:
    dataset = Dataset(
        name=event.name,
        digest=event.digest,
        source_type=event.source_type,
        source=event.source,
        profile=event.profile,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])


def _is_deleted(client: MlflowClient, run_id: str) -> bool:
    try:
        return asked(lambda: client.get_run(run_id)).info.lifecycle_stage == "deleted"
    except RefusedError:
        return False
