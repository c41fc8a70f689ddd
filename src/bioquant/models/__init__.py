"""Load a checkpoint under a quantization recipe, and prove that the recipe took effect."""

import logging
import re
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from bioquant import checkpoints, published, quantization, recipe_checks
from bioquant.checkpoints import is_cached
from bioquant.config import Device, ModelConfig, ModelSource, QuantConfig, QuantMethod
from bioquant.errors import BioquantError, ModelError, OutOfMemoryError, QuantError
from bioquant.models import blocks, gguf, hqq, proof, random
from bioquant.models.containing import contained
from bioquant.models.native import drop_hub_kernel_warning
from bioquant.network import refuse_hub_code
from bioquant.records import QuantizationReport

__all__ = ["LoadedModel", "is_cached", "load", "prepare", "resolve_device", "tokenizer"]

log = logging.getLogger(__name__)

SETTLING = {
    QuantMethod.gptq: "gptqmodel",
    QuantMethod.awq: "gptqmodel",
    QuantMethod.compressed_tensors: "compressed_tensors",
}
"""Methods whose weights find their place in the first pass, and the package that does it: gptqmodel's kernels put
weights in another order, compressed-tensors unpacks them."""

Parts = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode and its tokenizer (padding on the left, a padding token set).

    device: "cpu" or "cuda:0". load_s: seconds to load and quantize; a download or a conversion is not counted.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str
    report: QuantizationReport
    load_s: float


def resolve_device(device: Device) -> str:
    """The torch device: "cpu" or "cuda:0". Raises QuantError where CUDA is asked for and not there."""
    if device is Device.cpu:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda:0"
    if device is Device.auto:
        return "cpu"
    raise QuantError("engine.device=cuda: torch sees no CUDA GPU here: set engine.device=cpu or auto.")


def compute_capability(place: str) -> float | None:
    """Of a torch CUDA device, as NVIDIA counts (8.9); None on a CPU."""
    return float("{}.{}".format(*torch.cuda.get_device_capability(place))) if place.startswith("cuda") else None


def load(model: ModelConfig, quant: QuantConfig, device: Device, *, quantized: bool = False) -> LoadedModel:
    """Fetch, load, quantize and check a model.

    quantized: the checkpoint holds weights that this recipe has already quantized (see `loading.weights`).
    Raises ModelError (absent, gated, damaged checkpoint), QuantError (a recipe that cannot run here or cannot quantize
    this model), OutOfMemoryError, and QuantNotAppliedError (a recipe that left the model as it was).
    """
    refuse_hub_code()
    place = resolve_device(device)
    kind = Device(place.partition(":")[0])
    recipe_checks.check(quant, model, kind, compute_capability(place))
    # Quanto's int4 weights fail in a forward pass under inference_mode unless they were made under it.
    with quiet() as said, torch.inference_mode(quant.method is QuantMethod.quanto):
        folder = prepare(model)
        if folder is not None:
            published.check(model, quant, folder, quantized=quantized)
        started = time.perf_counter()
        arguments = _loader_arguments(model, quant, place, None if quantized else loader_config(quant, model))
        try:
            with _around(quant.method, place):
                network, tokenizer = _parts(model, quant, folder, kind, arguments)
        except RuntimeError as error:
            raise load_error(model, quant, place, [str(error), *said]) from error
        load_s = time.perf_counter() - started
    _check_dtypes(network, getattr(torch, quantization.as_loaded(model, quant).dtype))
    return LoadedModel(
        model=network.eval(),
        tokenizer=tokenizer,
        device=place,
        report=_report(network, model, quant, place),
        load_s=load_s,
    )


def _around(method: QuantMethod, place: str) -> AbstractContextManager[None]:
    """What a method's library needs around it while it loads."""
    if method is QuantMethod.hqq:
        return hqq.unfragmented(place)
    return contained(SETTLING[method]) if method in SETTLING else nullcontext()


def _parts(
    model: ModelConfig, quant: QuantConfig, folder: Path | None, device: Device, arguments: dict[str, Any]
) -> Parts:
    if folder is None:
        return _draw(model, arguments)
    network, tokenizer = _read(model, folder, arguments | _config(model, quant, folder, device))
    if quant.method in SETTLING:
        _settle(network.eval())
    return network, tokenizer


def _config(model: ModelConfig, quant: QuantConfig, folder: Path, device: Device) -> dict[str, Any]:
    """The checkpoint's own configuration, where something has to be added to it; else nothing."""
    options = quantization.loading_options(quant, device)
    if not options:
        return {}
    config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    config.quantization_config = {**(checkpoints.stored_quantization(model, folder) or {}), **options}
    return {"config": config}


@torch.no_grad()
def _settle(network: PreTrainedModel) -> None:
    """A first pass: what stands in memory after it, and what is said of that, is as it will be."""
    network(input_ids=torch.zeros((1, 1), dtype=torch.long, device=network.device))


def _report(network: PreTrainedModel, model: ModelConfig, quant: QuantConfig, place: str) -> QuantizationReport:
    """The proof, and a word in the log where quantized weights were unpacked."""
    found = proof.report(network, quant, getattr(torch, model.dtype), place)
    if model.source in (ModelSource.gguf, ModelSource.wheel):
        found = replace(found, dequantized_from="gguf")
    if found.dequantized_from is not None:
        log.info(
            "model '%s', quant '%s': the weights were quantized (%s) and are dequantized to %s: the answers are those "
            "of the quantized checkpoint, memory and speed are not",
            *(model.name, quant.name, found.dequantized_from, model.dtype),
        )
    return found


def tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer alone. Raises ModelError."""
    with quiet():
        folder = prepare(model)
        return _tokenizer(model, folder)


def prepare(model: ModelConfig) -> Path | None:
    """A folder of safetensors on this machine, fetched or converted; None for random weights. Raises ModelError."""
    match model.source:
        case ModelSource.hub:
            return checkpoints.fetch_hub(model)
        case ModelSource.local:
            return checkpoints.local_folder(model)
        case ModelSource.gguf | ModelSource.wheel:
            return gguf.converted(model)
        case ModelSource.random:
            return None
        case _:
            assert_never(model.source)


def loader_config(quant: QuantConfig, model: ModelConfig) -> object | None:
    """The `quantization_config` of from_pretrained. Raises QuantError (an override that names no layer), ModelError."""
    layers = _linear_layers(model) if quant.overrides else []
    recipe_checks.check_overrides(quant, layers)
    if quant.method is QuantMethod.hqq:
        return hqq.loader_config(quant)
    config = quantization.loader_config(quant, model, layers)
    own_blocks = quant.method is QuantMethod.bnb_4bit and quant.block_size is not None
    return blocks.loader_config(config, quant) if own_blocks else config


def _linear_layers(model: ModelConfig) -> list[str]:
    """By name, of the architecture that `conf/model` states, else of the checkpoint's. Raises ModelError."""
    fields = model.architecture or checkpoints.configuration(model)
    network = random.empty(random.shape(replace(model, architecture=fields)))
    return [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]


def _loader_arguments(model: ModelConfig, quant: QuantConfig, place: str, config: object | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, quantization.as_loaded(model, quant).dtype),
        "device_map": {"": place},
        "output_loading_info": True,
    }
    return arguments if config is None else {**arguments, "quantization_config": config}


def _draw(model: ModelConfig, arguments: dict[str, Any]) -> Parts:
    """Random weights, through the same loader as a real checkpoint."""
    config = random.architecture(model)
    drawn = random.weights(config, getattr(torch, model.dtype), arguments["device_map"][""])
    network, info = random.network_class(config).from_pretrained(None, config=config, state_dict=drawn, **arguments)
    _check_complete(model, info)
    return network, _tokenizer(model, None)


def _read(model: ModelConfig, folder: Path, arguments: dict[str, Any]) -> Parts:
    """A folder of safetensors."""
    remote_code = model.trust_remote_code
    loader: Any = AutoModelForCausalLM
    with _unreadable(model, folder):
        network, info = loader.from_pretrained(folder, use_safetensors=True, trust_remote_code=remote_code, **arguments)
    _check_complete(model, info)
    return network, _tokenizer(model, folder)


def _tokenizer(model: ModelConfig, folder: Path | None) -> PreTrainedTokenizerBase:
    tokenizer = random.tokenizer() if folder is None else _read_tokenizer(model, folder)
    if not model.chat_template:
        tokenizer.chat_template = None
    return tokenizer


def _read_tokenizer(model: ModelConfig, folder: Path) -> PreTrainedTokenizerBase:
    with _unreadable(model, folder):
        remote_code = model.trust_remote_code
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _unreadable(model: ModelConfig, folder: Path) -> Generator[None]:
    """What transformers says of a damaged folder, as a ModelError: it reads its JSON without checking its form."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"model '{model.name}': {folder} cannot be loaded: {' '.join(str(error).split())}") from error


def load_error(model: ModelConfig, quant: QuantConfig, place: str, said: list[str]) -> BioquantError:
    """What stopped the loader. Where a quantization failed, transformers puts the cause in its log alone."""
    text = "\n".join(said)
    if "out of memory" in text or "allocate memory" in text:
        return OutOfMemoryError(
            f"model '{model.name}' with quant '{quant.name}' does not fit on {place}: choose a smaller model, "
            "or a quant of fewer bits."
        )
    causes = re.findall(r"^[\w.]*(?:Error|Exception): .+$", text, flags=re.MULTILINE) or [" ".join(said[0].split())]
    if quant.method is QuantMethod.none:
        return ModelError(f"model '{model.name}' cannot be loaded: {causes[0]}")
    return QuantError(
        f"quant '{quant.name}' cannot be applied to model '{model.name}' ({causes[0]}): "
        "choose another recipe, or add the module to quant.skip_modules."
    )


def _check_complete(model: ModelConfig, info: dict[str, Any]) -> None:
    """Weights that a checkpoint lacks get random values from transformers, which only logs it."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model '{model.name}': the checkpoint lacks {len(missing)} weights of its architecture ({missing[0]}, …): "
            "it is incomplete, or is no text-generating model."
        )


def _check_dtypes(network: PreTrainedModel, dtype: torch.dtype) -> None:
    """Some architectures keep a few weights in float32 by design; no other change of dtype is expected. A checkpoint's
    own 8-bit floats are weights that a recipe has quantized.
    """
    for name, parameter in network.named_parameters():
        if type(parameter) is torch.nn.Parameter and parameter.is_floating_point() and parameter.itemsize > 1:
            assert parameter.dtype in (dtype, torch.float32), f"{name} is {parameter.dtype}, not {dtype}"


@contextmanager
def quiet() -> Generator[list[str]]:
    """No progress bars and no loading reports on the terminal; what was reported is in the list that is given.

    bitsandbytes warns once a layer and forward pass that LLM.int8() rounds its inputs to float16, which is how that
    method works, and on a CPU that a kernel could be fetched from the hub. These two are dropped for good, no other.
    """
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_the_int8_cast)
    drop_hub_kernel_warning()
    said: list[str] = []
    reports = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    reports.addFilter(keep)
    try:
        yield said
    finally:
        reports.removeFilter(keep)
        if bars:
            transformers_logging.enable_progress_bar()


def _not_the_int8_cast(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")
