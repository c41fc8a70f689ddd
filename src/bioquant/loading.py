"""Plan → load: a quantized model behind the engine that was asked for, with the proof that it is one."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bioquant import capacity, models, quantization
from bioquant.config import Device, QuantMethod, RunConfig
from bioquant.engine import LanguageModel, offers
from bioquant.engine.transformers import TransformersModel
from bioquant.engine.vllm import VllmModel
from bioquant.errors import DoesNotFitError
from bioquant.measure.memory import MemoryMeter, MemoryPeak
from bioquant.models import check, vllm
from bioquant.plan import BASELINE
from bioquant.records import QuantCheck, QuantizationReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to answer, the proof of its quantization, and what loading it took.

    reserves: whether the engine takes its memory up front, as much as it is told to: no peak says what was needed then.
    """

    model: LanguageModel
    report: QuantizationReport
    load_s: float
    compile_s: float | None
    load_peak_mib: float | None
    reserves: bool = False
    check: QuantCheck | None = None

    def peak(self, meter: MemoryMeter) -> MemoryPeak:
        """What was needed since the meter was reset, as far as its reading says so."""
        read = meter.peak()
        return MemoryPeak(other_processes=read.other_processes) if self.reserves else read


def load(config: RunConfig) -> Loaded:
    """The quantized model behind its engine.

    Raises ConfigError (an engine that is not known or not installed), DoesNotFitError, ModelError, QuantError.
    """
    offers.check(config)
    return LOADERS[config.engine.name](config)


def with_transformers(config: RunConfig, *, quantized: bool = False) -> Loaded:
    """Loaded by transformers, answered by the engine of ours.

    quantized: whether the checkpoint holds weights that this very recipe has quantized (see `models.saved`).
    """
    device = models.resolve_device(config.engine.device)
    capacity.check(config, device)
    expected = _expected(config, device)
    meter = MemoryMeter(device)
    meter.reset()
    loaded = models.load(config.model, config.quant, config.engine.device, quantized=quantized)
    load_peak_mib = meter.peak().allocated_mib
    checked = check.check(loaded, config.model, config.quant, expected) if config.quant.check else None
    model, compile_s = ready(loaded, config)
    return Loaded(model, loaded.report, loaded.load_s, compile_s, load_peak_mib, check=checked)


def _expected(config: RunConfig, device: str) -> check.Tensor | None:
    """What the unquantized model predicts, loaded and gone before the quantized one comes; None where it does not fit.

    A recipe that cannot run is refused before minutes go into its baseline.
    """
    model, quant = config.model, config.quant
    if not quant.check or quant.method is QuantMethod.none:
        return None
    quantization.check(quant, model, Device(device.partition(":")[0]), models.compute_capability(device))
    try:
        capacity.check(replace(config, quant=BASELINE), device)
    except DoesNotFitError as error:
        log.warning("quant.check: no divergence from the baseline: %s", error)
        return None
    return check.expected(model, config.engine.device)


def ready(loaded: models.LoadedModel, config: RunConfig) -> tuple[LanguageModel, float | None]:
    """The engine around a loaded model, checked, and the seconds that compiling took where it was asked for."""
    steady = quantization.steps_can_be_graphs(config.quant)
    compiled = config.engine.compile and steady
    started = time.perf_counter()
    model = TransformersModel(
        loaded.model,
        loaded.tokenizer,
        loaded.device,
        config.model.context_length,
        graphs=steady and loaded.device.startswith("cuda"),
        compiled=compiled,
    )
    return model, time.perf_counter() - started if compiled else None


def with_vllm(config: RunConfig) -> Loaded:
    """Loaded and answered by vLLM, whose compiling is part of its loading."""
    device = vllm.device_of(config.engine)
    capacity.check(config, device)
    loaded = vllm.load(config.model, config.quant, config.engine, device)
    model = VllmModel(loaded.llm, loaded.tokenizer, loaded.eos_token_id, device, loaded.context_length)
    return Loaded(model, loaded.report, loaded.load_s, compile_s=None, load_peak_mib=None, reserves=True)


LOADERS: dict[str, Callable[[RunConfig], Loaded]] = {"transformers": with_transformers, "vllm": with_vllm}
"""By `engine.name`: one for each of `offers.ENGINES`."""
