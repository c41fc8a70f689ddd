"""What tests of the registry and of serving share: real cells of a tiny model in a project folder of their own."""

from pathlib import Path

import pandas as pd
import pytest

from bioquant import datasets, prompts, run, runs, tracking
from bioquant.config import PolicyConfig, RunConfig, TrackingConfig
from bioquant.records import Row
from bioquant.tracking import Store
from test_compose import composed

TINY = ("model=tiny_random", "engine.max_new_tokens=8", "limit=5", "engine.batch=2")
UNMEASURED = ("measure.latency_examples=0", "measure.bootstrap_resamples=100")
ANY_LOSS = PolicyConfig(name="any", max_quality_loss=None)


def cell(root: Path, *overrides: str) -> str:
    """A finished cell in the project's own store; returns its run id. $BIOQUANT_ROOT is the root."""
    folder = root / "multirun" / "_".join(overrides).replace("/", "_")
    run.run_single(composed(*TINY, *UNMEASURED, *overrides), folder)
    run_id = tracking.run_of(folder)
    assert run_id is not None
    return run_id


def opened(root: Path) -> Store:
    return runs.open_existing(TrackingConfig(name="t", uri=f"sqlite:///{root}/mlruns/mlflow.db"))


def rows_of(config: RunConfig) -> list[Row]:
    """The rows that a cell of this configuration answers."""
    return list(datasets.sample(run.read(config).test, config.limit, config.seed))


def asked(row: Row) -> dict[str, object]:
    """A row as a client sends it."""
    return {**row.inputs, **({"options": list(row.options)} if row.options else {})}


def frame(config: RunConfig) -> pd.DataFrame:
    return pd.DataFrame([asked(row) for row in rows_of(config)])


def predictions(store: Store, run_id: str) -> pd.DataFrame:
    uri = store.client.get_run(run_id).info.artifact_uri
    assert uri is not None
    return pd.read_parquet(runs.artifact(store, run_id, uri, "predictions.parquet"))


def project(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """A folder that the rest of a test module's commands take for the project's."""
    root = tmp_path_factory.mktemp("project")
    patch.setenv("BIOQUANT_ROOT", str(root))
    patch.setenv("BIOQUANT_CACHE", str(root / "cache"))
    return root


def pool_of(config: RunConfig) -> tuple[Row, ...]:
    dataset = run.read(config)
    return prompts.clean_pool(dataset.test, dataset.pool)
