"""The main path: one cell, compose → plan → load → evaluate → measure → log."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from bioquant import (
    answering,
    attempts,
    calibration,
    capacity,
    datasets,
    hardware,
    measure,
    places,
    plots,
    progress,
    prompts,
    tracking,
)
from bioquant.config import RunConfig
from bioquant.engine import LanguageModel
from bioquant.errors import OutOfMemoryError
from bioquant.files import logged, write_config, write_json
from bioquant.journal import journal, write_predictions
from bioquant.loading import Loaded, load
from bioquant.measure import energy, latency, series
from bioquant.measure.memory import MemoryMeter, MemoryPeak
from bioquant.plan import RunPlan, plan
from bioquant.progress import Watch
from bioquant.records import (
    Audit,
    Dataset,
    Footprint,
    Latency,
    MemoryPrediction,
    Outcome,
    Prediction,
    RunResult,
    Score,
)
from bioquant.tasks import kind_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spent:
    """What an evaluation was expected to take, and what of that was measured. joules: in all."""

    predicted: MemoryPrediction | None
    peak: MemoryPeak
    joules: float | None


def run_single(config: RunConfig, folder: Path) -> tuple[RunPlan, Outcome]:
    """One cell on its own, unless it is finished already.

    Opens its MLflow run before the model loads, and closes it with what really happened. A job that was queued again
    finds its folder taken, and goes on in its own run.
    """
    cell = prepare(config, read(config))
    store = tracking.open_store(config.tracking)
    tracking.reap(store)
    with attempts.awaited_turn(cell.fingerprint, cell.name):
        found = tracking.finished(store, [cell.fingerprint]) if config.resume else {}
        if found:
            print(f"{cell.name} is finished already: resume=false runs it again", file=sys.stderr, flush=True)
            # Whoever finished it may have been killed before it could say so, here and to the tracking store.
            attempts.forget(cell.fingerprint)
            tracking.flush(store)
            return cell, found[cell.fingerprint]
        run_id = tracking.run_of(folder)
        if run_id is None:
            run_id = tracking.start_run(store, cell, folder, sweep_id=None, parent_run_id=None)
        else:
            tracking.reattach(store, run_id)
        with tracking.closing(store, run_id, folder), logged(folder):
            result = run_cell(cell, folder, load(config), journaled(cell, folder))
            tracking.log_result(store, run_id, result, folder)
        attempts.done(cell.fingerprint)
    return cell, tracking.outcome(result)


def read(config: RunConfig) -> Dataset:
    """The task's rows, from its files."""
    return datasets.load(config.task, places.data_root(config.data.root))


def prepare(config: RunConfig, dataset: Dataset) -> RunPlan:
    """Compose → plan: choose the examples, write their prompts, give the cell its identity. Loads no model."""
    rows = datasets.sample(dataset.test, config.limit, config.seed)
    pool = prompts.clean_pool(dataset.test, dataset.pool)
    examples = prompts.build(
        rows, pool, config.task, config.prompt, system_prompt=config.model.system_prompt, seed=config.seed
    )
    calibration.check(config, dataset)
    planned = calibration.decided(hardware.with_budget(config, hardware.visible_gpus()))
    cell = plan(planned, dataset, tuple(examples))
    return replace(cell, config=capacity.decided(cell.config, examples))


def run_cell(
    cell: RunPlan,
    folder: Path,
    loaded: Loaded,
    earlier: Sequence[Prediction] = (),
    watch: Watch = progress.ALONE,
) -> RunResult:
    """Measure → evaluate → score: the cell's result, with all its files in the folder.

    The latency probe comes first, so that the evaluation, which gives the throughput, runs on a warm device.
    """
    write_config(cell.config, folder)
    cell = fit(cell, loaded.model)
    with series.recorded(loaded.model.device, folder):
        alone, batched = probe(cell, loaded.model)
        predictions, spent = metered(cell, loaded, folder, earlier, watch)
    write_predictions(folder, predictions, [example.row for example in cell.examples])
    footprint = footprint_of(cell.config, loaded, predictions, spent, alone, batched)
    audit = answering.audit(cell.config, cell.examples, predictions, loaded.model)
    result = summary(cell, predictions, score(cell, predictions, folder), footprint, loaded, audit)
    write_json(folder / "scores.json", asdict(result))
    write_json(folder / "environment.json", measure.environment())
    write_json(folder / "quantization.json", asdict(loaded.report))
    return result


def metered(
    cell: RunPlan, loaded: Loaded, folder: Path, earlier: Sequence[Prediction], watch: Watch
) -> tuple[list[Prediction], Spent]:
    """The evaluation, and what memory and energy it took.

    One that goes on from an earlier attempt's journal takes but a part of these, which is then not given at all.
    """
    model = loaded.model
    predicted = None if loaded.reserves else capacity.predicted(cell.config, cell.examples, model)
    meter = MemoryMeter(model.device)
    meter.reset()
    with energy.meter(model.device) as joules:
        predictions = evaluate(cell, model, folder, earlier, watch)
    peak = loaded.peak(meter)
    return predictions, Spent(predicted, MemoryPeak(), None) if earlier else Spent(predicted, peak, joules.total)


def fit(cell: RunPlan, model: LanguageModel) -> RunPlan:
    """The cell with every prompt short enough for the model's context, counted in its own tokens.

    What cannot be made to fit stays whole: the engine refuses it by name.
    """
    found = [answering.fitting(cell.config, example, model) or example for example in cell.examples]
    return replace(cell, examples=tuple(found))


def footprint_of(
    config: RunConfig,
    loaded: Loaded,
    predictions: Sequence[Prediction],
    spent: Spent,
    alone: Latency | None,
    batched: Latency | None,
) -> Footprint:
    """Bring together what the meters read. Pure."""
    limits, peak, predicted = answering.limits(config), spent.peak, spent.predicted
    return Footprint(
        device=loaded.model.device,
        device_name=measure.device_name(loaded.model.device),
        weights_mib=loaded.report.bytes_after / 2**20,
        load_s=loaded.load_s,
        compile_s=loaded.compile_s,
        load_peak_mib=loaded.load_peak_mib,
        peak_allocated_mib=peak.allocated_mib,
        peak_reserved_mib=peak.reserved_mib,
        peak_device_mib=peak.device_mib,
        other_processes=peak.other_processes,
        predicted_allocated_mib=None if predicted is None else predicted.peak_allocated / 2**20,
        predicted_device_mib=None if predicted is None else predicted.peak_device / 2**20,
        batch_rows=limits.rows,
        batch_tokens=limits.tokens,
        joules_per_example=None if spent.joules is None else spent.joules / len(predictions),
        latency=alone,
        latency_batched=batched,
        **measure.throughput(predictions),
    )


def journaled(cell: RunPlan, folder: Path) -> list[Prediction]:
    """What an earlier attempt at this cell, here or elsewhere, has already answered."""
    return attempts.take_over(cell.fingerprint, folder, measure.environment(), anew=not cell.config.resume)


def evaluate(
    cell: RunPlan, model: LanguageModel, folder: Path, earlier: Sequence[Prediction] = (), watch: Watch = progress.ALONE
) -> list[Prediction]:
    """Ask the model every example that has no earlier prediction; each one is on disk as soon as it is made.

    In the examples' order. Raises KeyboardInterrupt where the watch has ended it before all were asked.
    """
    place = {example.id: index for index, example in enumerate(cell.examples)}
    made = {place[prediction.example_id]: prediction for prediction in earlier}
    with (
        watch.show(cell.name, len(cell.examples)) as advance,
        watch.stopping() as stopped,
        journal(folder) as write,
    ):
        advance(len(made))
        for index, prediction in answering.ask(cell.config, cell.examples, model, frozenset(made), stopped):
            made[index] = prediction
            write(prediction)
            advance(1)
    if len(made) < len(cell.examples):
        raise KeyboardInterrupt
    return [made[index] for index in range(len(cell.examples))]


def score(cell: RunPlan, predictions: Sequence[Prediction], folder: Path) -> list[Score]:
    """The task's metrics with their intervals, the headline first; per-label figures go to `labels.json`."""
    config = cell.config
    kind = kind_of(config.task.kind)
    rows = [example.row for example in cell.examples]
    answers = [prediction.answer for prediction in predictions]
    by_label = kind.per_label(rows, answers, config.task)
    write_json(folder / "labels.json", [asdict(label) for label in by_label])
    plots.label_plot(by_label, folder / "labels.png", title=cell.name)
    return kind.score(rows, answers, config.task, resamples=config.measure.bootstrap_resamples, seed=config.seed)


def probe(cell: RunPlan, model: LanguageModel) -> tuple[Latency | None, Latency | None]:
    """Latency at batch 1 and at a second batch size, apart from the evaluation, on the same prompts.

    None for what is not asked for, and for a second batch size that the device has not the memory for.
    """
    measured = cell.config.measure
    if not measured.latency_examples:
        return None, None
    timed = partial(
        latency.probe,
        model,
        [example.messages for example in cell.examples],
        answering.settings(cell.config),
        num_examples=measured.latency_examples,
        num_warmup=measured.latency_warmup,
    )
    alone = timed(batch_size=1)
    if not measured.latency_batch_size:
        return alone, None
    try:
        return alone, timed(batch_size=measured.latency_batch_size)
    except OutOfMemoryError as error:
        log.warning("no latency at batch %d: %s", measured.latency_batch_size, error)
        return alone, None


def summary(
    cell: RunPlan,
    predictions: Sequence[Prediction],
    scores: Sequence[Score],
    footprint: Footprint,
    loaded: Loaded,
    audit: Audit | None,
) -> RunResult:
    """Bring a cell's figures together. Pure."""
    number = len(predictions)
    task = cell.config.task
    trivial = kind_of(task.kind).trivial([example.row for example in cell.examples], task)
    asked = hashlib.sha256("".join(prediction.input_ids_sha256 for prediction in predictions).encode())
    return RunResult(
        scores=tuple(scores),
        headline=scores[0].name,
        num_examples=number,
        invalid_rate=sum(prediction.answer is None for prediction in predictions) / number,
        empty_rate=sum(not any(output.strip() for output in prediction.outputs) for prediction in predictions) / number,
        truncated_input_rate=sum(prediction.truncated for prediction in predictions) / number,
        truncated_output_rate=sum(prediction.finish == "length" for prediction in predictions) / number,
        footprint=footprint,
        quantization=loaded.report,
        input_ids_sha256=asked.hexdigest(),
        trivial=trivial,
        audit=audit,
        check=loaded.check,
    )
