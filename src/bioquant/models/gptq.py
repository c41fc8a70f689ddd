"""GPTQ (Frantar et al. 2022, arXiv:2210.17323) by optimum and gptqmodel: calibrate a model, write it as a checkpoint.

What is written is what others publish (`quantization_config.quant_method` = gptq, format 1), and it is loaded as theirs
is. It is written from the layers as they were packed: a layer that has computed once on a CPU holds its weights in the
order of that kernel, and its file could not be read again; optimum would name format 2 and write format 1.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.quantizers.quantizers_utils import should_convert_module

from bioquant import models
from bioquant.config import CalibrationConfig, Device, ModelConfig, QuantConfig
from bioquant.errors import QuantError
from bioquant.models import LoadedModel
from bioquant.models.containing import contained
from bioquant.plan import BASELINE

log = logging.getLogger(__name__)

Sample = dict[str, torch.Tensor]


def quantize(model: ModelConfig, quant: QuantConfig, texts: Sequence[str], folder: Path) -> None:
    """Calibrate the unquantized model on these texts and write weights, configuration and tokenizer to the folder.

    The model is read into the CPU's memory; optimum computes a block after the other on a GPU where there is one.
    Raises QuantError for a model or a text that will not do, and what `models.load` raises.
    """
    loaded = models.load(model, BASELINE, Device.cpu)
    _check_rows(loaded, model, quant)
    data = samples(loaded.tokenizer, texts, model, quant)
    with models.quiet(), contained("gptqmodel"):
        try:
            packed = _packed(loaded, quant, data)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise models.load_error(model, quant, "cpu", [str(error)]) from error
        packed.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)


def samples(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], model: ModelConfig, quant: QuantConfig
) -> list[Sample]:
    """Windows of the texts' tokens, one after the other; each begins as a prompt does, with BOS where there is one.

    Raises QuantError where the text gives none; warns where it gives fewer than were asked for.
    """
    asked = quant.calibration
    if asked.num_tokens > model.context_length:
        raise QuantError(
            f"quant '{quant.name}': quant.calibration.num_tokens={asked.num_tokens} is more than the context of "
            f"model '{model.name}' holds ({model.context_length:,})."
        )
    found = list(islice(_windows(tokenizer, texts, asked), asked.num_samples))
    if not found:
        raise QuantError(
            f"quant '{quant.name}': its calibration text has less than quant.calibration.num_tokens="
            f"{asked.num_tokens} tokens: lower that, or give more text."
        )
    if len(found) < asked.num_samples:
        log.warning(
            "quant '%s': calibrated on %d windows of %d tokens, not on %d: the text has no more",
            *(quant.name, len(found), asked.num_tokens, asked.num_samples),
        )
    return found


def _windows(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], asked: CalibrationConfig) -> Iterator[Sample]:
    start, gap = tokenizer.encode(""), tokenizer.encode("\n\n", add_special_tokens=False)
    width, waiting = asked.num_tokens - len(start), list[int]()
    for text in texts:
        waiting += [*tokenizer.encode(text, add_special_tokens=False), *gap]
        while len(waiting) >= width:
            ids = torch.tensor([[*start, *waiting[:width]]])
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            del waiting[:width]


def _check_rows(loaded: LoadedModel, model: ModelConfig, quant: QuantConfig) -> None:
    assert quant.group_size is not None  # see `recipe_checks.check_recipe`
    for name, layer in _block(loaded).named_modules():
        if isinstance(layer, torch.nn.Linear) and layer.in_features % quant.group_size:
            raise QuantError(
                f"quant '{quant.name}': the rows of {name} in model '{model.name}' have {layer.in_features:,} weights, "
                f"no multiple of quant.group_size={quant.group_size}: choose a smaller one (64, 32, 16)."
            )


def _packed(loaded: LoadedModel, quant: QuantConfig, data: list[Sample]) -> Any:
    """The model with its layers as they are written, in format 1, and with its quantization_config."""
    os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"  # no compiler is run; `contained` takes it back
    optimum: Any = import_module("optimum.gptq")
    library: Any = import_module("gptqmodel.utils.model")

    class Packed(optimum.GPTQQuantizer):
        """Leaves the layers as they were packed: they are not made ready to compute."""

        def post_init_model(self, model: Any) -> Any:
            return model

    quantizer: Any = Packed(
        bits=quant.bits,
        dataset=data,
        group_size=quant.group_size,
        desc_act=quant.desc_act,
        act_group_aware=not quant.desc_act,
        modules_in_block_to_quantize=_modules(loaded, quant),
    )
    network = quantizer.quantize_model(loaded.model)
    network, _ = library.hf_convert_gptq_v2_to_v1_format(
        network, quantizer.sym, quantizer.bits, quantizer.quant_linear, quantizer.format, quantizer.meta
    )
    network.config.quantization_config = {**quantizer.to_dict(), "dataset": None, "format": "gptq"}
    return network


def _block(loaded: LoadedModel) -> torch.nn.Module:
    """The first decoder layer: all others are alike."""
    network: Any = loaded.model
    return network.get_decoder().layers[0]


def _modules(loaded: LoadedModel, quant: QuantConfig) -> list[list[str]] | None:
    """The layers of a block that are quantized, one after the other; None for all of them."""
    names = [name for name, layer in _block(loaded).named_modules() if isinstance(layer, torch.nn.Linear)]
    chosen = [name for name in names if should_convert_module(f"model.layers.0.{name}", quant.skip_modules)]
    return None if chosen == names else [[name] for name in chosen]
