"""`bioquant compare`: each candidate beside its baseline, and the study's claims asked of one's own runs."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from bioquant import tables
from bioquant.compare import Comparison, Refusal
from bioquant.config import PolicyConfig
from bioquant.evidence import plain
from bioquant.shown import visible, without_password
from bioquant.study import HEADINGS, PAPER, QUESTIONS, Finding, findings, texts
from bioquant.verbs import arguments as given
from bioquant.wording import in_points, p_value, verdict_text

LEGEND = """delta: candidate minus baseline, in points (100 points are 1.0), with its paired
  interval; kept: candidate over baseline
p: of no difference; Holm: p adjusted for all rows
lost, gained: examples that only the baseline, only the candidate has right
wt, mem, p50, J: candidate over baseline: weights, peak memory (GPU), median
  latency, energy"""

ONE_TABLE = 130
"""Columns from which a terminal takes what is lost and what is saved side by side; below, they are two tables."""


def main(arguments: Sequence[str]) -> None:
    """Print every comparison; with study= the study's table instead, which is logged too."""
    parser = given.parser("compare", "Each candidate beside its baseline, on the same examples.")
    parser.add_argument(
        "--flips", type=int, default=0, metavar="N", help="show N lost and N gained examples of each pair"
    )
    options = parser.parse_intermixed_args(arguments)
    study = given.take(options, "study", (PAPER, *QUESTIONS))
    gathered = given.gather(options)
    if study:
        _study(study, gathered, as_json=options.json)
    elif options.json:
        compared = gathered.compared
        print(json.dumps(plain({"comparisons": compared.comparisons, "refused": compared.refusals}), indent=2))
    else:
        _show(gathered, num_flips=options.flips)


def _show(gathered: given.Gathered, *, num_flips: int) -> None:
    """One table a task, then what could not be compared."""
    compared, policy = gathered.compared, gathered.policy
    for task in dict.fromkeys(one.candidate.task for one in compared.comparisons):
        for table in _tables(task, [one for one in compared.comparisons if one.candidate.task == task]):
            tables.print_table(table)
            print()
    if compared.comparisons:
        print(LEGEND)
        tables.say(_rule(policy))
    _show_notes(compared.comparisons)
    if num_flips:
        _show_flips(gathered, num_flips)
    _show_refusals(compared.refusals)


def _rule(policy: PolicyConfig) -> str:
    """What the verdicts mean under this policy."""
    if policy.max_quality_loss is None:
        return f"policy {policy.name}: any loss is tolerated"
    tolerated, level = in_points(policy.max_quality_loss), policy.confidence
    return (
        f"verdict (policy {policy.name}): within: shown to lose at most {tolerated} ({level:.0%}); "
        "worse: shown to lose more; undecided: about so many more examples would tell"
    )


def _tables(task: str, comparisons: Sequence[Comparison]) -> Iterator[Table]:
    """What is lost and what is saved: in one table where there is room, else in two for each model and prompt."""
    first = comparisons[0]
    counted = sorted({one.num_examples for one in comparisons})
    examples = " or ".join(str(number) for number in counted)
    title = f"{task} · {first.metric} · {examples} examples"
    pairs: dict[str, list[Comparison]] = {}
    for one in comparisons:
        pairs.setdefault(f"{one.candidate.model} · {one.candidate.prompt}", []).append(one)
    if tables.width() >= ONE_TABLE:
        yield _table(title, pairs, QUALITY + COST, lambda one: (*_quality(one), *_cost(one)))
        return
    for of, alike in pairs.items():
        yield _table(f"{title}\n{of}", {"": alike}, QUALITY, _quality)
        yield _table("", {"": alike}, COST, _cost)


QUALITY = ("quality", "delta [CI]", "kept", "p", "Holm", "lost/\ngained")

COST = ("wt", "mem", "p50", "J", "verdict")

ON_THE_LEFT = ("quality", "delta [CI]", "verdict")


def _table(
    title: str,
    pairs: Mapping[str, Sequence[Comparison]],
    headings: Sequence[str],
    cells: Callable[[Comparison], Sequence[str]],
) -> Table:
    """A line a pair, the first of each model and prompt with their names, where these have a column."""
    table = Table(title=title or None, box=None, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    named = ["model · prompt"] if any(pairs) else []
    for heading in (*named, "quant"):
        table.add_column(heading, no_wrap=True)
    for heading in headings:
        left = heading in ON_THE_LEFT
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "verdict")
    for of, alike in pairs.items():
        for number, one in enumerate(alike):
            name = [of if number == 0 else ""] if named else []
            table.add_row(*name, tables.stacked(one.candidate.recipe), *cells(one))
    return table


def _quality(one: Comparison) -> Sequence[str]:
    return (
        f"{one.baseline_quality:.3f} → {one.candidate_quality:.3f}",
        f"{100 * one.delta:+.1f} [{100 * one.ci_low:+.1f}, {100 * one.ci_high:+.1f}]",
        "-" if one.retention is None else f"{one.retention:.1%}",
        p_value(one.p_value),
        p_value(one.p_holm),
        f"{len(one.lost)}/{len(one.gained)}",
    )


def _cost(one: Comparison) -> Sequence[str]:
    ratios = (one.weights_ratio, one.memory_ratio, one.latency_ratio, one.energy_ratio)
    return (*("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios), verdict_text(one))


def _show_notes(comparisons: Sequence[Comparison]) -> None:
    for note in dict.fromkeys(note for one in comparisons for note in one.notes):
        pairs = [one for one in comparisons if note in one.notes]
        tables.say(f"note, {len(pairs)} of {len(comparisons)} pairs: {note}")


def _show_flips(gathered: given.Gathered, number: int) -> None:
    """The examples that changed sides: what is right, and what each of the two answered."""
    compared = gathered.compared
    for one in compared.comparisons:
        examples = compared.set_of(one.candidate)
        for what, ids in (("lost", one.lost), ("gained", one.gained)):
            for example_id in ids[:number]:
                target, before, after = examples.answers(one.baseline, one.candidate, example_id)
                print(f"\n{what} by {one.candidate.label} on {one.candidate.task}: {example_id}")
                shown = f"  right: {target}\n  {one.baseline.quant}: {before}\n  {one.candidate.quant}: {after}"
                print(visible(shown))


def _show_refusals(refusals: Sequence[Refusal]) -> None:
    if refusals:
        print(f"\nNot compared ({len(refusals)}):")
    for refusal in refusals:
        tables.say(f"  {refusal.run.label} on {refusal.run.task} (run {refusal.run.run_id[:8]}): {refusal.reason}")


def _study(name: str, gathered: given.Gathered, *, as_json: bool) -> None:
    """Print the study's table and log it."""
    from bioquant import runs

    found = findings(name, gathered.compared, gathered.policy)
    rows = [texts(finding) for finding in found]
    as_text = json.dumps(plain(found), indent=2)
    if as_json:
        print(as_text)
    else:
        tables.show(HEADINGS, rows, as_json=False)
    with TemporaryDirectory() as folder:
        (Path(folder) / "study.json").write_text(as_text + "\n", encoding="utf-8")
        markdown = tables.markdown(HEADINGS, rows)
        (Path(folder) / "study.md").write_text(markdown, encoding="utf-8")
        run_id = runs.log_conclusion(
            gathered.store,
            "study",
            f"study {name}",
            Path(folder),
            evidence_ids=_evidence(found),
            params={"study": name, "policy": gathered.policy.name},
            tags={},
            metrics=_metrics(found),
            note=markdown,
        )
    print(f"\nlogged as run {run_id} of {without_password(gathered.store.uri)}", file=sys.stderr)


def _evidence(found: Sequence[Finding]) -> list[str]:
    return sorted({run_id for finding in found for run_id in finding.run_ids})


def _metrics(found: Sequence[Finding]) -> dict[str, float]:
    """The figures under names that MLflow takes."""
    named: dict[str, float] = {}
    for finding in found:
        if finding.value is not None:
            name = "/".join(part for part in (finding.question, finding.subject.replace(" · ", ".")) if part)
            named[f"study/{name}"] = finding.value
    return named
