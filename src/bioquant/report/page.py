"""What a report says, as sentences and tables of text; how it looks is the templates' matter. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from bioquant.compare import Compared, Comparison
from bioquant.config import PolicyConfig
from bioquant.recommend import Candidate, Deployment, Recommendation, TaskChoice
from bioquant.shown import visible
from bioquant.wording import bounds, gib, in_points, points, seconds

NUM_FLIPS = 3
"""Of each task, shown with their texts: some that were lost and as many that were gained."""

EXCERPT = 700
"""Characters of a prompt: its end holds the question, after what all prompts share."""

Texts = Mapping[str, Mapping[str, tuple[str, str]]]
"""By run id and example id: the prompt and the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text. wide: the columns that hold prose; the others are kept on one line."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An example that only one of two cells has right. What is to be left out is empty: texts, or answers too."""

    example_id: str
    direction: str
    target: str
    before: str
    after: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """The flips of one comparison: how many, and some of them."""

    between: str
    counts: str
    shown: tuple[Flip, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """One field of the retention heat map; band: from -2 (lost most) to 1 (gained), for its colour."""

    text: str
    band: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One answer, and why; without a choice the answer says why itself."""

    answer: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.answer} Why: {self.why}." if self.why else self.answer


def summary(recommendation: Recommendation) -> tuple[Sentence, ...]:
    """The recommendation in plain words, the whole first and then each task."""
    return (_overall(recommendation), *(_task(choice) for choice in recommendation.tasks))


def _overall(recommendation: Recommendation) -> Sentence:
    found = recommendation.overall
    tasks = "the one task" if len(recommendation.tasks) == 1 else f"all {len(recommendation.tasks)} tasks together"
    if found is None:
        return Sentence(answer=f"For {tasks}: {recommendation.why}.")
    quality = bounds(found.quality or 0.0, found.ci_low or 0.0, found.ci_high or 0.0)
    cost = _cost(found.memory_mib, found.latency_ms)
    return Sentence(answer=f"For {tasks}, run {found.label}: mean quality {quality}, {cost}.", why=recommendation.why)


def _cost(memory_mib: float | None, latency_ms: float | None) -> str:
    latency = f", {seconds(latency_ms)} an example (median, one at a time)" if latency_ms is not None else ""
    return f"{gib(memory_mib)} of memory{latency}"


def _task(choice: TaskChoice) -> Sentence:
    chosen = choice.chosen
    if chosen is None:
        return Sentence(answer=f"{choice.task}: {choice.why}.")
    quality = bounds(chosen.quality, chosen.ci_low, chosen.ci_high)
    cost = _cost(chosen.run.memory_mib, chosen.run.latency_ms)
    return Sentence(answer=f"{choice.task}: {chosen.name}, {choice.metric} {quality}, {cost}.", why=choice.why)


def policy_table(policy: PolicyConfig) -> Table:
    """What was asked for."""
    any_ = "no limit"
    rows = (
        ("GPU memory", any_ if policy.gpu_memory_gib is None else f"at most {policy.gpu_memory_gib:g} GiB"),
        ("p95 latency", any_ if policy.latency_p95_ms is None else f"at most {policy.latency_p95_ms:g} ms an example"),
        (
            "energy",
            any_ if policy.joules_per_example is None else f"at most {policy.joules_per_example:g} J an example",
        ),
        ("quality against full precision", _tolerated(policy)),
        ("confidence of all intervals", f"{policy.confidence:.0%}"),
        ("tasks", ", ".join(f"{task} (weight {weight:g})" for task, weight in policy.tasks.items()) or "all alike"),
        ("licences", ", ".join(policy.licences) or "any"),
    )
    return Table(headings=("requirement", "policy"), rows=rows, wide=(1,))


def _tolerated(policy: PolicyConfig) -> str:
    if policy.max_quality_loss is None:
        return "any loss"
    return f"a loss of at most {in_points(policy.max_quality_loss)} of the headline metric"


def state(candidate: Candidate, chosen: Candidate | None) -> str:
    """Where a cell stands."""
    if candidate is chosen:
        return "chosen"
    if candidate.unmet:
        return "rejected"
    return "undecided" if candidate.unknown else "acceptable"


def candidates_table(choice: TaskChoice) -> Table:
    """Every cell of a task with its figures and the reason for where it stands."""
    change = "against full precision"
    headings = ("#", "cell", "", f"{choice.metric}", change, "memory", "p50", "p95", "beaten by", "reason")
    places = {one.name: f"{place}" for place, one in enumerate(choice.candidates, start=1)}
    rows = tuple(_candidate_row(one, places, choice) for one in choice.candidates)
    return Table(headings=headings, rows=rows, wide=(1, 9))


def _candidate_row(one: Candidate, places: Mapping[str, str], choice: TaskChoice) -> tuple[str, ...]:
    compared = one.comparison
    change = "itself" if one.run.is_baseline else "-"
    if compared is not None:
        change = points(compared.delta, compared.ci_low, compared.ci_high)
    reasons = [shortfall.text for shortfall in (*one.unmet, *one.unknown)] or [one.why_not or choice.why]
    return (
        places[one.name],
        one.name,
        state(one, choice.chosen),
        bounds(one.quality, one.ci_low, one.ci_high),
        change,
        gib(one.run.memory_mib),
        seconds(one.run.latency_ms),
        seconds(one.run.metrics.get("latency/example_ms_p95")),
        f"#{places[one.beaten_by]}" if one.beaten_by else "-",
        "; ".join(reasons),
    )


def deployments_table(recommendation: Recommendation) -> Table:
    """One model at one precision for all tasks: each that there is."""
    headings = ("#", "model · quant", "", "mean quality", "memory", "p50", "prompts", "reason")
    rows = tuple(
        _deployment_row(place, one, recommendation) for place, one in enumerate(recommendation.deployments, start=1)
    )
    return Table(headings=headings, rows=rows, wide=(6, 7))


def _deployment_row(place: int, one: Deployment, recommendation: Recommendation) -> tuple[str, ...]:
    missing = _by_text(one.missing)
    chosen = one is recommendation.overall
    quality = "-" if one.quality is None else bounds(one.quality, one.ci_low or 0.0, one.ci_high or 0.0)
    return (
        str(place),
        one.label,
        "chosen" if chosen else "not for all tasks" if one.missing else "acceptable",
        quality,
        gib(one.memory_mib),
        seconds(one.latency_ms),
        _by_text({task: run.prompt for task, run in one.cells.items()}),
        missing or one.why_not or recommendation.why,
    )


def _by_text(by_task: Mapping[str, str]) -> str:
    """`hoc, pubmedqa: five_shot; chemprot: cot`: tasks of which the same is said are named together."""
    tasks: dict[str, list[str]] = {}
    for task, text in by_task.items():
        tasks.setdefault(text, []).append(task)
    return "; ".join(f"{', '.join(named)}: {text}" for text, named in tasks.items())


def flipped(choice: TaskChoice) -> Comparison | None:
    """Whose flips are shown: the chosen cell's; where that has no baseline, the first candidate's that has one."""
    shown = [one for one in (choice.chosen, choice.nearest, *choice.candidates) if one is not None]
    return next((one.comparison for one in shown if one.comparison is not None), None)


def flips(choice: TaskChoice, compared: Compared, texts: Texts) -> Flips | None:
    """Some examples that the shown comparison's two cells do not agree on; only their ids without `texts`."""
    comparison = flipped(choice)
    if comparison is None:
        return None
    found = [
        _flip(comparison, compared, texts, example_id, direction)
        for direction, ids in (("lost", comparison.lost), ("gained", comparison.gained))
        for example_id in ids[:NUM_FLIPS]
    ]
    return Flips(
        between=f"{comparison.candidate.label} against {comparison.baseline.quant}",
        counts=f"{len(comparison.lost)} lost, {len(comparison.gained)} gained of {comparison.num_examples} examples",
        shown=tuple(found),
    )


def _flip(comparison: Comparison, compared: Compared, texts: Texts, example_id: str, direction: str) -> Flip:
    examples = compared.set_of(comparison.candidate)
    target, before, after = examples.answers(comparison.baseline, comparison.candidate, example_id)
    run = comparison.candidate
    if run.run_id not in texts and not run.holds_no_text:
        return Flip(example_id=example_id, direction=direction, target="", before="", after="", prompt="")
    prompt, _ = texts[run.run_id][example_id] if run.run_id in texts else ("", "")
    excerpt = prompt if len(prompt) <= EXCERPT else "… " + prompt[-EXCERPT:]
    return Flip(
        example_id=example_id,
        direction=direction,
        target=visible(target),
        before=visible(before),
        after=visible(after),
        prompt=visible(excerpt),
    )
