"""Plan → load: a quantized model behind the engine that was asked for, with the proof that it is one."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bioquant import calibration, capacity, checkpoints, models, published, quantization, recipe_checks
from bioquant.config import Device, ModelConfig, QuantMethod, RunConfig
from bioquant.engine import LanguageModel, offers
from bioquant.engine.transformers import TransformersModel
from bioquant.engine.vllm import VllmModel
from bioquant.errors import DoesNotFitError
from bioquant.measure.memory import MemoryMeter, MemoryPeak
from bioquant.models import calibrated, check, vllm
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


def weights(config: RunConfig) -> tuple[ModelConfig, bool]:
    """The model with the checkpoint that is read, and whether this very recipe has quantized what is in it.

    That is a published one, or one that is calibrated here, now or earlier; else the model's own, which the recipe
    quantizes when it loads. Raises ConfigError, DataError, DoesNotFitError, ModelError, QuantError.
    """
    model, quant = config.model, config.quant
    if quantization.is_published(quant):
        return published.checkpoint(model, quant), True
    if not quantization.calibrates(quant):
        return model, False
    planned = calibration.decided(config)
    return checkpoints.in_folder(model, calibrated.folder(model, planned.quant, partial(_texts, planned))), True


def _texts(config: RunConfig) -> Sequence[str]:
    """What is calibrated on, once it is known that the unquantized model has room in the CPU's memory."""
    capacity.check(replace(config, quant=BASELINE), "cpu")
    return calibration.texts(config)


def with_transformers(config: RunConfig, *, quantized: bool = False) -> Loaded:
    """Loaded by transformers, answered by the engine of ours.

    quantized: whether `config.model` is a folder of weights that this very recipe has quantized (see `models.saved`).
    """
    device = models.resolve_device(config.engine.device)
    quant = config.quant
    recipe_checks.check(quant, config.model, Device(device.partition(":")[0]), models.compute_capability(device))
    capacity.check(config, device)
    expected = _expected(config, device)
    source, quantized = (config.model, True) if quantized else weights(config)
    meter = MemoryMeter(device)
    meter.reset()
    loaded = models.load(source, quant, config.engine.device, quantized=quantized)
    load_peak_mib = meter.peak().allocated_mib
    checked = check.check(loaded, config.model, config.quant, expected) if config.quant.check else None
    model, compile_s = ready(loaded, config)
    return Loaded(model, loaded.report, loaded.load_s, compile_s, load_peak_mib, check=checked)


def _expected(config: RunConfig, device: str) -> check.Tensor | None:
    """What the unquantized model predicts, gone again before the quantized one comes; None where it does not fit."""
    if not config.quant.check or config.quant.method is QuantMethod.none:
        return None
    try:
        capacity.check(replace(config, quant=BASELINE), device)
    except DoesNotFitError as error:
        log.warning("quant.check: no divergence from the baseline: %s", error)
        return None
    return check.expected(config.model, config.engine.device)


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
    """Loaded and answered by vLLM, whose compiling is part of its loading. What is predicted of weights that
    transformers would unpack is not held against it.
    """
    device = vllm.device_of(config.engine)
    if not quantization.dequantizes(config.quant, Device(device.partition(":")[0])):
        capacity.check(config, device)
    source, quantized = weights(config)
    loaded = vllm.load(source, config.quant, config.engine, device, quantized=quantized)
    model = VllmModel(loaded.llm, loaded.tokenizer, loaded.eos_token_id, device, loaded.context_length)
    return Loaded(model, loaded.report, loaded.load_s, compile_s=None, load_peak_mib=None, reserves=True)


LOADERS: dict[str, Callable[[RunConfig], Loaded]] = {"transformers": with_transformers, "vllm": with_vllm}
"""By `engine.name`: one for each of `offers.ENGINES`."""
