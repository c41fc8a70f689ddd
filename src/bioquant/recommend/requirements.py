"""A policy held against one cell: what it does not meet, and what nobody knows yet. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from bioquant.compare import Comparison, run_command
from bioquant.config import PolicyConfig
from bioquant.evidence import LoggedRun
from bioquant.statistics import Verdict
from bioquant.wording import change, loss, needs

MIB_PER_GIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A requirement of the policy that a cell does not meet, or (known=False) is not known to meet.

    requirement: memory, latency, energy, licence or quality. text: a clause about "it", the cell.
    excess: how far beyond the limit, as a share of it; 0 where unknown. remedy: what to measure next, if anything.
    """

    requirement: str
    text: str
    known: bool
    excess: float = 0.0
    remedy: str = ""


def shortfalls(
    run: LoggedRun, comparison: Comparison | None, refusal: str, policy: PolicyConfig
) -> tuple[Shortfall, ...]:
    """All that stands between a cell and the policy. refusal: why a candidate has no comparison."""
    found = (
        _memory(run, policy),
        _latency(run, policy),
        _energy(run, policy),
        _licence(run, policy),
        _quality(run, comparison, refusal, policy),
    )
    return tuple(chain.from_iterable(found))


def _memory(run: LoggedRun, policy: PolicyConfig) -> Iterator[Shortfall]:
    limit = policy.gpu_memory_gib
    if limit is None:
        return
    weights = run.metrics.get("memory/weights_mib")
    needed = run.peak_mib if run.on_gpu else None
    if needed is not None and needed > limit * MIB_PER_GIB:
        yield _over(
            "memory", f"it peaks at {needed / MIB_PER_GIB:.1f} GiB", needed / MIB_PER_GIB, limit, "GiB of GPU memory"
        )
    elif needed is None and weights is not None and weights > limit * MIB_PER_GIB:
        gib = weights / MIB_PER_GIB
        yield _over("memory", f"its weights take {gib:.1f} GiB", gib, limit, "GiB of GPU memory")
    elif needed is None:
        where = "was not measured" if run.on_gpu else "is not known: it ran on a CPU"
        remedy = f"{run_command(run, quant=run.quant)} engine.device=cuda"
        yield Shortfall(requirement="memory", text=f"its GPU memory {where}", known=False, remedy=remedy)


def _latency(run: LoggedRun, policy: PolicyConfig) -> Iterator[Shortfall]:
    limit, p95 = policy.latency_p95_ms, run.metrics.get("latency/example_ms_p95")
    if limit is None:
        return
    if p95 is not None and p95 > limit:
        yield _over("latency", f"its p95 latency is {p95:.3g} ms", p95, limit, "ms")
    elif p95 is None and run.latency_ms is not None and run.latency_ms > limit:
        yield _over("latency", f"its median latency is {run.latency_ms:.3g} ms", run.latency_ms, limit, "ms")
    elif p95 is None:
        remedy = f"{run_command(run, quant=run.quant)} measure.latency_examples=20"
        yield Shortfall(requirement="latency", text="its p95 latency was not measured", known=False, remedy=remedy)


def _energy(run: LoggedRun, policy: PolicyConfig) -> Iterator[Shortfall]:
    limit, joules = policy.joules_per_example, run.metrics.get("energy/joules_per_example")
    if limit is None:
        return
    if joules is None:
        yield Shortfall(requirement="energy", text="its energy was not measured", known=False)
    elif joules > limit:
        yield _over("energy", f"its energy is {joules:.3g} J an example", joules, limit, "J an example")


def _over(requirement: str, what: str, found: float, limit: float, unit: str) -> Shortfall:
    text = f"{what}, over the {limit:g} {unit} allowed"
    return Shortfall(requirement=requirement, text=text, known=True, excess=found / limit - 1)


def _licence(run: LoggedRun, policy: PolicyConfig) -> Iterator[Shortfall]:
    if policy.licences and run.facts.licence not in policy.licences:
        text = f"its licence '{run.facts.licence}' is not among those allowed: {', '.join(policy.licences)}"
        yield Shortfall(requirement="licence", text=text, known=True, excess=1.0)


def _quality(run: LoggedRun, comparison: Comparison | None, refusal: str, policy: PolicyConfig) -> Iterator[Shortfall]:
    margin = policy.max_quality_loss
    if margin is None or run.is_baseline:
        return
    if comparison is None:
        text = f"its loss is not known: {refusal}"
        yield Shortfall(
            requirement="quality", text=text, known=False, remedy=run_command(run, quant=f"none,{run.quant}")
        )
    elif comparison.verdict is Verdict.worse:
        text = f"it loses {loss(comparison)}, more than the {100 * margin:g} tolerated"
        excess = -comparison.delta / margin - 1
        yield Shortfall(requirement="quality", text=text, known=True, excess=excess)
    elif comparison.verdict is Verdict.undecided:
        text = f"its change of {change(comparison)} is not decided against the {100 * margin:g} tolerated"
        yield Shortfall(
            requirement="quality", text=f"{text}: {needs(comparison)}", known=False, remedy=more(comparison)
        )


def more(comparison: Comparison) -> str:
    """The command that takes the examples an open verdict needs; empty where the task has not as many."""
    left = comparison.num_test - comparison.num_examples
    if comparison.more_examples is None or comparison.more_examples > left:
        return ""
    wanted = comparison.num_examples + comparison.more_examples
    return run_command(comparison.candidate, quant=f"none,{comparison.candidate.quant}", limit=wanted)
