"""What fits a device: the largest batch, whether a model fits at all and what would instead, a sweep's batch."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bioquant import answering, compose, memory, models, recipe_checks
from bioquant.config import (
    Device,
    ModelConfig,
    ModelSource,
    QuantConfig,
    QuantMethod,
    RunConfig,
    Scoring,
    WeightFormat,
)
from bioquant.engine import GenerationSettings, LanguageModel
from bioquant.engine.batching import Limits, row_width
from bioquant.engine.transformers import Schedule
from bioquant.errors import DoesNotFitError, ModelError, QuantError
from bioquant.estimates import characters_per_token, estimated
from bioquant.measure import available
from bioquant.memory import Anatomy, BatchShape
from bioquant.plan import BASELINE
from bioquant.records import Example, MemoryPrediction

GIB = 2**30

MOST_ROWS = {Device.cuda: 128, Device.cpu: 16}
"""Rows beyond which a batch gains little: on a CPU a product of 16 rows is bound by arithmetic already."""

UNKNOWN_ROWS = 8
"""Where the architecture, and so the memory, is not known before loading."""

MARGIN = 0.95
"""Of a device's memory, what a batch is planned for: a prediction is meant to be within 5 % of what is measured."""

SMALLEST = BatchShape(rows=1, shared=0, prompt=64, width=64, prefill_tokens=64)
"""A batch that asks for hardly more than the weights."""

PRECISIONS = (
    BASELINE,
    QuantConfig(name="bnb_int8", method=QuantMethod.bnb_int8, weight_format=WeightFormat.int8, bits=8),
    QuantConfig(name="bnb_nf4", method=QuantMethod.bnb_4bit, weight_format=WeightFormat.nf4, bits=4),
    QuantConfig(
        name="bnb_nf4_dq", method=QuantMethod.bnb_4bit, weight_format=WeightFormat.nf4, bits=4, double_quant=True
    ),
)
"""From the most to the least memory."""


def decide_batch(model: ModelConfig, row: BatchShape, device: Device, available_bytes: int) -> Limits:
    """The batch of a model's cells on a device, the same whatever their quant, since batch size changes scores.

    Planned for the baseline where one row of it fits the device, else for 8 bits, else for 4: whatever needs less
    memory has room for the same. Rows at the longest width are rounded down to a power of two, so that a prediction
    that comes out a little different does not change the batch; shorter rows may be more, up to `MOST_ROWS`.

    row: the longest row of the cell; its `rows` is not looked at. available_bytes: of the device, or the policy's.
    Raises ModelError where nothing here knows the architecture. Pure but for that.
    """
    shape = memory.anatomy(model)
    fitting = (quant for quant in PRECISIONS if largest_batch(shape, quant, row, device, available_bytes))
    quant = next(fitting, PRECISIONS[-1])
    safe, bold = (largest_batch(shape, quant, row, device, int(of * available_bytes)) for of in (MARGIN, 1))
    most = max(1, safe, bold // 2)
    tokens = 2 ** (most.bit_length() - 1) * row.width
    return Limits(rows=MOST_ROWS[device], tokens=tokens, prefill_tokens=row.prefill_tokens)


def decided(config: RunConfig, examples: Sequence[Example]) -> RunConfig:
    """The cell with `engine.batch=auto` made a number of rows and of tokens; as it is where the batch is given.

    Prompt lengths are estimated from characters: the batch must not depend on which tokenizers this machine holds.
    """
    if config.engine.batch != "auto":
        return config
    device = Device(models.resolve_device(config.engine.device).partition(":")[0])
    assert config.engine.batch_memory_gib is not None
    try:
        size = config.engine.batch_memory_gib * GIB
        limits = decide_batch(config.model, longest_row(config, examples), device, size)
    except ModelError:  # an architecture that is not known before loading
        limits = Limits(rows=UNKNOWN_ROWS)
    return replace(config, engine=replace(config.engine, batch=limits.rows, batch_tokens=limits.tokens))


def predicted(config: RunConfig, examples: Sequence[Example], model: LanguageModel) -> MemoryPrediction | None:
    """What the evaluation of these examples is expected to take, with the batch that is decided.

    None for what `bioquant.memory` does not describe: an architecture that it cannot build, the scoring of choices.
    """
    if config.engine.scoring is not Scoring.generate:
        return None
    device = Device(model.device.partition(":")[0])
    shape = largest_shape(answering.settings(config), [model.encode(example.messages) for example in examples])
    try:
        return memory.predict(config.model, config.quant, shape, device)
    except ModelError:
        return None


def largest_shape(settings: GenerationSettings, ids: Sequence[Sequence[int]]) -> BatchShape:
    """The batch that takes the most, of those in which prompts with these token ids are answered. Pure."""
    schedule, limits = Schedule.of(ids, settings), settings.limits
    shared = schedule.num_shared
    sizes = [
        (
            min(len(ride) * settings.num_samples, limits.rows),
            row_width(len(ids[ride[0]]) - shared + settings.max_new_tokens),
        )
        for ride in schedule.batches
    ]
    rows, width = max(sizes, key=lambda size: size[0] * size[1])
    longest = max(map(len, ids)) - shared
    return BatchShape(rows=rows, shared=shared, prompt=longest, width=width, prefill_tokens=limits.prefill_tokens)


def longest_row(config: RunConfig, examples: Sequence[Example]) -> BatchShape:
    """One row of the longest prompt, no longer than the model's context leaves room for."""
    texts = ["".join(message.content for message in example.messages) for example in examples]
    found = estimated(texts, characters_per_token(config.model))
    longest = min(found.longest, answering.room(config))
    shared = min(found.shared, longest - 1)
    return BatchShape(
        rows=1,
        shared=shared,
        prompt=longest - shared,
        width=row_width(longest - shared + answering.max_new_tokens(config)),
        prefill_tokens=config.engine.prefill_tokens,
    )


def largest_batch(shape: Anatomy, quant: QuantConfig, row: BatchShape, device: Device, available_bytes: int) -> int:
    """The most rows, up to `MOST_ROWS`, that are predicted to fit; 0 where not even one does. Pure."""

    def peak(rows: int) -> int:
        return memory.predict_shape(shape, quant, replace(row, rows=rows), device).peak_device

    return bisect_right(range(1, MOST_ROWS[device] + 1), available_bytes, key=peak)


def check(config: RunConfig, place: str) -> None:
    """Refuse a model that cannot fit the device however short the prompts: before minutes are spent on loading it.

    place: a torch device. Raises DoesNotFitError. Says nothing where the architecture is not known before loading.
    """
    device = Device(place.partition(":")[0])
    try:
        needed = demand(config.model, config.quant, device)
    except ModelError:
        return
    room = available.free_bytes(place) + memory.base(device)
    if needed > room and not config.plan.force:
        raise DoesNotFitError(
            f"model '{config.model.name}' with quant '{config.quant.name}' needs {gib(needed)}, but {place} has "
            f"{gib(room)}: {_instead(config, device, room)} plan.force=true loads it all the same."
        )


def demand(model: ModelConfig, quant: QuantConfig, device: Device) -> int:
    """What the model takes of the device for one short prompt, in bytes. Raises ModelError."""
    return memory.predict(model, quant, SMALLEST, device).peak_device


def gib(number: int) -> str:
    """Bytes as a figure to read: 5.5 GiB."""
    return f"{number / GIB:.1f} GiB"


def _instead(config: RunConfig, device: Device, room: int) -> str:
    """The nearest recipe and the nearest model that fit, as overrides."""
    nearest = [_fit(f"quant={quant.name}", config.model, quant, device) for quant in _recipes(config.model, device)]
    recipe = max((fit for fit in nearest if fit[0] <= room), default=None)
    fits = [_fit(f"model={model.name}", model, config.quant, device) for model in _models(config.model)]
    model = next((fit for fit in fits if fit[0] <= room), None)
    found = [f"{override} ({gib(needed)})" for needed, override in filter(None, (recipe, model))]
    return f"choose {' or '.join(found)}." if found else "no recipe and no model here is small enough."


def _fit(override: str, model: ModelConfig, quant: QuantConfig, device: Device) -> tuple[int, str]:
    return demand(model, quant, device), override


def _recipes(model: ModelConfig, device: Device) -> Iterator[QuantConfig]:
    """Those that can run this model on the device."""
    recipes: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
    for quant in recipes.values():
        try:
            recipe_checks.check(quant, model, device, None)
        except QuantError:
            continue
        yield quant


def _models(model: ModelConfig) -> list[ModelConfig]:
    """Those that state their architecture, by likeness: of the same family, of the same domain, the largest."""
    options: dict[str, ModelConfig] = compose.options("model", ModelConfig)
    known = [other for other in options.values() if other.architecture and other.source is not ModelSource.random]

    def likeness(other: ModelConfig) -> tuple[bool, bool, int]:
        return other.family == model.family, other.domain is model.domain, other.num_parameters or 0

    return sorted(known, key=likeness, reverse=True)
