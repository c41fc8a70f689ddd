"""What is compared: logged runs, and what each answered over the examples it shares with others. Pure.

Cells that answered the same examples are kept together as an `ExampleSet`. Answers repeat from cell to cell, so each
distinct (target, answer) is scored once, and a cell is a list of places among them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from bioquant.journal import from_json, shown
from bioquant.metrics import Labels, Spans, Tally, entity_tally, label_tally, labelset_tally
from bioquant.records import Answer
from bioquant.statistics import FloatArray, Statistic, unit_weights

RESAMPLES = 10_000

CELLS_PER_BLOCK = 64
"""Cells whose sums are held at once: bounds memory where a task has thousands."""

PEAKS = ("memory/peak_device_mib", "memory/peak_reserved_mib", "memory/peak_allocated_mib")
"""Peak memory, what a user sees first: the device's count, what torch's allocator held, what its tensors took."""

Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model's configuration says of it. domain: general or biomedical."""

    licence: str
    num_parameters: int | None
    domain: str
    general_counterpart: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """One finished cell, as the tracking store holds it.

    machine: the GPU's name, else the processor's. settings: what tells it from runs of the same names, as overrides
    (see `told_apart`).
    """

    run_id: str
    start_ms: int
    artifact_uri: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    num_test: int
    machine: str
    facts: ModelFacts
    settings: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.params["model"]

    @property
    def quant(self) -> str:
        """The recipe's name."""
        return self.params["quant"]

    @property
    def task(self) -> str:
        """The task's name."""
        return self.params["task"]

    @property
    def prompt(self) -> str:
        """The prompting method's name."""
        return self.params["prompt"]

    @property
    def recipe(self) -> str:
        """What is loaded of the model: the quant's name, and what tells it from another of that name."""
        return " · ".join((self.quant, *self._settings("quant.")))

    def _settings(self, of: str) -> list[str]:
        return [setting for setting in self.settings if setting.startswith(of)]

    @property
    def label(self) -> str:
        """How the cell is called within its task."""
        return " · ".join((self.model, self.recipe, self.prompt, *self._settings("prompt.")))

    @property
    def holds_no_text(self) -> bool:
        """Whether it ran with `privacy.log_text=false`."""
        return self.tags.get("privacy.log_text") == "false"

    @property
    def is_baseline(self) -> bool:
        """Whether the cell is its own baseline: the model in its own dtype."""
        return self.tags["cell_id"] == self.tags["baseline_cell_id"]

    @property
    def on_gpu(self) -> bool:
        """Whether it ran on a GPU."""
        return self.tags["device"].startswith("cuda")

    @property
    def trivial(self) -> dict[str, float]:
        """Scores of answers that read no text, by name."""
        found = {name: value for name, value in self.metrics.items() if name.startswith("trivial/")}
        return {name.removeprefix("trivial/"): value for name, value in found.items()}

    @property
    def peak_mib(self) -> float | None:
        """Peak memory of the evaluation; on a CPU the process's resident memory, Python and libraries included."""
        return next((self.metrics[name] for name in PEAKS if name in self.metrics), None)

    @property
    def memory_mib(self) -> float | None:
        """What recipes are told apart by: peak memory on a GPU; on a CPU the weights, for its peak is mostly Python."""
        return self.peak_mib if self.on_gpu else self.metrics.get("memory/weights_mib")

    @property
    def latency_ms(self) -> float | None:
        """The median of an example at batch 1."""
        return self.metrics.get("latency/example_ms_p50")


def told_apart(runs: Sequence[LoggedRun]) -> list[LoggedRun]:
    """Each with the parameters of its quant and prompt in which runs of the same four names differ, as overrides.

    They are those of the quant and the prompt in all models and tasks, so that a recipe is called alike everywhere.
    """
    alike: dict[tuple[str, ...], list[LoggedRun]] = defaultdict(list)
    for run in runs:
        alike[run.model, run.quant, run.task, run.prompt].append(run)
    varied: dict[tuple[str, str], set[str]] = defaultdict(set)
    for some in alike.values():
        for kind, key in _varied(some):
            varied[kind, some[0].params[kind]].add(key)
    told: list[LoggedRun] = []
    for run in runs:
        keys = sorted(varied["quant", run.quant] | varied["prompt", run.prompt])
        told.append(replace(run, settings=tuple(_setting(run, key) for key in keys)))
    return told


def _varied(runs: Sequence[LoggedRun]) -> Iterator[tuple[str, str]]:
    """Parameters of the quant and of the prompt that are not the same in all of these."""
    for key in {key for run in runs for key in run.params}:
        kind = key.partition(".")[0]
        if kind in ("quant", "prompt") and len({run.params.get(key, "") for run in runs}) > 1:
            yield kind, key


def _setting(run: LoggedRun, key: str) -> str:
    """Blocks of bitsandbytes are logged as the groups that they are."""
    blocks = key == "quant.group_size" and run.params["quant.method"] == "bnb_4bit"
    return f"{'quant.block_size' if blocks else key}={run.params.get(key) or 'null'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one cell answered, example by example; targets and answers as JSON, asked: digests of the input ids."""

    run: LoggedRun
    example_ids: tuple[str, ...]
    units: tuple[str, ...]
    targets: tuple[str, ...]
    answers: tuple[str, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """The examples that the cells `runs` answered, and each one's answers and prompts as codes.

    pairs: the distinct (target, answer), which `answered` counts into. asked: equal codes are equal input ids.
    """

    digest: str
    task: str
    kind: str
    example_ids: tuple[str, ...] = field(repr=False)
    units: tuple[str, ...] = field(repr=False)
    num_test: int
    runs: tuple[LoggedRun, ...] = field(repr=False)
    pairs: tuple[tuple[str, str], ...] = field(repr=False)
    answered: Mapping[str, Codes] = field(repr=False)
    asked: Mapping[str, Codes] = field(repr=False)

    @cached_property
    def tally(self) -> Tally:
        """Counts of each distinct (target, answer), and the task's metrics of their sums."""
        targets = [from_json(target) for target, _ in self.pairs]
        return tally(self.kind, cast(list[Answer], targets), [from_json(answer) for _, answer in self.pairs])

    @property
    def headline(self) -> str:
        """The name of the metric that stands for a cell."""
        return next(iter(self.tally.statistics))

    @property
    def statistic(self) -> Statistic:
        """The headline metric of summed counts."""
        return self.tally.statistics[self.headline]

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each distinct (target, answer) is right in all."""
        return np.array([target == answer for target, answer in self.pairs])

    @cached_property
    def num_units(self) -> int:
        """Independent units: documents where examples share one, else examples."""
        return len(set(self.units))

    @cached_property
    def _by_unit(self) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
        """The examples in the order of their units and where each unit begins; None where each is its own unit."""
        if self.num_units == len(self.units):
            return None
        places = {unit: place for place, unit in enumerate(dict.fromkeys(self.units))}
        of = np.array([places[unit] for unit in self.units])
        order = np.argsort(of, kind="stable")
        return order, np.searchsorted(of[order], np.arange(self.num_units))

    def counts(self, run_ids: Sequence[str], dtype: type[np.floating] = np.float64) -> FloatArray:
        """The cells' counts summed over each unit's examples, (units × cells × k)."""
        codes = np.stack([self.answered[run_id] for run_id in run_ids], axis=1)
        return self._summed(self.tally.counts.astype(dtype)[codes])

    def _summed(self, by_example: FloatArray) -> FloatArray:
        """Summed over each unit's examples, (units × …)."""
        if self._by_unit is None:
            return by_example
        order, starts = self._by_unit
        return np.add.reduceat(by_example[order], starts, axis=0)

    def num_changed(self, one: str, other: str) -> int:
        """Units to whose headline metric the two cells contribute differently."""
        if self.headline == "accuracy":
            right = self.right[np.stack([self.answered[one], self.answered[other]])].astype(np.float64)
            return int(np.count_nonzero(self._summed((right[0] - right[1])[:, None])))
        counts = self.counts([one, other])
        return int(np.count_nonzero((counts[:, 0] != counts[:, 1]).any(axis=1)))

    def answer(self, run: LoggedRun, example_id: str) -> tuple[str, str]:
        """The gold answer to one example and what a cell answered, as people read them."""
        target, answered = self.pairs[self.answered[run.run_id][self.example_ids.index(example_id)]]
        given = from_json(answered)
        return shown(cast(Answer, from_json(target))), "(invalid)" if given is None else shown(given)

    def answers(self, baseline: LoggedRun, candidate: LoggedRun, example_id: str) -> tuple[str, str, str]:
        """The gold answer to one example and what each of two cells answered, as people read them."""
        target, before = self.answer(baseline, example_id)
        return target, before, self.answer(candidate, example_id)[1]

    def quality(self, run_id: str) -> float:
        """The headline metric of one cell, over all examples."""
        counts = self.tally.counts[self.answered[run_id]]
        return float(self.statistic(counts.sum(axis=0)))

    def resampled(self, resamples: int = RESAMPLES) -> dict[str, FloatArray]:
        """The headline metric of every cell in the same resamples of the units, by run id, (resamples).

        The draws depend on the examples alone: the same runs give the same intervals, whatever else is compared.
        """
        run_ids = [run.run_id for run in self.runs]
        starts = range(0, len(run_ids), CELLS_PER_BLOCK)
        blocks = [self.counts(run_ids[start : start + CELLS_PER_BLOCK], np.float32) for start in starts]
        values = np.empty((len(run_ids), resamples), dtype=np.float32)
        place = 0
        for weights in unit_weights(self.num_units, resamples=resamples, seed=self.seed):
            for start, counts in zip(starts, blocks, strict=True):
                sums = (weights @ counts.reshape(len(counts), -1)).reshape(len(weights), *counts.shape[1:])
                values[start : start + counts.shape[1], place : place + len(weights)] = self.statistic(sums).T
            place += len(weights)
        return dict(zip(run_ids, values, strict=True))

    @property
    def seed(self) -> int:
        """Of the random draws over these examples."""
        return int(self.digest[:8], 16)


def tally(kind: str, targets: Sequence[Answer], answers: Sequence[Answer | None]) -> Tally:
    """The tally of a task's kind, its headline first.

    The labels are those that occur: one that is neither gold nor answered changes no headline metric.
    """
    if kind == "ner":
        return entity_tally(cast(Sequence[Spans], targets), cast(Sequence[Spans | None], answers))
    if kind == "mlc":
        sets = [cast(Labels, answer) for answer in (*targets, *answers) if answer is not None]
        labels = sorted({label for named in sets for label in named})
        return labelset_tally(cast(Sequence[Labels], targets), cast(Sequence[Labels | None], answers), labels)
    singles = [cast(str, answer) for answer in (*targets, *answers) if answer is not None]
    headline = "accuracy" if kind == "qa" else "macro_f1"
    return label_tally(
        cast(Sequence[str], targets), cast(Sequence[str | None], answers), sorted(set(singles)), headline=headline
    )


def gather(answered: Iterable[Answered]) -> list[ExampleSet]:
    """Put together the cells that answered the same examples; the order of the runs does not matter."""
    collected: dict[str, _Collector] = {}
    for cell in answered:
        digest = _digest(cell)
        if digest not in collected:
            collected[digest] = _Collector(digest, cell)
        collected[digest].add(cell)
    return sorted((one.done() for one in collected.values()), key=lambda one: (one.task, -len(one.units), one.digest))


def _digest(cell: Answered) -> str:
    """What makes the examples of two cells the same: ids, units and targets, in order, and how they are scored."""
    parts = (cell.run.task, cell.run.params["task.kind"], *cell.example_ids, *cell.units, *cell.targets)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


class _Collector:
    """An example set while cells are added to it."""

    def __init__(self, digest: str, first: Answered) -> None:
        self._digest, self._first = digest, first
        self._pairs: dict[tuple[str, str], int] = {}
        self._prompts: dict[str, int] = {}
        self._runs: list[LoggedRun] = []
        self._answered: dict[str, Codes] = {}
        self._asked: dict[str, Codes] = {}

    def add(self, cell: Answered) -> None:
        pairs, prompts = self._pairs, self._prompts
        codes = [pairs.setdefault(pair, len(pairs)) for pair in zip(self._first.targets, cell.answers, strict=True)]
        self._answered[cell.run.run_id] = np.array(codes, dtype=np.int32)
        asked = [prompts.setdefault(digest, len(prompts)) for digest in cell.asked]
        self._asked[cell.run.run_id] = np.array(asked, dtype=np.int32)
        self._runs.append(cell.run)

    def done(self) -> ExampleSet:
        return ExampleSet(
            digest=self._digest,
            task=self._first.run.task,
            kind=self._first.run.params["task.kind"],
            example_ids=self._first.example_ids,
            units=self._first.units,
            num_test=max(run.num_test for run in self._runs),
            runs=tuple(sorted(self._runs, key=lambda run: (run.label, run.run_id))),
            pairs=tuple(self._pairs),
            answered=self._answered,
            asked=self._asked,
        )


def plain(value: object) -> object:
    """A result as JSON holds it: records by their fields, runs and example sets by what names them."""
    if isinstance(value, LoggedRun):
        axes = {"model": value.model, "quant": value.quant, "task": value.task, "prompt": value.prompt}
        return {"run_id": value.run_id, **axes}
    if isinstance(value, ExampleSet):
        return {"digest": value.digest, "num_examples": len(value.example_ids), "num_test": value.num_test}
    if is_dataclass(value):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in cast(Sequence[object], value)]
    return value
