"""Plan → load: a quantized model behind the engine that was asked for, with the proof that it is one."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bioquant import capacity, models, quantization
from bioquant.config import RunConfig
from bioquant.engine import LanguageModel, offers
from bioquant.engine.transformers import TransformersModel
from bioquant.engine.vllm import VllmModel
from bioquant.measure.memory import MemoryMeter, MemoryPeak
from bioquant.models import vllm
from bioquant.records import QuantizationReport


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
    meter = MemoryMeter(device)
    meter.reset()
    capacity.check(config, device)
    loaded = models.load(config.model, config.quant, config.engine.device, quantized=quantized)
    model, compile_s = ready(loaded, config)
    return Loaded(model, loaded.report, loaded.load_s, compile_s, meter.peak().allocated_mib)


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
