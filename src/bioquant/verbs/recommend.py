"""`bioquant recommend`: which model to run under a policy, why, and a report to show for it."""

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bioquant import places, shown
from bioquant.evidence import plain
from bioquant.recommend import Recommendation, recommend
from bioquant.verbs import arguments as given


def main(arguments: Sequence[str]) -> None:
    """Print the recommendation, write its report, and log both as a run."""
    parser = given.parser("recommend", "Which model to run under a policy, and why not the others.")
    parser.add_argument("--no-texts", action="store_true", help="leave prompts and answers out of the report")
    parser.add_argument("--output", type=Path, help="the report's folder; by default one of its own in multirun/")
    options = parser.parse_intermixed_args(arguments)
    command = _command(arguments)
    gathered = given.gather(options)
    found = recommend(gathered.compared, gathered.policy)
    from bioquant.report import page

    if options.json:
        print(json.dumps(plain(found), indent=2))
    else:
        _show(found, page.summary(found))
    folder = options.output or places.project_root() / "multirun" / f"recommend_{datetime.now():%Y%m%d-%H%M%S-%f}"
    run_id = _report(folder, found, gathered, command, with_texts=not options.no_texts)
    print(
        f"\nreport: {folder / 'report.html'}\nlogged as run {run_id} of {shown.without_password(gathered.store.uri)}",
        file=sys.stderr,
    )


def _command(arguments: Sequence[str]) -> str:
    """The command again, without what belongs to this machine or may hold a password."""
    kept = list(arguments)
    for option in ("--uri", "--output"):
        if option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return shlex.join(["bioquant", "recommend", *(one for one in kept if not one.startswith(("--uri=", "--output=")))])


def _show(found: Recommendation, summary: Sequence[object]) -> None:
    """The answer in sentences, with what must be known before acting on it and what to measure next."""
    print(f"Policy {found.policy.name}, {len(found.run_ids)} runs, {found.machine}\n")
    print("\n".join(f"- {sentence}" for sentence in summary))
    cautions = [f"{choice.task}: {caution}" for choice in found.tasks for caution in choice.cautions]
    if cautions:
        print("\nCautions:\n" + "\n".join(f"- {caution}" for caution in cautions))
    steps = [step for choice in found.tasks for step in choice.next_steps]
    if steps:
        print("\nWhat to measure next:\n" + "\n".join(f"  {step}" for step in dict.fromkeys(steps)))
    if found.left_out:
        print(f"\nLeft out ({len(found.left_out)}):\n" + "\n".join(f"- {reason}" for reason in found.left_out))


def _report(folder: Path, found: Recommendation, gathered: given.Gathered, command: str, *, with_texts: bool) -> str:
    """Write the report and log it; returns the run's id."""
    from bioquant import report, runs

    store, compared = gathered.store, gathered.compared
    folder.mkdir(parents=True, exist_ok=True)
    first = found.tasks[0].examples.runs[0]
    texts = {}
    for choice in found.tasks if with_texts else ():
        comparison = report.page.flipped(choice)
        if comparison is not None and not comparison.candidate.holds_no_text:
            run = comparison.candidate
            texts[run.run_id] = runs.texts(store, run, [*comparison.lost, *comparison.gained])
    environment = runs.read_environment(store, first.run_id, first.artifact_uri)
    report.write(folder, found, compared, report.Sources(texts=texts, environment=environment, command=command))
    return runs.log_conclusion(
        store,
        "recommendation",
        f"recommendation · {found.policy.name}",
        folder,
        evidence_ids=found.run_ids,
        params=_params(found),
        tags=_tags(found),
        metrics=_metrics(found),
        note="\n".join(f"- {shown.markdown(str(sentence))}" for sentence in report.page.summary(found)),
    )


def _params(found: Recommendation) -> dict[str, str]:
    """What was asked for."""
    policy = found.policy
    budgets = ("gpu_memory_gib", "latency_p95_ms", "joules_per_example", "max_quality_loss", "confidence")
    return {"policy": policy.name} | {f"policy.{name}": str(getattr(policy, name)) for name in budgets}


def _tags(found: Recommendation) -> dict[str, str]:
    """What was chosen, as run ids that a registration can take up."""
    chosen = {f"chosen.{choice.task}": choice.chosen.run.run_id for choice in found.tasks if choice.chosen}
    overall = {"chosen": f"{found.overall.model} {found.overall.quant}"} if found.overall else {}
    return {**chosen, **overall, "machine": found.machine}


def _metrics(found: Recommendation) -> dict[str, float]:
    """The chosen cells' quality, by task."""
    named = {f"quality/{choice.task}": choice.chosen.quality for choice in found.tasks if choice.chosen}
    if found.overall and found.overall.quality is not None:
        named["quality"] = found.overall.quality
    return named
