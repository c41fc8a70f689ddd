"""The records a recommendation is made of. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass

from bioquant.compare import Comparison
from bioquant.config import PolicyConfig
from bioquant.evidence import ExampleSet, LoggedRun
from bioquant.recommend.requirements import Shortfall


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One cell of a task, held against the policy. name: unlike that of any other cell of the task.

    unmet: requirements it misses; unknown: those that nothing measured decides. beaten_by: the label of a cell that is
    better beyond noise, empty on the Pareto front. why_not: of an acceptable cell, why another one was chosen.
    """

    run: LoggedRun
    name: str
    quality: float
    ci_low: float
    ci_high: float
    comparison: Comparison | None
    unmet: tuple[Shortfall, ...]
    unknown: tuple[Shortfall, ...]
    beaten_by: str
    why_not: str = ""

    @property
    def acceptable(self) -> bool:
        """Whether it is shown to meet every requirement."""
        return not self.unmet and not self.unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """What to run for one task. chosen is None where nothing is shown to meet the policy; then nearest is what comes
    closest.

    candidates: every cell over the examples, the chosen first, then the acceptable, the undecided and the rejected.
    next_steps: commands that would tell more, most telling first. cautions: what a reader must know before acting.
    """

    task: str
    metric: str
    examples: ExampleSet
    chosen: Candidate | None
    why: str
    nearest: Candidate | None
    candidates: tuple[Candidate, ...]
    next_steps: tuple[str, ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One model at one precision, for all tasks at once; each task takes the best prompt it is acceptable with.

    quant: the recipe, as `LoggedRun.recipe` calls it.
    quality: the weighted mean of the tasks' headline metrics, None where a task has no acceptable cell. memory_mib,
    latency_ms: the largest of its cells'. cells: by task. missing: by task without one, why. why_not: of one that
    serves all tasks, why another was chosen.
    """

    model: str
    quant: str
    quality: float | None
    ci_low: float | None
    ci_high: float | None
    memory_mib: float | None
    latency_ms: float | None
    cells: Mapping[str, LoggedRun]
    missing: Mapping[str, str]
    why_not: str = ""

    @property
    def label(self) -> str:
        """How it is called."""
        return f"{self.model} · {self.quant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The answer: per task, and one model at one precision for all of them. run_ids: all the evidence."""

    policy: PolicyConfig
    machine: str
    tasks: tuple[TaskChoice, ...]
    weights: Mapping[str, float]
    deployments: tuple[Deployment, ...]
    overall: Deployment | None
    why: str
    left_out: tuple[str, ...]
    run_ids: tuple[str, ...]
