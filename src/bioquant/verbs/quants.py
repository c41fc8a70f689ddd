"""`bioquant quants`: what can be chosen as `quant=`, and what of it works on this machine."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bioquant import compose, hardware, layer_bytes, quantization, recipe_checks, tables
from bioquant.config import Device, QuantConfig, QuantMethod
from bioquant.engine import offers
from bioquant.hardware import Gpu

WIDTH = 80

HEADINGS = ("quant", "weights", "bits", "needs", "runs on", "saved", "vllm", "here")

LEGEND = """own: the model's dtype
*: of a published checkpoint, which model.calibrated names for the recipe
bits: of a weight with its quantization state, in a layer of 4096 x 4096; 16
  where transformers unpacks a checkpoint: its quality, not its memory and speed
saved: registry.save_weights=true stores the quantized weights; bioquant serve
  answers with any recipe, which it applies when it loads the model
vllm: engine=vllm quantizes to it, or takes it as it is published
here: the devices of this machine that it runs on"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A recipe, and how it stands on this machine.

    bits_per_weight: with quantization state; None for what is left in the model's dtype.
    calibrated: it loads a published checkpoint. unpacked: whose weights get their full size again wherever it runs.
    keeps: modules it leaves alone, beside embeddings and norms. unsavable: why its weights cannot be stored.
    here: this machine's devices that it runs on; missing: why it does not run on the others, or at all.
    """

    quant: str
    method: str
    weight_format: str
    bits_per_weight: float | None
    devices: list[str]
    compute_capability: float | None
    calibrated: bool
    unpacked: bool
    library: str | None
    keeps: list[str]
    unsavable: str | None
    vllm: bool
    here: list[str]
    missing: str | None


def main(arguments: Sequence[str]) -> None:
    """List the recipes."""
    parser = argparse.ArgumentParser(prog="bioquant quants", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    recipes: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
    gpus = hardware.visible_gpus()
    found = sorted((standing(quant, gpus) for quant in recipes.values()), key=order)
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        show(found)


def standing(quant: QuantConfig, gpus: Sequence[Gpu]) -> Standing:
    """What a recipe is, and whether it runs on the CPU and on these GPUs."""
    here, missing = runs(quant, gpus)
    plain = quant.method is QuantMethod.none
    return Standing(
        quant=quant.name,
        method=str(quant.method),
        weight_format=str(quant.weight_format),
        bits_per_weight=None if plain else layer_bytes.bits_per_weight(quant),
        devices=[str(device) for device in quant.requires.devices],
        compute_capability=quant.requires.compute_capability,
        calibrated=quant.requires.calibrated,
        unpacked=all(quantization.dequantizes(quant, device) for device in quant.requires.devices),
        library=quantization.library(quant),
        keeps=[] if plain or quantization.is_published(quant) else quant.skip_modules,
        unsavable=quantization.unsavable(quant),
        vllm=offers.vllm_makes(quant),
        here=here,
        missing=missing,
    )


def order(one: Standing) -> tuple[bool, str, float]:
    """The baseline first; by library, the most bits first."""
    return one.quant != "none", one.library or "", -(one.bits_per_weight or 0)


def runs(quant: QuantConfig, gpus: Sequence[Gpu]) -> tuple[list[str], str | None]:
    """The kinds of device here that it runs on, and what stands in its way on the others that it is made for."""
    lacking = quantization.lacking_library(quant)
    if lacking is not None:
        return [], lacking
    there = [Device.cpu, Device.cuda] if gpus else [Device.cpu]
    places = [place for place in there if place in quant.requires.devices] or there
    reasons = {
        place: recipe_checks.unmet_by_device(quant, place, hardware.capability_of(place, gpus)) for place in places
    }
    here = [str(place) for place, reason in reasons.items() if reason is None]
    return here, next((reason for reason in reasons.values() if reason is not None), None)


def show(found: Sequence[Standing]) -> None:
    """The table, what is left alone, and why something does not run."""
    tables.show(HEADINGS, [line(one) for one in found], as_json=False)
    print(LEGEND)
    print(f"left alone: embeddings, norms, {', '.join(sorted({name for one in found for name in one.keeps}))}")
    reasons = {one.library or one.quant: one.missing for one in reversed(found) if one.missing is not None}
    for reason in reversed(reasons.values()):
        print(textwrap.fill(reason, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def line(one: Standing) -> list[str]:
    """One recipe's row."""
    devices = [device if device == "cpu" else cuda(one.compute_capability) for device in one.devices]
    return [
        one.quant,
        weights(one),
        "-" if one.bits_per_weight is None else f"{one.bits_per_weight:.2f}",
        (one.library or "-").replace("d-t", "d-\nt"),
        " ".join(devices),
        "no" if one.unsavable else "yes",
        "yes" if one.vllm else "no",
        " ".join(one.here) or "no",
    ]


def weights(one: Standing) -> str:
    """How they are stored, and whether in a published checkpoint."""
    form = "own" if one.weight_format == "none" else one.weight_format
    return f"{form}*" if one.calibrated else form


def cuda(capability: float | None) -> str:
    """`cuda`, with the least compute capability where there is one."""
    return "cuda" if capability is None else f"cuda {capability}"
