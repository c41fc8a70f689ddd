"""The choice for one task. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from bioquant.compare import Compared
from bioquant.config import PolicyConfig
from bioquant.evidence import ExampleSet, LoggedRun
from bioquant.recommend.choices import Candidate, TaskChoice
from bioquant.recommend.pareto import MEMORY_NOISE, dominators
from bioquant.recommend.requirements import shortfalls
from bioquant.recommend.rivalry import Option, choose
from bioquant.statistics import interval

NUM_STEPS = 3
"""What to measure next: a short list gets done."""

MANY_INVALID = 0.05


def for_task(examples: ExampleSet, compared: Compared, policy: PolicyConfig) -> TaskChoice:
    """The choice for one task, among all cells over the same examples."""
    candidates = _candidates(examples, compared, policy)
    acceptable = [candidate for candidate in candidates if candidate.acceptable]
    chosen = nearest = None
    if acceptable:
        options = [_option(one, compared) for one in acceptable]
        choice = choose(options, policy, examples.num_units)
        candidates = [replace(one, why_not=choice.why_not.get(one.name, "")) for one in candidates]
        chosen, why = next(one for one in candidates if one.name == choice.name), choice.why
    else:
        nearest = min(candidates, key=distance)
        why = _nothing(nearest)
    return TaskChoice(
        task=examples.task,
        metric=examples.headline,
        examples=examples,
        chosen=chosen,
        why=why,
        nearest=nearest,
        candidates=tuple(sorted(candidates, key=lambda one: (one is not chosen, *rank(one)))),
        next_steps=_next_steps(candidates, chosen, compared, policy),
        cautions=_cautions(chosen or nearest, candidates),
    )


def _candidates(examples: ExampleSet, compared: Compared, policy: PolicyConfig) -> list[Candidate]:
    """Every cell, held against the policy; those whose own figures do not agree are left out."""
    refusals = {refusal.run.run_id: refusal.reason for refusal in compared.refusals}
    comparisons = {one.candidate.run_id: one for one in compared.comparisons}
    runs = [run for run in examples.runs if not (run.is_baseline and run.run_id in refusals)]
    beaten = dominators(examples, runs, compared, policy.confidence)
    names = _names(runs)
    candidates: list[Candidate] = []
    for run in runs:
        comparison = comparisons.get(run.run_id)
        found = shortfalls(run, comparison, refusals.get(run.run_id, ""), policy)
        low, high = interval(compared.resampled[run.run_id], policy.confidence)
        candidates.append(
            Candidate(
                run=run,
                name=names[run.run_id],
                quality=examples.quality(run.run_id),
                ci_low=low,
                ci_high=high,
                comparison=comparison,
                unmet=tuple(one for one in found if one.known),
                unknown=tuple(one for one in found if not one.known),
                beaten_by=names[beaten[run.run_id].run_id] if run.run_id in beaten else "",
            )
        )
    return candidates


def _names(runs: Sequence[LoggedRun]) -> dict[str, str]:
    """Each run's label by run id, with the beginning of the id where several share one (another seed, say)."""
    shared = Counter(run.label for run in runs)
    return {run.run_id: f"{run.label} ({run.run_id[:8]})" if shared[run.label] > 1 else run.label for run in runs}


def _option(candidate: Candidate, compared: Compared) -> Option:
    run = candidate.run
    return Option(
        name=candidate.name,
        quality=candidate.quality,
        resampled=compared.resampled[run.run_id],
        memory_mib=run.memory_mib,
        latency_ms=run.latency_ms,
    )


def distance(candidate: Candidate) -> tuple[float, float, float, float, str]:
    """How far a cell is from the policy: requirements missed, then undecided, then by how much, then quality."""
    excess = sum(one.excess for one in candidate.unmet)
    return len(candidate.unmet), len(candidate.unknown), excess, -candidate.quality, candidate.name


def _nothing(nearest: Candidate) -> str:
    """Why there is no choice."""
    stands = "nothing meets the policy" if nearest.unmet else "nothing is shown to meet the policy yet"
    reasons = "; ".join(one.text for one in (*nearest.unmet, *nearest.unknown))
    return f"{stands}; the nearest is {nearest.name}: {reasons}"


def rank(candidate: Candidate) -> tuple[int, float, str]:
    """Acceptable, undecided, rejected; the better first."""
    group = 2 if candidate.unmet else 1 if candidate.unknown else 0
    return group, -candidate.quality, candidate.name


def _next_steps(
    candidates: Sequence[Candidate], chosen: Candidate | None, compared: Compared, policy: PolicyConfig
) -> tuple[str, ...]:
    """Commands that would decide about cells which may be as good as the chosen one and smaller, or better."""
    hopeful = [one for one in candidates if one.unknown and not one.unmet]
    if chosen is not None:
        hopeful = [one for one in hopeful if _may_win(one, chosen, compared, policy)]
    hopeful.sort(key=lambda one: (one.run.memory_mib or inf, *rank(one)))
    remedies = [shortfall.remedy for one in hopeful for shortfall in one.unknown if shortfall.remedy]
    return tuple(dict.fromkeys(remedies))[:NUM_STEPS]


def _may_win(candidate: Candidate, chosen: Candidate, compared: Compared, policy: PolicyConfig) -> bool:
    differences = compared.resampled[candidate.run.run_id] - compared.resampled[chosen.run.run_id]
    _, high = interval(differences, policy.confidence)
    smaller = (candidate.run.memory_mib or inf) * MEMORY_NOISE <= (chosen.run.memory_mib or inf)
    return high > 0 or (smaller and high >= -(policy.max_quality_loss or 0.0))


def _cautions(shown: Candidate | None, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """What must be known before acting on a choice."""
    if shown is None:
        return ()
    cautions: list[str] = []
    trivial = shown.run.trivial
    best = max(trivial, key=trivial.__getitem__, default="")
    if trivial and shown.ci_low <= trivial[best]:
        cautions.append(f"it is not shown to beat an answer that reads no text ('{best}' scores {trivial[best]:.3f})")
    invalid = shown.run.metrics.get("invalid_rate", 0.0)
    if invalid >= MANY_INVALID:
        cautions.append(f"{invalid:.0%} of its outputs could not be read as an answer")
    cautions += shown.comparison.notes if shown.comparison else ()
    open_for_good = [one for one in candidates if any(s.requirement == "quality" and not s.remedy for s in one.unknown)]
    if open_for_good:
        cautions.append(f"cells undecided for want of examples, of which the task has too few: {len(open_for_good)}")
    harmed = [
        one for one in candidates if one.quality > shown.quality and [s.requirement for s in one.unmet] == ["quality"]
    ]
    cautions += [
        f"{one.name} scores more ({one.quality:.3f}) and is rejected only for what it loses against its own baseline"
        for one in harmed[:1]
    ]
    return tuple(cautions)
