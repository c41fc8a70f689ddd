"""A sweep before it runs: each cell's memory and which card holds it, the time, the disk. Nothing is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bioquant import answering, capacity, checkpoints, costs, memory, models, published, quantization
from bioquant.config import Device, PolicyConfig, RunConfig
from bioquant.costs import History
from bioquant.engine.batching import row_width
from bioquant.errors import ConfigError, QuantError
from bioquant.lengths import Lengths, Reader
from bioquant.measure import available
from bioquant.memory import BatchShape
from bioquant.records import MemoryPrediction

CARDS_GIB = (16, 24, 40, 48, 80)

TIGHT = 0.95
"""Of a card, beyond which a prediction that may be 5 % too low says neither yes nor no."""


class Verdict(StrEnum):
    """Whether one row of a cell fits a card."""

    fits = "fits"
    tight = "tight"
    no = "no"


@dataclass(frozen=True, slots=True)
class Target:
    """What the plan is for: a card of the policy's size, else this machine's device. size: in bytes."""

    device: Device
    size: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellForecast:
    """What one cell would take. checkpoint: the one that is loaded; pinned: whether its revision is a commit.

    memory: with one row, of the longest prompt. largest_batch: rows on the target.

    seconds: None where the task's files are not here. from_log: whether it comes from a logged run. load_s: once a
    model and quant. download: bytes of the checkpoint; results: bytes. All of these as if it fits.
    """

    model: str
    checkpoint: str
    pinned: bool
    quant: str
    task: str
    prompt: str
    lengths: Lengths
    max_new_tokens: int
    memory: MemoryPrediction
    largest_batch: int
    cards: Mapping[str, Verdict]
    seconds: float | None
    from_log: bool
    load_s: float
    download: int
    results: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """All cells that can run, and the others with why they cannot."""

    target: Target
    cells: tuple[CellForecast, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def fitting(self) -> list[CellForecast]:
        """The cells of which the target holds one row at least."""
        return [cell for cell in self.cells if cell.largest_batch]

    @property
    def seconds(self) -> float | None:
        """Of the cells that fit, one after another, each model and quant loaded once; None where one is not known."""
        known = [cell.seconds for cell in self.fitting if cell.seconds is not None]
        loads = {(cell.model, cell.quant): cell.load_s for cell in self.fitting}
        return sum(known) + sum(loads.values()) if len(known) == len(self.fitting) else None

    @property
    def download(self) -> int:
        """Bytes of the checkpoints of the cells that fit and are not here, each once."""
        return sum({(cell.model, cell.checkpoint): cell.download for cell in self.fitting}.values())

    @property
    def results(self) -> int:
        """Bytes that the cells that fit leave on disk."""
        return sum(cell.results for cell in self.fitting)


def target(policy: PolicyConfig, device: Device) -> Target:
    """The card that the policy names, else the device that a run would take here. Raises QuantError: no such device."""
    if policy.gpu_memory_gib is not None:
        return Target(Device.cuda, int(policy.gpu_memory_gib * capacity.GIB), f"a {policy.gpu_memory_gib:g} GiB card")
    try:
        place = models.resolve_device(device)
    except QuantError as error:
        raise QuantError(f"{error} policy.gpu_memory_gib=40 plans for a card that is elsewhere.") from error
    size = available.total_bytes(place)
    what = "GPU" if place.startswith("cuda") else "memory"
    return Target(Device(place.partition(":")[0]), size, f"this machine's {what}, {capacity.gib(size)}")


def forecast(configs: Sequence[RunConfig], aim: Target, runs: History) -> Forecast:
    """All cells of a sweep. Raises ModelError for a model whose architecture is not known."""
    reader = Reader()
    cells: list[CellForecast] = []
    left_out: dict[tuple[str, str], str] = {}
    for config in configs:
        try:
            cells.append(cell(config, reader.lengths(config), aim, runs))
        except ConfigError as error:
            left_out[config.task.name, config.prompt.name] = str(error)
    return Forecast(aim, tuple(cells), tuple((f"{task} · {prompt}", why) for (task, prompt), why in left_out.items()))


def cell(config: RunConfig, lengths: Lengths, aim: Target, runs: History) -> CellForecast:
    """One cell, given how long its prompts are. Raises ModelError."""
    source = published.source(config.model, config.quant)
    row, found = one_row(config, lengths), costs.logged(config, runs)
    shape = memory.anatomy(config.model)
    loaded = memory.anatomy(quantization.as_loaded(config.model, config.quant))
    predicted = memory.predict_shape(loaded, config.quant, row, aim.device)
    batch = capacity.largest_batch(loaded, config.quant, row, aim.device, aim.size)
    return CellForecast(
        model=config.model.name,
        checkpoint=source.id,
        pinned=checkpoints.is_pinned(source),
        quant=config.quant.name,
        task=config.task.name,
        prompt=config.prompt.name,
        lengths=lengths,
        max_new_tokens=answering.max_new_tokens(config),
        memory=predicted,
        largest_batch=batch,
        cards=verdicts(memory.predict_shape(loaded, config.quant, row, Device.cuda).peak_device),
        seconds=_seconds(config, lengths, max(1, batch), aim.device, found),
        from_log=found is not None,
        load_s=found.load_s if found else costs.load_seconds(shape, aim.device),
        download=costs.download_bytes(source, shape, config.quant),
        results=costs.result_bytes(lengths),
    )


def one_row(config: RunConfig, lengths: Lengths) -> BatchShape:
    """The row of the cell's longest prompt, as the engine makes it."""
    return BatchShape(
        rows=1,
        shared=lengths.shared,
        prompt=lengths.longest,
        width=row_width(lengths.longest + answering.max_new_tokens(config)),
        prefill_tokens=config.engine.prefill_tokens,
    )


def verdicts(peak: int, cards: Iterable[int] = CARDS_GIB) -> dict[str, Verdict]:
    """For each card, by its size in GiB."""
    return {str(card): verdict(peak, card * capacity.GIB) for card in cards}


def verdict(peak: int, size: int) -> Verdict:
    """Whether so many bytes fit a card of so many."""
    if peak <= TIGHT * size:
        return Verdict.fits
    return Verdict.tight if peak <= size else Verdict.no


def _seconds(
    config: RunConfig, lengths: Lengths, rows: int, device: Device, found: costs.Logged | None
) -> float | None:
    """From a logged run where there is one, else by arithmetic; the batch is what is configured, if it fits."""
    if lengths.num_examples is None:
        return None
    if found is not None:
        return lengths.num_examples / found.examples_per_s
    rows = rows if config.engine.batch == "auto" else min(rows, int(config.engine.batch))
    return costs.cell_seconds(config, lengths, memory.anatomy(config.model), rows, device)
