"""Recommendation → report: one HTML file that needs no network, the same in Markdown, and the record as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from bioquant.compare import Compared
from bioquant.evidence import plain
from bioquant.recommend import Recommendation
from bioquant.report import appendix, page, plots
from bioquant.shown import markdown_cell
from bioquant.study import HEADINGS, PAPER, findings, texts as study_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a report shows beside the recommendation: the texts of flips, where one run was made, its own command."""

    texts: page.Texts
    environment: Mapping[str, str]
    command: str


def write(folder: Path, recommendation: Recommendation, compared: Compared, sources: Sources) -> None:
    """`report.html`, `report.md` and `recommendation.json` in the folder. The same input gives the same bytes."""
    context = _context(recommendation, compared, sources)
    for name, escaped in (("report.html", True), ("report.md", False)):
        (folder / name).write_text(_render(name, context, escaped=escaped), encoding="utf-8")
    record = json.dumps(plain(recommendation), indent=2, ensure_ascii=False)
    (folder / "recommendation.json").write_text(record + "\n", encoding="utf-8")


def _render(name: str, context: Mapping[str, object], *, escaped: bool) -> str:
    """A template of this package, filled in. HTML escapes every value; Markdown what would break out of a table."""
    environment = Environment(autoescape=escaped, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    template = (files("bioquant.report") / f"{name}.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


def _cell(text: str) -> str:
    """Text for a Markdown table or line."""
    return markdown_cell(" ".join(text.split()))


def _context(recommendation: Recommendation, compared: Compared, sources: Sources) -> dict[str, object]:
    """Everything the templates show."""
    policy = recommendation.policy
    runs = [run for choice in recommendation.tasks for run in choice.examples.runs]
    study = findings(PAPER, compared, policy)
    tasks = [
        {
            "choice": choice,
            "plots": plots.pareto(choice, place),
            "table": page.candidates_table(choice),
            "flips": page.flips(choice, compared, sources.texts),
        }
        for place, choice in enumerate(recommendation.tasks)
    ]
    return {
        "recommendation": recommendation,
        "policy": policy,
        "num_runs": len(runs),
        "on_gpu": any(run.on_gpu for run in runs),
        "summary": page.summary(recommendation),
        "policy_table": page.policy_table(policy),
        "deployments": page.deployments_table(recommendation),
        "tasks": tasks,
        "sizes": plots.sizes(recommendation, compared, policy.confidence),
        "heat": appendix.heat_map(compared.comparisons),
        "study": page.Table(headings=HEADINGS, rows=tuple(study_texts(one) for one in study), wide=(1, 6)),
        "changes": plots.changes(study, policy.max_quality_loss),
        "comparisons": appendix.comparisons_table(compared.comparisons),
        "footprint": appendix.footprint_table(runs),
        "environment": appendix.environment_table(sources.environment, runs),
        "data": appendix.data_table(recommendation),
        "runs": appendix.runs_table(recommendation),
        "command": sources.command,
    }
