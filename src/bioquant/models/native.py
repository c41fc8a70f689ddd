"""Whether a library's own kernels work here: a broken one would show only once a checkpoint is loaded."""

import logging

WORST_ERROR = 0.2
"""Of a weight in [-1, 1] after nf4 and back: half its widest step is 0.15."""


def bitsandbytes_problem(device: str) -> str | None:
    """What goes wrong when bitsandbytes quantizes 4,096 weights on the device; None where nothing does."""
    import torch

    drop_hub_kernel_warning()
    try:
        from bitsandbytes import functional

        weights = torch.linspace(-1, 1, 4096, device=device)
        packed, state = functional.quantize_4bit(weights, quant_type="nf4")
        worst = float((functional.dequantize_4bit(packed, state) - weights).abs().max())
    except (ImportError, OSError, RuntimeError) as error:  # the native library, or a kernel of it, is not there
        return " ".join(str(error).split())[:200]
    return None if worst < WORST_ERROR else f"nf4 and back changes a weight of 1.0 by up to {worst:.2f}"


def drop_hub_kernel_warning() -> None:
    """Bitsandbytes warns on a CPU that a kernel could be fetched from the hub, which we forbid: no word of it."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_not_the_hub_kernel)


def _not_the_hub_kernel(record: logging.LogRecord) -> bool:
    return "from kernels-community" not in str(record.msg)
