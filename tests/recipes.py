"""The recipes by where their weights are quantized, and by whether their library is an extra."""

from bioquant import compose, quantization
from bioquant.config import Device, QuantConfig

QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)


def is_extra(quant: QuantConfig) -> bool:
    return "[" in quantization.INSTALLS.get(quantization.library(quant) or "", "")


def on_cpu(quant: QuantConfig) -> bool:
    return Device.cpu in quant.requires.devices


PUBLISHED = [name for name, quant in QUANTS.items() if quantization.is_published(quant)]
CALIBRATED = [name for name, quant in QUANTS.items() if quantization.calibrates(quant)]
IN_FLIGHT = [name for name in QUANTS if name not in PUBLISHED + CALIBRATED]
EXTRA = [name for name in IN_FLIGHT if is_extra(QUANTS[name])]
EXTRA_ON_CPU = [name for name in EXTRA if on_cpu(QUANTS[name])]
BUILT_IN = [name for name in IN_FLIGHT if name not in EXTRA]
