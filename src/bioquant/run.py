"""The main path: one cell, compose → plan → load → evaluate → measure → log."""

import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from bioquant import datasets, measure, places, plots, progress, prompts, tracking
from bioquant.config import EngineConfig, ModelConfig, QuantConfig, RunConfig, Scoring
from bioquant.engine import GenerationSettings, LanguageModel
from bioquant.engine.batching import Limits, sha256
from bioquant.errors import OutOfMemoryError
from bioquant.journal import journal, write_predictions
from bioquant.loading import Loaded, load, what_is_loaded
from bioquant.measure import energy, latency
from bioquant.measure.memory import MemoryMeter, MemoryPeak
from bioquant.plan import RunPlan, plan
from bioquant.records import (
    Dataset,
    Example,
    Footprint,
    Generation,
    Latency,
    Outcome,
    Prediction,
    QuantizationReport,
    RunResult,
    Score,
)
from bioquant.tasks import kind_of

log = logging.getLogger(__name__)


def run_single(config: RunConfig, folder: Path) -> tuple[RunPlan, Outcome]:
    """One cell on its own: opens its MLflow run before the model loads, and closes it with what really happened."""
    cell = prepare(config, read(config))
    store = tracking.open_store(config.tracking)
    run_id = tracking.start_run(store, cell, folder, sweep_id=None, parent_run_id=None)
    with logged(folder), tracking.closing(store, run_id, folder):
        result = run_cell(cell, folder, load(config))
        tracking.log_result(store, run_id, result, folder)
    return cell, tracking.outcome(result)


def prepare_all(configs: Sequence[RunConfig]) -> list[RunPlan]:
    """The plans of a sweep's cells; each task's files are read once."""
    loaded: dict[str, Dataset] = {}
    plans: list[RunPlan] = []
    for config in configs:
        key = repr((config.task, config.data))
        if key not in loaded:
            loaded[key] = read(config)
        plans.append(prepare(config, loaded[key]))
    return plans


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
    return plan(config, dataset, tuple(examples))


class Session:
    """Keeps the model that was loaded last: the cells of a group share it."""

    def __init__(self) -> None:
        self._key: tuple[ModelConfig, QuantConfig, EngineConfig] | None = None
        self._loaded: Loaded | None = None

    def load(self, config: RunConfig) -> Loaded:
        """The model of this cell, loaded anew only where it differs from the last one's."""
        key = (config.model, config.quant, what_is_loaded(config.engine))
        if self._loaded is None or self._key != key:
            self._loaded, self._key = None, key
            self._loaded = load(config)
        return self._loaded


def run_cell(cell: RunPlan, folder: Path, loaded: Loaded) -> RunResult:
    """Measure → evaluate → score: the cell's result, with all its files in the folder.

    The latency probe comes first, so that the evaluation, which gives the throughput, runs on a warm device.
    """
    write_config(cell.config, folder)
    cell = fit(cell, loaded.model)
    alone, batched = probe(cell, loaded.model)
    meter = MemoryMeter(loaded.model.device)
    meter.reset()
    with energy.meter(loaded.model.device) as joules:
        predictions = evaluate(cell, loaded.model, folder)
    footprint = footprint_of(loaded, predictions, loaded.peak(meter), joules, alone, batched)
    write_predictions(folder, predictions)
    result = summary(cell, predictions, score(cell, predictions, folder), footprint, loaded.report)
    write_json(folder / "scores.json", asdict(result))
    write_json(folder / "environment.json", measure.environment())
    write_json(folder / "quantization.json", asdict(loaded.report))
    return result


def fit(cell: RunPlan, model: LanguageModel) -> RunPlan:
    """The cell with every prompt short enough for the model's context, counted in its own tokens.

    What cannot be made to fit stays whole: the engine refuses it by name.
    """
    config = cell.config

    def fits(example: Example) -> bool:
        return len(model.encode(example.messages)) <= room(config)

    found = [prompts.fitting(example, config.task, config.prompt, fits) or example for example in cell.examples]
    return replace(cell, examples=tuple(found))


def room(config: RunConfig) -> int:
    """The tokens the model's context leaves for a prompt."""
    return config.model.context_length - settings(config).max_new_tokens


def footprint_of(
    loaded: Loaded,
    predictions: Sequence[Prediction],
    peak: MemoryPeak,
    joules: energy.Joules,
    alone: Latency | None,
    batched: Latency | None,
) -> Footprint:
    """Bring together what the meters read. Pure."""
    return Footprint(
        device=loaded.model.device,
        weights_mib=loaded.report.bytes_after / 2**20,
        load_s=loaded.load_s,
        compile_s=loaded.compile_s,
        load_peak_mib=loaded.load_peak_mib,
        peak_allocated_mib=peak.allocated_mib,
        peak_reserved_mib=peak.reserved_mib,
        peak_device_mib=peak.device_mib,
        other_processes=peak.other_processes,
        joules_per_example=None if joules.total is None else joules.total / len(predictions),
        latency=alone,
        latency_batched=batched,
        **measure.throughput(predictions),
    )


def evaluate(cell: RunPlan, model: LanguageModel, folder: Path) -> list[Prediction]:
    """Ask the model every example; each prediction is on disk as soon as it is made. In the examples' order."""
    made: dict[int, Prediction] = {}
    method = generated if cell.config.engine.scoring is Scoring.generate else likeliest
    with progress.examples(cell.name, len(cell.examples)) as advance, journal(folder) as write:
        for index, prediction in method(cell, model):
            made[index] = prediction
            write(prediction)
            advance(1)
    return [made[index] for index in range(len(cell.examples))]


def generated(cell: RunPlan, model: LanguageModel) -> Iterator[tuple[int, Prediction]]:
    """Predictions from generated text, each once all its samples are drawn."""
    config, samples = cell.config, defaultdict[int, list[Generation]](list)
    for generation in model.generate([example.messages for example in cell.examples], settings(config)):
        drawn = samples[generation.index]
        drawn.append(generation)
        if len(drawn) == config.prompt.num_samples:
            yield generation.index, predict(config, cell.examples[generation.index], drawn)


def likeliest(cell: RunPlan, model: LanguageModel) -> Iterator[tuple[int, Prediction]]:
    """Predictions from the log-probability of each choice: the likeliest is the answer, so none is invalid."""
    prompted = [example.messages for example in cell.examples]
    choices = [example.row.choices for example in cell.examples]
    start = time.perf_counter()
    for index, logprobs in model.loglikelihood(prompted, choices, limits(cell.config)):
        now = time.perf_counter()
        yield index, choose(cell.examples[index], logprobs, model.encode(prompted[index]), now - start, index)
        start = now


def settings(config: RunConfig) -> GenerationSettings:
    """How the engine generates in this cell."""
    answer_tokens = config.engine.max_new_tokens or config.task.max_new_tokens
    return GenerationSettings(
        max_new_tokens=answer_tokens + (config.prompt.reasoning_tokens if config.prompt.chain_of_thought else 0),
        limits=limits(config),
        num_samples=config.prompt.num_samples,
        temperature=config.prompt.temperature,
        top_p=config.prompt.top_p,
        seed=config.seed,
    )


def limits(config: RunConfig) -> Limits:
    """How much goes through the model at once in this cell."""
    return Limits(rows=config.engine.batch_size, prefill_tokens=config.engine.prefill_tokens)


def predict(config: RunConfig, example: Example, drawn: Sequence[Generation]) -> Prediction:
    """One example's outputs, parsed and compared with what is right. Pure."""
    kind = kind_of(config.task.kind)
    outputs = tuple(generation.text for generation in drawn)
    finals = [prompts.final_answer(output, config.prompt) for output in outputs]
    parsed = [None if final is None else kind.parse(final, example.row, config.task) for final in finals]
    answer = prompts.vote(parsed)
    first = drawn[0]
    return Prediction(
        example_id=example.id,
        prompt=example.messages[-1].content,
        outputs=outputs,
        answer=answer,
        target=example.row.target,
        correct=answer == example.row.target,
        num_prompt_tokens=first.num_prompt_tokens,
        num_output_tokens=sum(generation.num_output_tokens for generation in drawn),
        finish="length" if any(generation.finish == "length" for generation in drawn) else "stop",
        input_ids_sha256=first.input_ids_sha256,
        seconds=first.seconds,
        batch_index=first.batch_index,
        batch_size=first.batch_size,
        truncated=example.truncated,
    )


def choose(example: Example, logprobs: Sequence[float], ids: Sequence[int], seconds: float, index: int) -> Prediction:
    """The likeliest choice as a prediction. Its text is the choice; no token was generated."""
    answer = example.row.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
    return Prediction(
        example_id=example.id,
        prompt=example.messages[-1].content,
        outputs=(answer,),
        answer=answer,
        target=example.row.target,
        correct=answer == example.row.target,
        num_prompt_tokens=len(ids),
        num_output_tokens=0,
        finish="stop",
        input_ids_sha256=sha256(ids),
        seconds=seconds,
        batch_index=index,
        batch_size=1,
        choice_logprobs=tuple(logprobs),
        truncated=example.truncated,
    )


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
        settings(cell.config),
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
    report: QuantizationReport,
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
        quantization=report,
        input_ids_sha256=asked.hexdigest(),
        trivial=trivial,
    )


def write_config(config: RunConfig, folder: Path) -> None:
    """The whole composed configuration, as it is logged."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), folder / "config.yaml")


def write_json(path: Path, value: object) -> None:
    """One readable JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def logged(folder: Path) -> Generator[None]:
    """Send log lines, and the traceback of whatever fails, to `run.log` in the cell's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException:
        logging.getLogger("bioquant").exception("the cell failed")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
