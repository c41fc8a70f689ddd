"""`quant.check=true`: is the quantized model still one that predicts text? Asked before an hour is spent on it.

Perplexity on a fixed text, and the Kullback-Leibler divergence of the next-token distribution from the unquantized
model's. That model's distribution is computed once and kept on disk.
"""

import gc
import hashlib
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import kl_div, nll_loss

from bioquant import models
from bioquant.config import Device, ModelConfig, QuantConfig, QuantMethod
from bioquant.errors import BrokenQuantError
from bioquant.models import LoadedModel, proof
from bioquant.places import cache_dir
from bioquant.plan import BASELINE, versions
from bioquant.records import QuantCheck

log = logging.getLogger(__name__)

TEXT = """Heart failure with reduced ejection fraction is treated with drugs that lower the load on the heart and slow \
its remodelling. In a cohort of 412 adults who had been admitted with dyspnoea and peripheral oedema, an \
angiotensin converting enzyme inhibitor was started within 48 hours, and a beta blocker was added once the \
patient was free of congestion. After twelve months, 61 patients had died and 97 had been admitted again. \
The risk of death was lower in those who reached the target dose of the beta blocker (hazard ratio 0.64, 95% \
confidence interval 0.45 to 0.91), and this did not change after adjustment for age, sex, renal function and \
atrial fibrillation. Serum potassium rose above 5.5 mmol/L in 23 patients, most of whom also took \
spironolactone. Two of them needed dialysis. A dry cough was the most common reason to stop the inhibitor; \
it went away within four weeks in all but one patient after a change to losartan.
The gene product binds to a receptor on the surface of cardiac myocytes and raises the concentration of cyclic \
AMP. Carriers of a missense mutation in this gene have a smaller response to the drug, which may explain part of \
the variation between patients. Whether the dose should depend on the genotype is not known, since no randomized \
trial has compared the two strategies. Diabetes mellitus, chronic kidney disease and anaemia were frequent, and \
each of them worsened the outcome. We conclude that the dose reached within the first year matters more than the \
choice of the drug, and that potassium and creatinine should be measured one week after every change."""
"""Our own words: the figures are invented."""

MOST_TOKENS = 512
"""Of the text, so that the distribution over 128,000 tokens stays below 256 MiB."""

NOISE = 10.0
"""Times the unquantized model's perplexity from which on a warning is due: 4-bit recipes stay below 2."""


UNPACKED = 1.1
"""Times the loaded bytes from which on a model has unpacked its weights: bitsandbytes, which packs 4-bit layers anew on
CPUs with AVX512-BF16, adds 1 % to double-quantized ones."""


def expected(model: ModelConfig, device: Device) -> Tensor:
    """The unquantized model's log-probabilities, (tokens, vocabulary), float32 on the CPU: from disk, else computed.

    Nothing of the model is left on the device. Raises as `models.load`.
    """
    path = _kept_at(model, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            _compute(model, device, path)
    return load_file(path)["log_probabilities"]


def _compute(model: ModelConfig, device: Device, path: Path) -> None:
    """There as a whole or not at all."""
    loaded = models.load(model, BASELINE, device)
    found, _ = _read(loaded, model, BASELINE)
    del loaded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    partial = path.with_suffix(".partial")
    save_file({"log_probabilities": found}, partial)
    partial.rename(path)


def check(loaded: LoadedModel, model: ModelConfig, quant: QuantConfig, baseline: Tensor | None = None) -> QuantCheck:
    """Read the text with the model, beside the baseline's distribution where that is known.

    Raises BrokenQuantError where the logits are not finite, or the weights grow as soon as they are used. Warns where
    the perplexity says that the model has lost its language.
    """
    found, ids = _read(loaded, model, quant)
    after = proof.report(loaded.model, quant, getattr(torch, model.dtype), loaded.device).bytes_after
    if after > UNPACKED * loaded.report.bytes_after:
        raise BrokenQuantError(
            f"quant '{quant.name}' of model '{model.name}' unpacks its weights when they are used: "
            f"{loaded.report.bytes_after:,} bytes have become {after:,}. Choose another recipe."
        )
    known = baseline is not None
    result = QuantCheck(
        num_tokens=len(ids) - 1,
        perplexity=perplexity(found, ids),
        baseline_perplexity=perplexity(baseline, ids) if known else None,
        kl=divergence(baseline, found) if known else None,
    )
    _warn(result, model, quant)
    return result


def perplexity(log_probabilities: Tensor, ids: Tensor) -> float:
    """Exp of the mean negative log-likelihood of each token after the first; inf where that is beyond a float."""
    mean = nll_loss(log_probabilities[:-1], ids[1:]).item()
    return math.exp(mean) if mean < 700 else math.inf


def divergence(baseline: Tensor, candidate: Tensor) -> float:
    """Mean over the tokens of KL(baseline || candidate) = sum p (log p - log q), in nats; rounding below 0 is cut."""
    return max(0.0, kl_div(candidate, baseline, reduction="batchmean", log_target=True).item())


@torch.inference_mode()
def _read(loaded: LoadedModel, model: ModelConfig, quant: QuantConfig) -> tuple[Tensor, Tensor]:
    """Log-probabilities after each token of the text, and the tokens: one pass, no chat template."""
    ids = torch.tensor(loaded.tokenizer.encode(TEXT)[: min(MOST_TOKENS, model.context_length)])
    logits = loaded.model(input_ids=ids[None].to(loaded.device)).logits[0]
    if not bool(logits.isfinite().all()):
        raise BrokenQuantError(
            f"quant '{quant.name}' of model '{model.name}' gives logits that are not finite on {loaded.device} in "
            f"{model.dtype}: {_instead(quant)}."
        )
    return logits.float().cpu().log_softmax(-1), ids


def _instead(quant: QuantConfig) -> str:
    if quant.method is QuantMethod.none:
        return "set another model.dtype (float16 overflows where bfloat16 does not)"
    return "choose another recipe, or another model.dtype"


def _warn(found: QuantCheck, model: ModelConfig, quant: QuantConfig) -> None:
    if found.baseline_perplexity is not None and found.perplexity > NOISE * found.baseline_perplexity:
        log.warning(
            "quant '%s' of model '%s': perplexity %.4g, unquantized %.4g: it has lost its language",
            *(quant.name, model.name, found.perplexity, found.baseline_perplexity),
        )


def _kept_at(model: ModelConfig, device: Device) -> Path:
    """By all that decides the distribution: the files, the dtype, the text, the device, the libraries."""
    folder, place = models.prepare(model), models.resolve_device(device)
    files = [] if folder is None else [path for path in sorted(folder.iterdir()) if path.is_file()]
    decides = {
        "model": asdict(model),
        "files": [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files],
        "text": [TEXT, MOST_TOKENS],
        "device": torch.cuda.get_device_name(place) if place.startswith("cuda") else place,
        "versions": versions(),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    return cache_dir() / "checks" / f"{model.name}-{digest[:16]}.safetensors"
