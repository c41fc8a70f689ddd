"""The connection to a tracking store: its tables and the experiment made once, whoever comes first."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from bioquant.errors import TrackingError
from bioquant.shown import without_password
from bioquant.tracking import views
from bioquant.tracking.calls import AwayError, RefusedError, UnwellError, asked, unrepeated

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the experiment in the UI on its runs, not on the pages for chat traces."""

SQLITE = "sqlite:///"

FIRST_USE = 0x62696F71
"""PostgreSQL's advisory lock under which the tables are made."""

CONNECT_TIMEOUT_S = 5

ADVICE = "Start a server (bioquant ui), or set tracking.uri or MLFLOW_TRACKING_URI."


class StoreAwayError(TrackingError):
    """A tracking store that does not answer now."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"tracking store '{uri}' cannot be used: {reason}. {ADVICE}")
        self.reason = reason


def connect(uri: str, experiment: str) -> str:
    """Make tables and experiment where they are missing; returns the experiment's id.

    Raises StoreAwayError, TrackingError.
    """
    shown = without_password(uri)
    try:
        with unrepeated(), _first_use(uri):
            return asked(lambda: _experiment(MlflowClient(uri), experiment, uri))
    except AwayError as error:
        raise StoreAwayError(shown, str(error)) from error
    except (RefusedError, UnwellError, OSError) as error:
        raise TrackingError(f"tracking store '{shown}' cannot be used: {str(error)[:200]} {ADVICE}") from error
    except ModuleNotFoundError as error:
        missing = f"the database driver {error.name} is not installed: pip install 'bioquant[server]'"
        raise TrackingError(f"tracking store '{shown}' cannot be used: {missing}") from error


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name) or _created(client, name, uri)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment '{name}' was deleted in the tracking store: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}), or choose another name with tracking.experiment."
        )
    for tag, value in views.tags(found.experiment_id).items():
        if tag not in found.tags:  # what somebody made of it in the UI stays
            client.set_experiment_tag(found.experiment_id, tag, value)
    return found.experiment_id


def _created(client: MlflowClient, name: str, uri: str) -> Experiment:
    """The experiment, made here, or a moment before by another process."""
    try:
        made = client.create_experiment(name, artifact_location=_artifacts(uri, name), tags=EXPERIMENT_TAGS)
        return client.get_experiment(made)
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return found


def _artifacts(uri: str, experiment: str) -> str | None:
    """A server chooses (and proxies) its own artifact location; a SQLite file keeps artifacts beside itself."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "artifacts" / experiment).as_uri()


def _first_use(uri: str) -> AbstractContextManager[object]:
    """Held while tables and experiment are made: two processes that make them at once spoil the database for good.

    Also finds out at once whether a database is there: MLflow itself would try for minutes.
    """
    if uri.startswith(SQLITE):
        return _sqlite(Path(uri.removeprefix(SQLITE)))
    return _postgresql(uri) if uri.startswith("postgresql") else nullcontext()


@contextmanager
def _sqlite(path: Path) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        asked(lambda: _probe(sqlalchemy.create_engine(f"{SQLITE}{path}", poolclass=sqlalchemy.NullPool)))
        yield


@contextmanager
def _postgresql(uri: str) -> Generator[None]:
    """The lock ends with its connection."""
    timeout = {"connect_timeout": CONNECT_TIMEOUT_S}
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=timeout)
    connection = asked(engine.connect)
    try:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": FIRST_USE})
        yield
    finally:
        connection.close()


def _probe(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA schema_version"))
