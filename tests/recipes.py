"""The recipes by whether their library is installed with bioquant or is an extra."""

from bioquant import compose, quantization
from bioquant.config import QuantConfig

QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)


def is_extra(quant: QuantConfig) -> bool:
    return "[" in quantization.INSTALLS.get(quantization.library(quant) or "", "")


EXTRA = [name for name, quant in QUANTS.items() if is_extra(quant)]
BUILT_IN = [name for name in QUANTS if name not in EXTRA]
