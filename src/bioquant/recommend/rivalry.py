"""Of several things that may be run, the cheapest that is as good as the best. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from bioquant.config import PolicyConfig
from bioquant.recommend.pareto import MEMORY_NOISE
from bioquant.statistics import FloatArray, Verdict, interval, verdict
from bioquant.wording import in_points


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Option:
    """One thing that may be run: its quality, as observed and in each resample, and what it costs."""

    name: str
    quality: float
    resampled: FloatArray
    memory_mib: float | None
    latency_ms: float | None

    @property
    def memory(self) -> float:
        """For ordering: what was not measured is no advantage."""
        return inf if self.memory_mib is None else self.memory_mib

    @property
    def latency(self) -> float:
        """For ordering."""
        return inf if self.latency_ms is None else self.latency_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The name that was chosen, why, and for every other name why not."""

    name: str
    why: str
    why_not: dict[str, str]


def choose(options: Sequence[Option], policy: PolicyConfig, num_units: int) -> Choice:
    """The one with least memory (then, within noise, the best quality) among those as good as the best.

    As good is what is shown to be within the tolerated loss of the best, by the same rule as a candidate is of its
    baseline. Where the policy tolerates any loss against a baseline, only the best itself is as good.
    """
    best = max(options, key=lambda one: (one.quality, -one.memory, -one.latency, one.name))
    equals = [one for one in options if one is best or _as_good(one, best, policy, num_units)]
    least = min(one.memory for one in equals)
    small = [one for one in equals if one.memory <= least * MEMORY_NOISE]
    chosen = max(small, key=lambda one: (one.quality, -one.latency, one.name))
    why_not = {
        one.name: _against_chosen(one, chosen) if one in equals else _against_best(one, best, policy)
        for one in options
        if one is not chosen
    }
    return Choice(name=chosen.name, why=_why(chosen, best, len(options), policy), why_not=why_not)


def _as_good(one: Option, best: Option, policy: PolicyConfig, num_units: int) -> bool:
    if policy.max_quality_loss is None:
        return False
    found = verdict(
        one.quality - best.quality,
        interval(one.resampled - best.resampled, policy.confidence),
        0.0,
        margin=policy.max_quality_loss,
        confidence=policy.confidence,
        num_units=num_units,
    )
    return found is Verdict.within


def _why(chosen: Option, best: Option, num_options: int, policy: PolicyConfig) -> str:
    if num_options == 1:
        return "it alone meets the policy"
    if chosen is best:
        return f"of the {num_options} that meet the policy it scores highest; none as good needs less memory"
    margin = in_points(policy.max_quality_loss or 0.0)
    return (
        f"of the {num_options} that meet the policy {best.name} scores highest ({best.quality:.3f}); this is within "
        f"{margin} of it, with {_share(chosen, best)} of its memory"
    )


def _share(one: Option, other: Option) -> str:
    return f"{one.memory / other.memory:.0%}"


def _against_chosen(one: Option, chosen: Option) -> str:
    if one.memory > chosen.memory * MEMORY_NOISE and one.memory != inf:
        return f"as good, but needs {one.memory / chosen.memory:.2g} times the memory of {chosen.name}"
    return f"as good and as small as {chosen.name}, which scores {chosen.quality:.3f}"


def _against_best(one: Option, best: Option, policy: PolicyConfig) -> str:
    low, high = interval(one.resampled - best.resampled, policy.confidence)
    gap = f"{100 * (one.quality - best.quality):+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    if high < 0:
        return f"scores less than {best.name}: {gap}"
    return f"is not shown to be as good as {best.name}: {gap}"
