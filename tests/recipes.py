"""The recipes by whether their library is installed with bioquant or is an extra."""

from bioquant import compose, quantization
from bioquant.config import Device, QuantConfig

QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)


def is_extra(quant: QuantConfig) -> bool:
    return "[" in quantization.INSTALLS.get(quantization.library(quant) or "", "")


def on_cpu(quant: QuantConfig) -> bool:
    return Device.cpu in quant.requires.devices


EXTRA = [name for name, quant in QUANTS.items() if is_extra(quant)]
EXTRA_ON_CPU = [name for name in EXTRA if on_cpu(QUANTS[name])]
BUILT_IN = [name for name in QUANTS if name not in EXTRA]
