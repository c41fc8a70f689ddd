"""Comparisons → recommendation: under a policy, which model at which precision, prompted how, and why not the others.

Pure: the same runs and policy give the same answer. "Nothing meets the policy" is one.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from bioquant.compare import Compared
from bioquant.config import PolicyConfig
from bioquant.errors import ConfigError, did_you_mean
from bioquant.evidence import ExampleSet
from bioquant.recommend.choices import Candidate, Deployment, Recommendation, TaskChoice
from bioquant.recommend.deployment import for_all
from bioquant.recommend.task import for_task

__all__ = ["Candidate", "Deployment", "Recommendation", "TaskChoice", "recommend"]


def recommend(compared: Compared, policy: PolicyConfig) -> Recommendation:
    """Choose for each task and for all. Raises ConfigError for several machines, or a policy's task without a run."""
    machine = _one_machine(compared)
    fullest, left_out = _fullest(compared)
    weights = _weights(policy, [examples.task for examples in fullest])
    sets = [examples for examples in fullest if examples.task in weights]
    tasks = tuple(for_task(examples, compared, policy) for examples in sets)
    deployments, overall, why = for_all(tasks, weights, compared, policy)
    refused = [f"{refusal.run.label} on {refusal.run.task}: {refusal.reason}" for refusal in compared.refusals]
    return Recommendation(
        policy=policy,
        machine=machine,
        tasks=tasks,
        weights=weights,
        deployments=deployments,
        overall=overall,
        why=why,
        left_out=(*left_out, *refused),
        run_ids=tuple(sorted(run.run_id for examples in sets for run in examples.runs)),
    )


def _one_machine(compared: Compared) -> str:
    """The machine of all runs: memory and latency of two do not compare."""
    counted = Counter(run.machine for examples in compared.sets for run in examples.runs)
    if len(counted) > 1:
        listed = ", ".join(f"'{machine}' ({number} runs)" for machine, number in sorted(counted.items()))
        raise ConfigError(
            f"the runs come from {len(counted)} machines, whose memory and latency do not compare: {listed}. "
            "Choose one with device=, any part of its name."
        )
    return next(iter(counted))


def _fullest(compared: Compared) -> tuple[list[ExampleSet], list[str]]:
    """Of each task the example set with the most predictions, and what is left out for it.

    Thirty cells on 20 examples say less than three on 500, and eight baselines on 36 less than both with candidates.
    """
    by_task: dict[str, list[ExampleSet]] = defaultdict(list)
    for examples in compared.sets:
        by_task[examples.task].append(examples)
    chosen: list[ExampleSet] = []
    left_out: list[str] = []
    for task, sets in sorted(by_task.items()):
        first, *others = sorted(sets, key=lambda one: (-len(one.example_ids) * len(one.runs), one.digest))
        chosen.append(first)
        left_out += [
            f"{task}: decided on {len(first.example_ids)} examples (cells: {len(first.runs)}), not on "
            f"{len(other.example_ids)} others (cells: {len(other.runs)}); a filter (limit=, seed=) would take those"
            for other in others
        ]
    return chosen, left_out


def _weights(policy: PolicyConfig, tasks: Sequence[str]) -> dict[str, float]:
    """Each task's share in the overall choice, summing to 1."""
    for task in policy.tasks:
        if task not in tasks:
            near = did_you_mean(task, tasks)
            raise ConfigError(
                f"policy.tasks.{task}: no finished run has that task{near} The runs have: {', '.join(tasks)}."
            )
    given = dict(policy.tasks) or dict.fromkeys(tasks, 1.0)
    return {task: weight / sum(given.values()) for task, weight in sorted(given.items())}
