"""Fixtures every test file shares."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)

REPOSITORY = Path(__file__).parents[1]

pytest_plugins = ["vllm_parts"]

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real benchmark files."""
    root = Path(os.environ.get("BIOQUANT_DATA") or REPOSITORY.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no benchmark files at {root}: set BIOQUANT_DATA to the folder that holds them")
    return root


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables and no experiment of ours, to be copied: making the tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("fresh") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def bioquant(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The installed command, in a project folder of its own: `bioquant("run", "limit=4")`."""
    project = tmp_path_factory.mktemp("project")

    def command(*arguments: str, root: Path = project, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("bioquant"), *arguments],
            cwd=root,
            env={**os.environ, "BIOQUANT_ROOT": str(root), "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=600,
            check=False,
        )

    return command
