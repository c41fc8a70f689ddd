"""What a recommendation chose: the runs to register, the policy they were chosen under, the alias that says so."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import OmegaConf

from bioquant import runs
from bioquant.config import PolicyConfig
from bioquant.endpoints import RegistryChoice
from bioquant.errors import RegistryError, unknown
from bioquant.registry.evidence import find
from bioquant.tracking import Store
from bioquant.tracking.calls import asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """cells: the chosen run's id, by task."""

    policy: PolicyConfig
    alias: str
    cells: Mapping[str, str]


def read(store: Store, run_id: str, choice: RegistryChoice, task: str | None) -> Recommended:
    """The choices of a recommendation run; of one task, where it is named. Raises RegistryError, TrackingError."""
    run = find(store, run_id)
    if run.data.tags.get("bioquant.kind") != "recommendation":
        raise RegistryError(
            f"run {run_id} is no recommendation: bioquant register run={run_id}, or make one with bioquant recommend."
        )
    path = runs.artifact(store, run_id, cast(str, run.info.artifact_uri), "recommendation.json")
    record = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    policy = cast(
        PolicyConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PolicyConfig), record["policy"]))
    )
    if task is not None and task not in (tasks := [one["task"] for one in record["tasks"]]):
        raise RegistryError(unknown("task", task, tasks))
    cells = _of_tasks(record) if choice is RegistryChoice.task else _overall(record, run_id)
    wanted = {name: cell for name, cell in cells.items() if task in (None, name)}
    if not wanted:
        raise RegistryError(
            f"recommendation {run_id} chose nothing{f' for task {task}' if task else ''}: no cell is shown "
            f"to meet policy '{policy.name}', which registering one would say. Its report names what comes nearest."
        )
    return Recommended(policy=policy, alias=alias(policy.name), cells=wanted)


def hint(store: Store) -> str:
    """The latest recommendation, as the command that registers it; or how to make one."""
    found = asked(
        lambda: store.client.search_runs(
            [store.experiment_id],
            "tags.`bioquant.kind` = 'recommendation' and attributes.status = 'FINISHED'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
    )
    if not found:
        return " There is no recommendation yet: bioquant recommend makes one."
    info = found[0].info
    return f" The latest: bioquant register recommendation={info.run_id} ({info.run_name})"


def alias(policy: str) -> str:
    """`recommended` of the default policy, `recommended-24gb` of gpu_24gb, `recommended-my-ward` of my_ward."""
    named = re.sub(r"[^a-z0-9]+", "-", policy.casefold().removeprefix("gpu_")).strip("-")
    return "recommended" if policy == "default" else f"recommended-{named}"


def _of_tasks(record: Mapping[str, Any]) -> dict[str, str]:
    return {one["task"]: one["chosen"]["run"]["run_id"] for one in record["tasks"] if one["chosen"]}


def _overall(record: Mapping[str, Any], run_id: str) -> dict[str, str]:
    """Raises RegistryError where no one model serves all tasks."""
    if record["overall"] is None:
        raise RegistryError(
            f"recommendation {run_id} found no one model for all tasks ({record['why']}): leave out "
            "registry.choice=overall to register each task's own choice."
        )
    return {task: cell["run_id"] for task, cell in record["overall"]["cells"].items()}
