"""Runs → comparisons: each candidate beside its baseline, on the same examples, with what is sure about it. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bioquant.config import PolicyConfig
from bioquant.evidence import RESAMPLES, ExampleSet, LoggedRun
from bioquant.statistics import (
    FloatArray,
    Verdict,
    holm,
    mcnemar,
    paired_interval,
    permutation,
    units_needed,
    units_to_stand_out,
    verdict,
)

LOST_SIGHT = 1e-6
"""How far a quality computed anew may be from the logged one: more is no rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate and its baseline on the same examples; all of quality on its scale of 0 to 1.

    delta: candidate minus baseline, with its interval. retention: candidate over baseline, None where that is 0.
    test: what gave p_value, of no difference; p_holm: adjusted for all comparisons made together.
    num_changed: units to whose score the two contribute differently: what the comparison rests on.
    lost, gained: ids of the examples that only the baseline, or only the candidate, has right.
    weights_ratio, …: candidate over baseline, None where one was not measured or they ran on different machines;
        memory_ratio, of the peaks, is None on a CPU, whose resident memory is mostly Python and its libraries.
    more_examples: about how many the verdict still needs; 0 where it stands, None where a million would not do.
    notes: what a reader should know beside the figures.
    """

    baseline: LoggedRun
    candidate: LoggedRun
    metric: str
    num_examples: int
    num_units: int
    num_changed: int
    num_test: int
    baseline_quality: float
    candidate_quality: float
    delta: float
    ci_low: float
    ci_high: float
    retention: float | None
    retention_low: float | None
    retention_high: float | None
    test: str
    p_value: float
    p_holm: float
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    weights_ratio: float | None
    memory_ratio: float | None
    latency_ratio: float | None
    energy_ratio: float | None
    verdict: Verdict
    more_examples: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A run that is not compared, and why."""

    run: LoggedRun
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """All comparisons, their runs' example sets with the resampled quality of each run, and what was refused."""

    sets: tuple[ExampleSet, ...]
    resampled: Mapping[str, FloatArray]
    comparisons: tuple[Comparison, ...]
    refusals: tuple[Refusal, ...]

    def set_of(self, run: LoggedRun) -> ExampleSet:
        """The examples that a run answered."""
        return next(examples for examples in self.sets if run.run_id in examples.answered)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A baseline and a candidate that were asked the same."""

    examples: ExampleSet
    baseline: LoggedRun
    candidate: LoggedRun
    notes: tuple[str, ...]


def compare(sets: Sequence[ExampleSet], policy: PolicyConfig, *, resamples: int = RESAMPLES) -> Compared:
    """Pair every candidate with its baseline, and compare. The verdicts are of all comparisons together (Holm)."""
    wrong = _miscounted(sets)
    pairs, unpaired = _pairs(sets, wrong)
    resampled = {run_id: values for one in sets for run_id, values in one.resampled(resamples).items()}
    found = [_compared(pair, resampled, policy, len(pairs)) for pair in pairs]
    adjusted = holm([comparison.p_value for comparison in found])
    judged = [_judged(one, p_holm, len(found), resampled, policy) for one, p_holm in zip(found, adjusted, strict=True)]
    refusals = sorted([*wrong.values(), *unpaired], key=lambda refusal: (refusal.run.task, refusal.run.label))
    return Compared(
        sets=tuple(sets), resampled=resampled, comparisons=tuple(sorted(judged, key=_order)), refusals=tuple(refusals)
    )


def _order(comparison: Comparison) -> tuple[str, ...]:
    run = comparison.candidate
    return run.task, run.model, run.prompt, run.recipe, run.run_id


def _miscounted(sets: Sequence[ExampleSet]) -> dict[str, Refusal]:
    """Runs whose predictions do not give the quality they logged, by run id: two ways of counting must not be mixed."""
    wrong: dict[str, Refusal] = {}
    for examples in sets:
        for run in examples.runs:
            found, logged = examples.quality(run.run_id), run.metrics["quality"]
            if abs(found - logged) > LOST_SIGHT:
                reason = (
                    f"its predictions give {examples.headline} {found:.4f} and its metric `quality` is {logged:.4f}: "
                    "it was scored by another version, or its files were changed. Run it again."
                )
                wrong[run.run_id] = Refusal(run=run, reason=reason)
    return wrong


def _pairs(sets: Sequence[ExampleSet], wrong: Mapping[str, Refusal]) -> tuple[list[_Pair], list[Refusal]]:
    """Every candidate with its baseline, or the reason why there is no pair."""
    by_cell: dict[str, list[tuple[ExampleSet, LoggedRun]]] = defaultdict(list)
    for examples in sets:
        for run in examples.runs:
            by_cell[run.tags["cell_id"]].append((examples, run))
    pairs: list[_Pair] = []
    refusals: list[Refusal] = []
    candidates = [(one, run) for one in sets for run in one.runs if not run.is_baseline and run.run_id not in wrong]
    for examples, run in candidates:
        paired = _paired(examples, run, by_cell[run.tags["baseline_cell_id"]], wrong)
        if isinstance(paired, str):
            refusals.append(Refusal(run=run, reason=paired))
        else:
            pairs.append(paired)
    return pairs, refusals


def _paired(
    examples: ExampleSet,
    run: LoggedRun,
    baselines: Sequence[tuple[ExampleSet, LoggedRun]],
    wrong: Mapping[str, Refusal],
) -> _Pair | str:
    """The candidate's pair, or why it has none. Of several baselines that of the same machine and versions, then the
    latest.
    """
    if not baselines:
        return f"no finished run of its baseline: {run_command(run, quant='none')}"
    its_examples, baseline = max(baselines, key=lambda found: _likeness(run, found[1]))
    if baseline.run_id in wrong:
        return f"its baseline, run {baseline.run_id}, cannot be used: {wrong[baseline.run_id].reason}"
    if its_examples is not examples:
        return f"its baseline, run {baseline.run_id}, answered other examples: {_difference(examples, its_examples)}"
    differ = np.flatnonzero(examples.asked[run.run_id] != examples.asked[baseline.run_id])
    if len(differ):
        return (
            f"{len(differ)} of {len(examples.example_ids)} prompts are not token for token those of its baseline, run "
            f"{baseline.run_id} (first: example '{examples.example_ids[differ[0]]}'): a difference would not be the "
            "quant's. Run both again with the same model revision and versions."
        )
    return _Pair(examples, baseline, run, _notes(baseline, run))


def _likeness(run: LoggedRun, baseline: LoggedRun) -> tuple[bool, bool, int, str]:
    same_versions = _versions(run) == _versions(baseline)
    return run.machine == baseline.machine, same_versions, baseline.start_ms, baseline.run_id


def _versions(run: LoggedRun) -> dict[str, str]:
    return {tag: value for tag, value in run.tags.items() if tag.startswith("version.")}


def _difference(one: ExampleSet, other: ExampleSet) -> str:
    """How two example sets differ, in words."""
    if len(one.example_ids) != len(other.example_ids):
        return f"{len(one.example_ids)} here, {len(other.example_ids)} there"
    for mine, its in zip(one.example_ids, other.example_ids, strict=True):
        if mine != its:
            return f"'{mine}' here stands where '{its}' stands there"
    return "their gold answers or units differ"


def _notes(baseline: LoggedRun, run: LoggedRun) -> tuple[str, ...]:
    """What makes the two cells differ beside the quant."""
    notes: list[str] = []
    if baseline.machine != run.machine:
        notes.append(f"ran on different machines: {baseline.machine} and {run.machine}")
    before, after = _versions(baseline), _versions(run)
    changed = [tag for tag in sorted(before.keys() | after.keys()) if before.get(tag) != after.get(tag)]
    notes += [f"{tag} was {before.get(tag, 'absent')}, now {after.get(tag, 'absent')}" for tag in changed]
    return tuple(notes)


def run_command(run: LoggedRun, *, quant: str, limit: int | None = None) -> str:
    """The command that logs a run's cell with another quant, or with another number of examples."""
    given = [f"model={run.model}", f"quant={quant}", f"task={run.task}", f"prompt={run.prompt}"]
    wanted = run.params["limit"] if limit is None else str(limit)
    if wanted != "all" and (limit is None or limit < run.num_test):
        given.append(f"limit={wanted}")
    if run.params["seed"] != "0":
        given.append(f"seed={run.params['seed']}")
    given += [setting for setting in run.settings if not setting.startswith("quant.overrides")]
    return f"bioquant run {'-m ' if ',' in quant else ''}{' '.join(given)}"


def _compared(pair: _Pair, resampled: Mapping[str, FloatArray], policy: PolicyConfig, num_pairs: int) -> Comparison:
    """The figures of one pair; what depends on the other comparisons comes after."""
    examples, baseline, candidate = pair.examples, pair.baseline, pair.candidate
    before, after = examples.quality(baseline.run_id), examples.quality(candidate.run_id)
    changed = examples.num_changed(baseline.run_id, candidate.run_id)
    values = resampled[baseline.run_id], resampled[candidate.run_id]
    low, high = paired_interval(values[1] - values[0], changed, policy.confidence)
    retained = _retention(*values, changed, policy.confidence)
    lost, gained = flips(examples, baseline, candidate)
    exact = examples.headline == "accuracy" and examples.num_units == len(examples.example_ids)
    same_machine = baseline.machine == candidate.machine
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        metric=examples.headline,
        num_examples=len(examples.example_ids),
        num_units=examples.num_units,
        num_changed=changed,
        num_test=examples.num_test,
        baseline_quality=before,
        candidate_quality=after,
        delta=after - before,
        ci_low=low,
        ci_high=high,
        retention=after / before if before > 0 else None,
        retention_low=retained[0] if retained else None,
        retention_high=retained[1] if retained else None,
        test="McNemar, exact" if exact else "paired permutation",
        p_value=mcnemar(len(lost), len(gained)) if exact else _permuted(pair, num_pairs),
        p_holm=1.0,
        lost=lost,
        gained=gained,
        weights_ratio=_ratio(baseline, candidate, "memory/weights_mib"),
        memory_ratio=_over(candidate.peak_mib, baseline.peak_mib) if same_machine and candidate.on_gpu else None,
        latency_ratio=_ratio(baseline, candidate, "latency/example_ms_p50") if same_machine else None,
        energy_ratio=_ratio(baseline, candidate, "energy/joules_per_example") if same_machine else None,
        verdict=Verdict.undecided,
        more_examples=None,
        notes=pair.notes,
    )


def flips(examples: ExampleSet, baseline: LoggedRun, candidate: LoggedRun) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of the examples that only the baseline has right, and of those that only the candidate has right."""
    before = examples.right[examples.answered[baseline.run_id]]
    after = examples.right[examples.answered[candidate.run_id]]
    lost = tuple(examples.example_ids[place] for place in np.flatnonzero(before & ~after))
    gained = tuple(examples.example_ids[place] for place in np.flatnonzero(after & ~before))
    return lost, gained


def _retention(
    before: FloatArray, after: FloatArray, num_changed: int, confidence: float
) -> tuple[float, float] | None:
    """The interval of after ÷ before; None where a resample of the baseline scores 0, of which nothing is a share."""
    return paired_interval(after / before, num_changed, confidence) if before.min() > 0 else None


def _permuted(pair: _Pair, num_pairs: int) -> float:
    examples = pair.examples
    counts = examples.counts([pair.baseline.run_id, pair.candidate.run_id])
    return permutation(counts[:, 0], counts[:, 1], examples.statistic, seed=examples.seed, num_tests=num_pairs)


def _ratio(baseline: LoggedRun, candidate: LoggedRun, metric: str) -> float | None:
    return _over(candidate.metrics.get(metric), baseline.metrics.get(metric))


def _over(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _judged(
    comparison: Comparison, p_holm: float, num_comparisons: int, values: Mapping[str, FloatArray], policy: PolicyConfig
) -> Comparison:
    """The comparison with its verdict, and how many more examples that needs where it is open."""
    margin = policy.max_quality_loss
    if margin is None:
        return replace(comparison, p_holm=p_holm, verdict=Verdict.within, more_examples=0)
    bounds = (comparison.ci_low, comparison.ci_high)
    found = verdict(
        comparison.delta,
        bounds,
        p_holm,
        margin=margin,
        confidence=policy.confidence,
        num_units=comparison.num_units,
    )
    if found is not Verdict.undecided:
        return replace(comparison, p_holm=p_holm, verdict=found, more_examples=0)
    more = _more(comparison, num_comparisons, values, policy.confidence, margin)
    return replace(comparison, p_holm=p_holm, verdict=found, more_examples=more)


def _more(
    comparison: Comparison, num_comparisons: int, values: Mapping[str, FloatArray], confidence: float, margin: float
) -> int | None:
    """Examples beside those there are, with which the verdict would come; None where a million would not do.

    To be called worse, a loss must lie beyond the limit and stand out among all comparisons.
    """
    changes = values[comparison.candidate.run_id] - values[comparison.baseline.run_id]
    variance = comparison.num_units * float(np.nanvar(changes))
    units = units_needed(comparison.delta, variance, margin=margin, confidence=confidence)
    if units is None:
        return None
    if comparison.delta < -margin:
        units_now, p_value = comparison.num_units, comparison.p_value
        alone = units_to_stand_out(units_now, p_value, num_tests=num_comparisons, confidence=confidence)
        units = max(units, alone or 0)
    per_unit = comparison.num_examples / comparison.num_units
    return _two_digits(max(1, round(units * per_unit) - comparison.num_examples))


def _two_digits(number: int) -> int:
    """Rounded up to two digits: more would be a false promise."""
    step = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step
