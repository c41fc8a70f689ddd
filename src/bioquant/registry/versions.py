"""The calls to MLflow's registry. A version whose recipe is registered already is refreshed, not made again."""

import hashlib
import os
import re
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from filelock import FileLock
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from bioquant.errors import ConfigError, RegistryError, did_you_mean
from bioquant.places import cache_dir
from bioquant.registry.card import shortened
from bioquant.shown import without_password
from bioquant.tracking import Store
from bioquant.tracking.calls import RefusedError, asked
from bioquant.validation import check_name

SAME = ("recipe_sha256", "weights")
"""Tags that tell whether a version is what is to be registered."""

UPLOAD_TIMEOUT_S = "3600"
"""How long a server may be silent after it was sent weights: it passes gigabytes on to its own store."""

MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")
ALIAS = re.compile(r"(?!latest$|v\d+$)[A-Za-z0-9_-]{1,255}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A version to be made. label: of the cell it answers as; run_id: that cell's."""

    name: str
    label: str
    card: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A version as it now is. label: of the cell it answers as. is_new: whether this registration made it."""

    name: str
    label: str
    version: str
    aliases: tuple[str, ...]
    is_new: bool

    @property
    def uri(self) -> str:
        """How it is loaded: by its first alias, else by its number."""
        return f"models:/{self.name}@{self.aliases[0]}" if self.aliases else f"models:/{self.name}/{self.version}"


def check(wanted: Wanted) -> None:
    """Names that MLflow refuses are told before anything is made. Raises ConfigError."""
    check_name("registry.registered_model", wanted.name)
    for alias in wanted.aliases:
        if not ALIAS.fullmatch(alias):
            raise ConfigError(
                f"registry.aliases: '{alias}' is not allowed: letters, digits, - and _, and neither latest nor v and a "
                "number, which MLflow keeps for itself."
            )


def same(store: Store, wanted: Wanted) -> ModelVersion | None:
    """The version that the same recipe was registered as, with or without weights as now; the latest of several."""
    conditions = [f"name = '{wanted.name}'", *(f"tags.{tag} = '{wanted.tags[tag]}'" for tag in SAME)]
    found = asked(lambda: store.client.search_model_versions(" and ".join(conditions)))
    return max(found, key=lambda version: int(version.version), default=None)


def refresh(store: Store, wanted: Wanted, version: ModelVersion) -> Registered:
    """The same files; the card, tags and aliases of this evidence."""
    number = str(version.version)
    client = store.client
    for tag, value in wanted.tags.items():
        if version.tags.get(tag) != value:
            asked(lambda tag=tag, value=value: client.set_model_version_tag(wanted.name, number, tag, value))
    for tag in version.tags.keys() - wanted.tags.keys():
        asked(lambda tag=tag: client.delete_model_version_tag(wanted.name, number, tag))
    asked(lambda: client.update_model_version(wanted.name, number, shortened(wanted.card)))
    return _aliased(store, wanted, number, is_new=False)


@contextmanager
def logged_model(store: Store, wanted: Wanted, params: Mapping[str, str]) -> Generator[LoggedModel]:
    """MLflow's logged model of the cell's run, READY once its files are there, else FAILED."""
    client = store.client
    model = asked(
        lambda: client.create_logged_model(
            store.experiment_id,
            name=wanted.name,
            source_run_id=wanted.run_id,
            params=dict(params),
            tags=dict(wanted.tags),
            model_type="endpoint",
        )
    )
    try:
        yield model
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    asked(lambda: client.finalize_logged_model(model.model_id, "READY"))


def upload(store: Store, model: LoggedModel, folder: Path) -> None:
    """The version's files. Raises TrackingError."""
    with _environment("MLFLOW_HTTP_REQUEST_TIMEOUT", UPLOAD_TIMEOUT_S):
        asked(lambda: store.client.log_model_artifacts(model.model_id, str(folder)))


def create(store: Store, wanted: Wanted, model: LoggedModel) -> Registered:
    """The version, under a registered model that is made where it is missing. Raises TrackingError."""
    client = store.client
    _registered_model(store, wanted)
    with _at(store):
        version = asked(
            lambda: client.create_model_version(
                wanted.name,
                source=model.model_uri,
                run_id=wanted.run_id,
                tags=dict(wanted.tags),
                description=shortened(wanted.card),
                model_id=model.model_id,
            )
        )
    return _aliased(store, wanted, str(version.version), is_new=True)


def _at(store: Store) -> AbstractContextManager[None]:
    """Where MLflow resolves `models:/`: whatever client is asked, it looks at the address of its environment."""
    return _environment("MLFLOW_TRACKING_URI", store.uri)


@contextmanager
def _environment(name: str, value: str) -> Generator[None]:
    """What MLflow takes from its environment alone, for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        os.environ.update({} if before is None else {name: before})


def _registered_model(store: Store, wanted: Wanted) -> None:
    task = wanted.tags["task"]
    description = f"Task endpoint for **{task}**. Each version is a recipe whose card says how well it answers."
    try:
        asked(lambda: store.client.create_registered_model(wanted.name, {"task": task}, description))
    except RefusedError as error:
        if cast(MlflowException, error.__cause__).error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _aliased(store: Store, wanted: Wanted, number: str, *, is_new: bool) -> Registered:
    for alias in wanted.aliases:
        asked(lambda alias=alias: store.client.set_registered_model_alias(wanted.name, alias, number))
    return Registered(name=wanted.name, label=wanted.label, version=number, aliases=wanted.aliases, is_new=is_new)


def fetch(store: Store, uri: str) -> tuple[ModelVersion, Path]:
    """A version and its files on this machine, fetched once. uri: `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

    Raises RegistryError for what is not there, TrackingError.
    """
    version = _version(store, uri)
    if "recipe_sha256" not in version.tags:
        raise RegistryError(f"model '{uri}' was not registered by bioquant: it holds no recipe that could be served.")
    kept = cache_dir() / "versions" / _digest(store, version)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if not kept.exists():
            _download(store, version, kept)
    return version, kept


def _digest(store: Store, version: ModelVersion) -> str:
    """Of a version of one registry, made at one time: a number is given again once a model was deleted."""
    made = (without_password(store.uri), version.name, str(version.version), str(version.creation_timestamp))
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:32]


def _download(store: Store, version: ModelVersion, kept: Path) -> None:
    """Beside its place and moved there whole: what was interrupted is not kept."""
    source = f"models:/{version.name}/{version.version}"
    with TemporaryDirectory(dir=kept.parent) as folder, _at(store):
        found = asked(lambda: download_artifacts(source, dst_path=folder, tracking_uri=store.uri))
        if not (Path(found) / "artifacts").is_dir():
            raise RegistryError(
                f"model '{source}' has no files where MLflow looks for them ({version.source}): were they moved or "
                "deleted? Register it again."
            )
        Path(found).rename(kept)


def _version(store: Store, uri: str) -> ModelVersion:
    named = MODEL_URI.fullmatch(uri)
    if named is None:
        raise RegistryError(f"model '{uri}' cannot be read: write models:/NAME@ALIAS or models:/NAME/NUMBER.")
    registered = _known(store, named["name"])
    if named["alias"]:
        if named["alias"] not in registered.aliases:
            listed = ", ".join(sorted(registered.aliases)) or "none"
            near = did_you_mean(named["alias"], registered.aliases)
            raise RegistryError(f"model '{named['name']}' has no alias '{named['alias']}'{near} It has: {listed}.")
        return asked(lambda: store.client.get_model_version_by_alias(named["name"], named["alias"]))
    try:
        return asked(lambda: store.client.get_model_version(named["name"], named["version"]))
    except RefusedError as error:
        raise RegistryError(f"model '{named['name']}' has no version {named['version']}.") from error


def _known(store: Store, name: str) -> RegisteredModel:
    """Raises RegistryError that names the nearest."""
    found = {model.name: model for model in asked(store.client.search_registered_models)}
    if name in found:
        return asked(lambda: store.client.get_registered_model(name))
    listed = ", ".join(sorted(found)[:20]) or "none yet: bioquant register makes one"
    raise RegistryError(
        f"model '{name}' is not registered in '{without_password(store.uri)}'{did_you_mean(name, found)} Registered: "
        f"{listed}."
    )
