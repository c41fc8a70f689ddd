"""How an experiment opens in MLflow's UI: with columns, charts and sort in place, and links to more than one view.

A view that is shared in the UI is a tag of the experiment, `mlflow.sharedViewState.KEY`, and opens at
`?viewStateShareKey=KEY`. The tag holds what the UI itself writes there (MLflow 3.17, `ExperimentPageUIState`), and
names the view in the UI's own list. Pure.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

SHARED = "mlflow.sharedViewState."

NOTE = "mlflow.note.content"

FIRST_MADE_MS = 1_795_564_800_000
"""When these views were made, which the UI's list wants to know: 2026-11-25, in ms since the epoch."""

SHOWN_RUNS = 100
"""Runs in a chart: as many as the UI fetches at once."""

PARTS = ("model", "quant", "prompt", "task")

FIGURES = ("quality", "invalid_rate", "memory/weights_mib", "memory/peak_allocated_mib", "latency/example_ms_p50")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One way to look at an experiment. order_by: a column. metrics: those with a column of their own."""

    key: str
    name: str
    search: str
    order_by: str
    ascending: bool
    params: Sequence[str]
    metrics: Sequence[str]
    tags: Sequence[str] = ()


CELLS = View(
    key="bioquant-cells",
    name="bioquant: cells, by task",
    search="tags.`bioquant.kind` = 'cell'",
    order_by="params.`task`",
    ascending=True,
    params=PARTS,
    metrics=(*FIGURES, "throughput/examples_per_s"),
)
"""A task's cells one below the other, the baseline among its candidates."""

SWEEPS = View(
    key="bioquant-sweeps",
    name="bioquant: sweeps with their cells",
    search="",  # the UI nests runs only where nothing is searched for and the latest come first
    order_by="attributes.start_time",
    ascending=False,
    params=PARTS,
    metrics=FIGURES,
)

CONCLUSIONS = View(
    key="bioquant-conclusions",
    name="bioquant: recommendations and studies",
    search="tags.`bioquant.kind` != 'cell' and tags.`bioquant.kind` != 'sweep'",
    order_by="attributes.start_time",
    ascending=False,
    params=("policy", "study"),
    metrics=("quality",),
    tags=("chosen", "machine"),
)

VIEWS = (CELLS, SWEEPS, CONCLUSIONS)

BARS = ("quality", "memory/peak_allocated_mib", "latency/example_ms_p50", "throughput/examples_per_s")

AGAINST_QUALITY = ("memory/weights_mib", "latency/example_ms_p50")

ALWAYS = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
"""The columns that the UI always shows: a run's name, its creation, its duration."""

NAME_WIDTH_PX, WIDTH_PX = 320, 100
"""Of a run's name, and of any other column."""

OURS = "Quality and what it costs"
"""The section of charts that is open."""

FOLDED = ("memory", "latency", "throughput", "load", "batch", "trivial", "Model metrics", "System metrics")
"""The sections of charts, one a metric, that the UI makes by itself; they open with a click."""


def tags(experiment_id: str) -> dict[str, str]:
    """What an experiment's tags have to be for it to open so, by name."""
    shared = {SHARED + view.key: _shared(view) for view in VIEWS}
    return {**shared, NOTE: _description(experiment_id)}


def path(experiment_id: str, view: View = CELLS, *, charts: bool = False) -> str:
    """Where the view is on an MLflow server, below its address."""
    shown_as = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view.key}{shown_as}"


def cells_of(experiment_id: str, sweep_id: str) -> str:
    """Where the cells of one sweep are, on the page of the experiment. Sorted by time the UI would fold them up."""
    search = quote(f"tags.sweep_id = '{sweep_id}' and tags.`bioquant.kind` = 'cell'")
    return (
        f"#/experiments/{experiment_id}/runs?searchFilter={search}&orderByKey={quote(CELLS.order_by)}&orderByAsc=true"
    )


def _description(experiment_id: str) -> str:
    """The links come first: the UI shows one line of it until somebody unfolds the rest."""
    at = {view.key: path(experiment_id, view) for view in VIEWS}
    return (
        f"**Open:** [cells, task by task]({at[CELLS.key]}) · "
        f"[the same as charts]({path(experiment_id, charts=True)}) · "
        f"[sweeps with their cells]({at[SWEEPS.key]}) · "
        f"[recommendations and studies]({at[CONCLUSIONS.key]})\n\n"
        "A run is one **cell**: a model at a precision, on a task, with a prompting method. The cells of a sweep hang "
        "under it, and what was concluded from them is a run too. Paired comparisons are made by `bioquant compare`, a "
        "choice under a policy by `bioquant recommend`."
    )


def _shared(view: View) -> str:
    """The tag's value."""
    chosen = {"params": view.params, "metrics": view.metrics, "tags": view.tags}
    columns = [f"{kind}.`{name}`" for kind, names in chosen.items() for name in names]
    state = {
        "searchFilter": view.search,
        "orderByKey": view.order_by,
        "orderByAsc": view.ascending,
        "selectedColumns": columns,
        "columnOrder": [*ALWAYS, *columns],
        "columnWidths": {ALWAYS[0]: NAME_WIDTH_PX} | dict.fromkeys(columns, WIDTH_PX),
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": _sections(),
        "compareRunCharts": _charts(),
    }
    made = {"name": view.name, "createdAt": FIRST_MADE_MS, "updatedAt": FIRST_MADE_MS, "state": _json(state)}
    return _json(made)


def _sections() -> list[dict[str, object]]:
    """Ours first and open, the UI's own folded."""
    return [
        {"uuid": name, "name": name, "display": name == OURS, "isReordered": name == OURS} for name in (OURS, *FOLDED)
    ]


def _charts() -> list[dict[str, object]]:
    """Quality against each cost, then each by itself."""
    parallel = {"selectedParams": PARTS[:3], "selectedMetrics": ("quality", *AGAINST_QUALITY), "showAllRuns": False}
    return [
        *(
            _chart("SCATTER", f"quality against {name}", xaxis=_axis(name), yaxis=_axis("quality"))
            for name in AGAINST_QUALITY
        ),
        *(_chart("BAR", name, metricKey=name) for name in BARS),
        _chart("PARALLEL", "model, quant and prompt to quality and cost", **parallel),
    ]


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _chart(kind: str, name: str, **settings: object) -> dict[str, object]:
    return {
        "uuid": f"{kind} {name}",
        "type": kind,
        "displayName": name,
        "metricSectionId": OURS,
        "runsCountToCompare": SHOWN_RUNS,
        "isGenerated": False,
        "deleted": False,
        **settings,
    }


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
