"""The study's six claims, asked of one's own runs: claim, figure, interval, and whether it holds. Pure.

The claims are those of the abstract of arXiv:2509.04534 and what follows from them. Pooled figures weigh every task's
examples alike, whatever their number; all intervals are of the same resamples that the comparisons rest on.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from bioquant.compare import Compared, Comparison
from bioquant.config import PolicyConfig
from bioquant.evidence import ExampleSet, LoggedRun
from bioquant.statistics import FloatArray, Verdict, paired_interval, verdict

MEMORY_CUT = 0.75
LARGE = 65_000_000_000
"""Parameters from which a model counts as one of "70B"."""

LARGE_BUDGET_GIB = 40.0
TOLERATED = 0.01
"""The loss up to which something is kept, where the policy names none."""

EQUAL_MEMORY = 1.25
"""Two models need equal memory if neither needs more than this times the other's."""

LARGER = 1.2
"""A model is larger than another from this many times its parameters."""


class Outcome(StrEnum):
    """What one's own runs say of a claim."""

    holds = "holds"
    fails = "fails"
    undecided = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim about `subject`, and the figure for it with its interval; None where no run says anything.

    unit: of value, low and high: "share", "points" (0 to 1, of the tasks' headline metrics) or "GiB".
    basis: what the figure is of, or what is missing. run_ids: the evidence.
    """

    question: str
    claim: str
    subject: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    outcome: Outcome
    basis: str
    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """A difference between cells over the same examples: as observed, and in each resample.

    before: what the baselines differ by, where the difference is one of differences.
    """

    examples: ExampleSet
    observed: float
    resampled: FloatArray
    num_changed: int
    run_ids: tuple[str, ...]
    before: float | None = None


Question = Callable[[Compared, PolicyConfig], list[Finding]]


def findings(study: str, compared: Compared, policy: PolicyConfig) -> list[Finding]:
    """The answers to one question, or for "paper" to all of them."""
    asked = QUESTIONS.values() if study == PAPER else [QUESTIONS[study]]
    return [finding for question in asked for finding in question(compared, policy)]


HEADINGS = ("question", "claim", "of", "our figure", "interval", "outcome", "rests on")
"""Of the study's table; `texts` gives a row."""


def texts(finding: Finding) -> tuple[str, ...]:
    """A finding as it is shown."""
    figure = "-" if finding.value is None else _shown(finding.value, finding.unit)
    bounds = "-"
    if finding.low is not None and finding.high is not None:
        low, high = (_shown(bound, finding.unit) for bound in (finding.low, finding.high))
        bounds = f"{low.removesuffix(' points')} to {high}"
    return finding.question, finding.claim, finding.subject, figure, bounds, str(finding.outcome), finding.basis


def _shown(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.1%}"
    return f"{100 * value:+.1f} points" if unit == "points" else f"{value:.1f} {unit}"


def memory(compared: Compared, policy: PolicyConfig) -> list[Finding]:  # noqa: ARG001
    """(a) The largest cut of peak GPU memory among the models and quants; the interval spans its cells."""
    on_gpu = [one for one in compared.comparisons if one.candidate.on_gpu and one.memory_ratio is not None]
    cuts = _by_model_and_quant((one, one.memory_ratio) for one in on_gpu)
    of = "peak GPU memory"
    if not cuts:
        of = "weights alone: no pair was measured on one GPU"
        cuts = _by_model_and_quant((one, one.weights_ratio) for one in compared.comparisons)
    claim = f"quantization cuts GPU memory by up to {MEMORY_CUT:.0%}"
    if not cuts:
        return [_open("memory", claim, "share", "no candidate has a baseline")]
    (model, quant), found = max(cuts.items(), key=lambda item: (np.mean([cut for _, cut in item[1]]), item[0]))
    values = [cut for _, cut in found]
    low, high = min(values), max(values)
    outcome = Outcome.holds if low >= MEMORY_CUT else Outcome.fails if high < MEMORY_CUT else Outcome.undecided
    return [
        Finding(
            question="memory",
            claim=claim,
            subject=f"{model} · {quant}",
            value=float(np.mean(values)),
            low=low,
            high=high,
            unit="share",
            outcome=outcome if on_gpu else Outcome.undecided,
            basis=f"{of}; the range of {len(values)} pairs",
            run_ids=_ids(one for one, _ in found),
        )
    ]


def _by_model_and_quant(
    ratios: Iterable[tuple[Comparison, float | None]],
) -> dict[tuple[str, str], list[tuple[Comparison, float]]]:
    """The cuts, 1 - ratio, of each model and quant."""
    cuts: dict[tuple[str, str], list[tuple[Comparison, float]]] = defaultdict(list)
    for comparison, ratio in ratios:
        if ratio is not None:
            cuts[comparison.candidate.model, comparison.candidate.recipe].append((comparison, 1 - ratio))
    return cuts


def quality(compared: Compared, policy: PolicyConfig) -> list[Finding]:
    """(b) For each quant, the mean change of the headline metric over the tasks."""
    claim = "quality is kept across tasks"
    by_quant: dict[str, list[_Change]] = defaultdict(list)
    for one in compared.comparisons:
        by_quant[one.candidate.recipe].append(_difference(compared, one.candidate, one.baseline, one.num_changed))
    if not by_quant:
        return [_open("quality", claim, "points", "no candidate has a baseline")]
    return [_pooled("quality", claim, quant, changes, policy) for quant, changes in sorted(by_quant.items())]


def budget(compared: Compared, policy: PolicyConfig) -> list[Finding]:
    """(c) The least peak memory that a model of 70B parameters was measured with."""
    limit = policy.gpu_memory_gib or LARGE_BUDGET_GIB
    claim = f"70B models run within {limit:g} GiB"
    peaks: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for run in _runs(compared):
        if run.on_gpu and run.peak_mib is not None and (run.facts.num_parameters or 0) >= LARGE:
            peaks[f"{run.model} · {run.recipe}"].append((run.peak_mib / 1024, run.run_id))
    if not peaks:
        return [
            _open("budget", claim, "GiB", "no finished cell on a GPU of a model with 65 billion parameters or more")
        ]
    subject, found = min(peaks.items(), key=lambda item: (max(item[1])[0], item[0]))
    values = [peak for peak, _ in found]
    outcome = Outcome.holds if max(values) <= limit else Outcome.fails if min(values) > limit else Outcome.undecided
    return [
        Finding(
            question="budget",
            claim=claim,
            subject=subject,
            value=max(values),
            low=min(values),
            high=max(values),
            unit="GiB",
            outcome=outcome,
            basis=f"peak memory, the largest and the range of {len(values)} cells",
            run_ids=tuple(sorted(run_id for _, run_id in found)),
        )
    ]


def domain(compared: Compared, policy: PolicyConfig) -> list[Finding]:
    """(d) For each quant, how a biomedical model's advantage over its general counterpart changes."""
    claim = "the advantage of biomedical models is kept"
    by_model = {(_where(compared, one), one.candidate.prompt, one.candidate.model): one for one in compared.comparisons}
    by_quant: dict[str, list[_Change]] = defaultdict(list)
    for (where, prompt, _), one in by_model.items():
        other = by_model.get((where, prompt, one.candidate.facts.general_counterpart or ""))
        if one.candidate.facts.domain == "biomedical" and other is not None:
            by_quant[one.candidate.recipe].append(_change_of_gain(compared, one, other))
    if not by_quant:
        missing = "no biomedical model and its general counterpart ran with the same quant, prompt and examples"
        return [_open("domain", claim, "points", missing)]
    return [_pooled("domain", claim, quant, changes, policy) for quant, changes in sorted(by_quant.items())]


def prompting(compared: Compared, policy: PolicyConfig) -> list[Finding]:
    """(e) For each quant and prompting method, how its gain over the zero-shot prompt changes."""
    claim = "what prompting methods gain is kept"
    plain = {
        (_where(compared, one), one.candidate.model): one for one in compared.comparisons if _is_plain(one.candidate)
    }
    by_method: dict[tuple[str, str], list[_Change]] = defaultdict(list)
    for one in compared.comparisons:
        zero = plain.get((_where(compared, one), one.candidate.model))
        if zero is not None and not _is_plain(one.candidate):
            by_method[one.candidate.recipe, one.candidate.prompt].append(_change_of_gain(compared, one, zero))
    if not by_method:
        missing = "no model and quant ran with a zero-shot prompt and another one on the same examples"
        return [_open("prompting", claim, "points", missing)]
    return [
        _pooled("prompting", claim, f"{quant} · {prompt}", changes, policy)
        for (quant, prompt), changes in sorted(by_method.items())
    ]


def _is_plain(run: LoggedRun) -> bool:
    """Whether the prompt is the zero-shot one."""
    asked = (run.params["prompt.num_shots"], run.params["prompt.chain_of_thought"], run.params["prompt.num_samples"])
    return asked == ("0", "False", "1")


def _where(compared: Compared, one: Comparison) -> tuple[str, str, str]:
    """What two comparisons must have in common beside model or prompt."""
    return compared.set_of(one.candidate).digest, one.candidate.recipe, one.candidate.params["seed"]


def size(compared: Compared, policy: PolicyConfig) -> list[Finding]:
    """(f) What larger quantized models score above smaller full ones that need as much memory."""
    claim = "at equal memory, a larger quantized model beats a smaller full one"
    changes: list[_Change] = []
    for examples in compared.sets:
        full = [run for run in examples.runs if run.is_baseline]
        quantized = [run for run in examples.runs if not run.is_baseline]
        pairs = [(large, small) for large in quantized for small in full if _rivals(large, small)]
        changes += [
            _difference(compared, large, small, examples.num_changed(large.run_id, small.run_id))
            for large, small in pairs
        ]
    if not changes:
        missing = "no larger quantized and smaller full model with about the same memory ran on the same examples"
        return [_open("size", claim, "points", missing)]
    value, low, high, run_ids = _mean(changes, policy.confidence)
    return [
        Finding(
            question="size",
            claim=claim,
            subject="all such pairs",
            value=value,
            low=low,
            high=high,
            unit="points",
            outcome=Outcome.holds if low > 0 else Outcome.fails if high < 0 else Outcome.undecided,
            basis=_basis(changes),
            run_ids=run_ids,
        )
    ]


def _rivals(large: LoggedRun, small: LoggedRun) -> bool:
    """Whether one is the larger model and both need about the same memory: peak on one GPU, else weights."""
    parameters = large.facts.num_parameters, small.facts.num_parameters
    if large.prompt != small.prompt or None in parameters or (parameters[0] or 0) < LARGER * (parameters[1] or 0):
        return False
    needs = [large.peak_mib, small.peak_mib]
    if not (large.on_gpu and large.machine == small.machine):
        needs = [run.metrics.get("memory/weights_mib") for run in (large, small)]
    known = [need for need in needs if need]
    return len(known) == 2 and max(known) <= EQUAL_MEMORY * min(known)


def _runs(compared: Compared) -> list[LoggedRun]:
    return [run for examples in compared.sets for run in examples.runs]


def _difference(compared: Compared, one: LoggedRun, other: LoggedRun, num_changed: int) -> _Change:
    """What one cell scores above another; both have answered the same examples."""
    examples = compared.set_of(one)
    return _Change(
        examples=examples,
        observed=examples.quality(one.run_id) - examples.quality(other.run_id),
        resampled=compared.resampled[one.run_id] - compared.resampled[other.run_id],
        num_changed=num_changed,
        run_ids=(one.run_id, other.run_id),
    )


def _change_of_gain(compared: Compared, one: Comparison, other: Comparison) -> _Change:
    """How what one scores above the other changes from the baselines to the candidates."""
    num_changed = one.num_changed + other.num_changed
    after = _difference(compared, one.candidate, other.candidate, num_changed)
    before = _difference(compared, one.baseline, other.baseline, num_changed)
    return replace(
        after,
        observed=after.observed - before.observed,
        resampled=after.resampled - before.resampled,
        run_ids=(*after.run_ids, *before.run_ids),
        before=before.observed,
    )


def _mean(changes: Sequence[_Change], confidence: float) -> tuple[float, float, float, tuple[str, ...]]:
    """The mean of the example sets' mean changes, its interval, and the runs behind it."""
    by_set: dict[str, list[_Change]] = defaultdict(list)
    for change in changes:
        by_set[change.examples.digest].append(change)
    observed = float(np.mean([np.mean([change.observed for change in some]) for some in by_set.values()]))
    drawn = np.mean([np.mean([change.resampled for change in some], axis=0) for some in by_set.values()], axis=0)
    num_changed = sum(max(change.num_changed for change in some) for some in by_set.values())
    low, high = paired_interval(drawn, num_changed, confidence)
    return observed, low, high, tuple(sorted({run_id for change in changes for run_id in change.run_ids}))


def _pooled(question: str, claim: str, subject: str, changes: Sequence[_Change], policy: PolicyConfig) -> Finding:
    """Whether the mean change is shown to be within the tolerated loss, or beyond it."""
    value, low, high, run_ids = _mean(changes, policy.confidence)
    sets = {change.examples.digest: change.examples for change in changes}
    found = verdict(
        value,
        (low, high),
        0.0,
        margin=policy.max_quality_loss or TOLERATED,
        confidence=policy.confidence,
        num_units=sum(examples.num_units for examples in sets.values()),
    )
    return Finding(
        question=question,
        claim=claim,
        subject=subject,
        value=value,
        low=low,
        high=high,
        unit="points",
        outcome=OUTCOMES[found],
        basis=_basis(changes),
        run_ids=run_ids,
    )


def _basis(changes: Sequence[_Change]) -> str:
    tasks = {change.examples.task for change in changes}
    pairs, plural = ("pairs" if len(changes) > 1 else "pair"), "s" if len(tasks) > 1 else ""
    gains = [change.before for change in changes if change.before is not None]
    full = f"; the gain at full precision is {100 * np.mean(gains):+.1f} points" if gains else ""
    return f"mean of {len(changes)} {pairs} over {len(tasks)} task{plural}{full}"


def _open(question: str, claim: str, unit: str, missing: str) -> Finding:
    return Finding(
        question=question,
        claim=claim,
        subject="",
        value=None,
        low=None,
        high=None,
        unit=unit,
        outcome=Outcome.undecided,
        basis=missing,
        run_ids=(),
    )


def _ids(comparisons: Iterable[Comparison]) -> tuple[str, ...]:
    return tuple(sorted({run.run_id for one in comparisons for run in (one.baseline, one.candidate)}))


OUTCOMES: Mapping[Verdict, Outcome] = {
    Verdict.within: Outcome.holds,
    Verdict.worse: Outcome.fails,
    Verdict.undecided: Outcome.undecided,
}

PAPER = "paper"

QUESTIONS: Mapping[str, Question] = {
    "memory": memory,
    "quality": quality,
    "budget": budget,
    "domain": domain,
    "prompting": prompting,
    "size": size,
}
