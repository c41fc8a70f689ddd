"""Where files are: the project's folder, its tracking store, the caches. No I/O beyond looking."""

import os
from pathlib import Path

import platformdirs


def project_root() -> Path:
    """$BIOQUANT_ROOT, else the nearest folder at or above the current one that holds `multirun/`, else the current one.

    Runs and the default tracking store are kept here, so that a command given in a sub-folder adds to the same store.
    """
    named = os.environ.get("BIOQUANT_ROOT")
    if named:
        return Path(named).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "multirun").is_dir()), here)


def conf_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside `src/` in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def cache_dir() -> Path:
    """$BIOQUANT_CACHE, else the user's cache folder: converted checkpoints."""
    return Path(os.environ.get("BIOQUANT_CACHE") or platformdirs.user_cache_dir("bioquant"))


def data_root(configured: str | None) -> Path | None:
    """The folder of benchmark files: `data.root`, else $BIOQUANT_DATA, else none."""
    named = configured or os.environ.get("BIOQUANT_DATA")
    return Path(named).expanduser().resolve() if named else None


def tracking_uri(configured: str | None) -> str:
    """`tracking.uri`, else $MLFLOW_TRACKING_URI, else one SQLite file for the project.

    A relative SQLite path is taken from the project's folder: each folder a command is given in would otherwise grow a
    store of its own.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db"
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return prefix + str(project_root() / uri.removeprefix(prefix))
    return uri


def spool_root() -> Path:
    """What is logged while the tracking server is away, and what waits to be delivered."""
    return project_root() / "multirun" / ".spool"
