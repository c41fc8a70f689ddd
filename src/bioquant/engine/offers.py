"""Which engines there are, and what each has not: known before a file is read. Imports no torch."""

from dataclasses import replace
from importlib.util import find_spec

from bioquant import quantization
from bioquant.config import Dtype, EngineConfig, ModelConfig, QuantConfig, QuantMethod, RunConfig, WeightFormat
from bioquant.errors import ConfigError, QuantError, unknown
from bioquant.layer_bytes import BLOCK

ENGINES = ("transformers", "vllm")
"""Values of `engine.name`."""


def check(config: RunConfig) -> None:
    """Refuse a cell whose engine is not here or cannot quantize to its recipe. Raises ConfigError, QuantError."""
    if config.engine.name == "vllm" and config.quant.check:
        raise ConfigError("quant.check=true: engine 'vllm' gives no logits: leave it out, or set engine=transformers.")
    check_engine(config.engine)
    reason = unmet(config)
    if reason is not None:
        raise QuantError(reason)


def check_engine(engine: EngineConfig) -> None:
    """Whether the engine is known and installed. Found, not imported: that takes seconds. Raises ConfigError."""
    if engine.name not in ENGINES:
        raise ConfigError(unknown("engine.name", engine.name, ENGINES))
    if engine.name != "vllm":
        return
    if find_spec("vllm") is None:
        raise ConfigError("engine 'vllm' needs vllm, which is not installed: pip install 'bioquant[vllm]'")
    share = engine.gpu_memory_utilization
    if not 0 < share <= 1:
        raise ConfigError(f"engine.gpu_memory_utilization={share} is not allowed: give a number above 0, 1 at most.")


def unmet(config: RunConfig) -> str | None:
    """Why the engine cannot quantize to this recipe, to the letter, and what to choose; None where it can.

    Raises QuantError where a library is not installed.
    """
    if config.engine.name != "vllm" or config.quant.method is QuantMethod.none or is_stored(config.quant):
        return None
    reason = _not_vllms(config.model, config.quant)
    if reason is None:
        check_plugin(f"quant '{config.quant.name}'")
    return reason


def vllm_makes(quant: QuantConfig) -> bool:
    """Whether vLLM quantizes to this format: one it has to leave as it is counts too."""
    nf4 = quant.method is QuantMethod.bnb_4bit and quant.weight_format is WeightFormat.nf4
    return quant.method is QuantMethod.none or (nf4 and quant.double_quant) or is_stored(quant)


def is_stored(quant: QuantConfig) -> bool:
    """Whether vLLM finds the recipe's weights in the files it is given; GGUF files are not among those."""
    stored = quantization.is_published(quant) or quantization.calibrates(quant)
    return stored and quant.method is not QuantMethod.gguf


def _not_vllms(model: ModelConfig, quant: QuantConfig) -> str | None:
    """What of a recipe is other than what vLLM makes of an unquantized checkpoint (see `bioquant.models.vllm`)."""
    if not vllm_makes(quant):
        return (
            f"quant '{quant.name}' does not run with engine 'vllm', which quantizes to NF4 with double quantization "
            "only: choose quant=bnb_nf4_dq, quant=none (a checkpoint quantized beforehand stays as it is), or "
            "engine=transformers."
        )
    if quant.skip_modules != ["lm_head"]:
        return (
            f"quant '{quant.name}' with engine 'vllm': quant.skip_modules=[{','.join(quant.skip_modules)}] cannot be "
            "had, since vLLM quantizes all linear layers but lm_head: leave it out, or choose engine=transformers."
        )
    if quant.block_size not in (None, BLOCK):
        return (
            f"quant '{quant.name}' with engine 'vllm': quant.block_size={quant.block_size} cannot be had, since vLLM "
            f"quantizes in blocks of {BLOCK}: leave it out, or choose engine=transformers."
        )
    compute = quant.compute_dtype or model.dtype
    if compute is not Dtype.bfloat16 or model.dtype is Dtype.float32:
        return (
            f"quant '{quant.name}' with engine 'vllm' multiplies in bfloat16 in a model of 16 bits, not in {compute} "
            f"(model.dtype={model.dtype}): set model.dtype=bfloat16, or choose engine=transformers."
        )
    return None


def check_plugin(what: str) -> None:
    """Whether vLLM can do what needs bitsandbytes. Raises QuantError."""
    if find_spec("vllm_bnb_plugin") is None:
        raise QuantError(
            f"{what} with engine 'vllm' needs vllm-bnb-plugin, which is not installed: pip install 'bioquant[vllm]'"
        )


def what_is_loaded(engine: EngineConfig) -> EngineConfig:
    """Of an engine's settings those that decide what is loaded: cells that agree in them can share it."""
    unsaid = EngineConfig(name=engine.name)
    asked = ("batch", "batch_memory_gib", "batch_tokens", "audit", "scoring", "max_new_tokens")
    return replace(engine, **{field: getattr(unsaid, field) for field in asked})
