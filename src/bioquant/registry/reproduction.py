"""The recipe of a logged run: made from its own configuration, and checked to ask what the run asked."""

from typing import Any, cast

import yaml
from pyarrow import parquet

from bioquant import compose, privacy, recipe, run, runs
from bioquant.errors import RegistryError
from bioquant.evidence import LoggedRun
from bioquant.plan import RunPlan
from bioquant.recipe import Recipe
from bioquant.tracking import Store

VERSION_TAG = "version."


def recipe_of(store: Store, logged: LoggedRun, data_root: str | None) -> Recipe:
    """Raises RegistryError where the same examples would now be asked otherwise; DataError where they are not here."""
    path = runs.artifact(store, logged.run_id, logged.artifact_uri, "config.yaml")
    values = cast(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8")))
    values["data"] = {"root": data_root}  # the machine that ran it may have had them elsewhere
    config = compose.from_mapping(values)
    privacy.withhold(config.privacy)
    cell = run.prepare(config, run.read(config))
    _check(store, logged, cell)
    found = {tag.removeprefix(VERSION_TAG): value for tag, value in logged.tags.items() if tag.startswith(VERSION_TAG)}
    return recipe.of_plan(cell, found)


def _check(store: Store, logged: LoggedRun, cell: RunPlan) -> None:
    """Every prompt that was not shortened must be what it was, to the letter."""
    path = runs.artifact(store, logged.run_id, logged.artifact_uri, "predictions.parquet")
    table = parquet.read_table(path, columns=["example_id", "prompt", "truncated"]).to_pylist()
    was = {row["example_id"]: None if row["truncated"] else row["prompt"] for row in table}
    as_kept = str if cell.config.privacy.log_text else privacy.digest
    now = {example.id: as_kept(example.messages[-1].content) for example in cell.examples}
    if was.keys() != now.keys():
        changed = f"its {len(was)} examples are not the {len(now)} that its task gives here"
    elif differ := [name for name, prompt in was.items() if prompt not in (None, now[name])]:
        changed = f"{len(differ)} of {len(was)} prompts would be others (first: example '{differ[0]}')"
    else:
        return
    made_by = logged.tags.get(f"{VERSION_TAG}bioquant", "an earlier version")
    raise RegistryError(
        f"run {logged.run_id} cannot be repeated here: {changed}. The task's files, its wording or bioquant (then "
        f"{made_by}) have changed since: run the cell and its baseline again, or register where they are as they were."
    )
