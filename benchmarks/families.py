"""Every recipe on a real shape of each architecture: `python benchmarks/families.py`. Needs a GPU and the extras.

    python benchmarks/families.py --models gemma_2_9b phi_4 --quants bnb_nf4 hqq_int3
    python benchmarks/families.py --models medgemma_27b --quants gptq_int4 --layers 2    # real widths, two layers
    python benchmarks/families.py --device cpu --models tiny_random --quants bnb_nf4 --group 64  # a dry test of it

Random weights, loaded as a run loads them, with its health check; recipes of published checkpoints get one that is
written here, rounded to the nearest. For each: the weights, and how many bytes they are apart from the prediction; the
divergence from the unquantized model; the device's peak with 16 rows as in `memory.py`, predicted and measured.
"""

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from memory import GIB, LARGE, measured
from safetensors.torch import save_file
from sweep import versions
from zoo import CALIBRATION

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import quantized_checkpoints
from bioquant import compose, loading, memory
from bioquant.compose import compose_one
from bioquant.config import ModelConfig, QuantConfig, RunConfig
from bioquant.engine import LanguageModel
from bioquant.engine.transformers import TransformersModel
from bioquant.errors import BioquantError
from bioquant.models import random

SHAPES = ["llama_3_2_3b", "qwen2_5_3b", "qwen3_8b", "gemma_2_9b", "mistral_7b", "phi_4", "medgemma_27b"]
"""One of each architecture in `conf/model`."""
NOT_HERE = ("gguf", "gptq_int4")
"""The first is unpacked to what `none` is; the second takes minutes, and is asked for by name."""
QUANTS = [name for name in sorted(compose.options("quant", QuantConfig)) if name not in NOT_HERE]
SHARD = 4 * GIB
OTHER_DTYPE = {"awq": "float16", "bf16": "float16"}
"""A recipe's model.dtype, where that is not the model's own."""
HEADINGS = "model | quant | weights GiB | bytes apart | load s | KL | s | device GiB | predicted | error"


def composed(name: str, quant: str, folder: Path, options: argparse.Namespace) -> RunConfig:
    """What a user would ask of `bioquant run`."""
    layers = [f"model.architecture.num_hidden_layers={options.layers}"] if options.layers else []
    dtype = [f"model.dtype={OTHER_DTYPE[quant]}"] if quant in OTHER_DTYPE else []
    published = [f"++model.calibrated.{one}={folder / one}" for one in quantized_checkpoints.formats(options.group)]
    grouped = [f"quant.group_size={options.group}"] if quant in ("gptq", "awq", "gptq_int4") else []
    asked = [f"model={name}", "model.source=random", f"quant={quant}", "quant.check=true", "task=demo_qa"]
    return compose_one([*asked, f"engine.device={options.device}", *CALIBRATION, *layers, *dtype, *published, *grouped])


def write(model: ModelConfig, name: str, folder: Path, options: argparse.Namespace) -> None:
    """The model's random weights in a published format, in shards, each drawn and quantized on the device."""
    quantize, quantization_config = quantized_checkpoints.formats(options.group)[name]
    config = random.architecture(model)
    config.architectures, config.dtype = [random.network_class(config).__name__], getattr(torch, model.dtype)
    config.save_pretrained(folder)
    quantized_checkpoints.configure(folder, quantization_config=quantization_config)
    random.tokenizer().save_pretrained(folder)
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    for key, drawn in random.weights(config, config.dtype, options.device).items():
        weight = drawn[...]
        if key.endswith("_proj.weight"):
            parts, _ = quantize(weight.float())
            shard |= {key.removesuffix("weight") + suffix: part.contiguous().cpu() for suffix, part in parts.items()}
        else:
            shard[key] = weight.cpu()
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            places |= flush(shard, folder, len(set(places.values())))
    places |= flush(shard, folder, len(set(places.values())))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def flush(shard: dict[str, torch.Tensor], folder: Path, number: int) -> dict[str, str]:
    """Where each of these tensors now is; the shard is empty."""
    file = f"model-{number:05}.safetensors"
    save_file(shard, folder / file, metadata={"format": "pt"})
    places = dict.fromkeys(shard, file)
    shard.clear()
    return places


def row(config: RunConfig) -> list[str]:
    """Load it, read the check's text, answer 16 prompts."""
    loaded = loading.load(config)
    expected = memory.predict(config.model, config.quant, LARGE, config.engine.device)
    apart = loaded.report.bytes_after - expected.weights
    kl = None if loaded.check is None else loaded.check.kl
    found = [
        f"{loaded.report.bytes_after / GIB:.2f}",
        f"{apart:+,}" if apart else "0",
        f"{loaded.load_s:.1f}",
        "-" if kl is None else f"{kl:.4f}",
    ]
    return [*found, *peaks(loaded.model, expected.peak_device)]


def peaks(engine: LanguageModel, predicted: float) -> list[str]:
    """Of 16 answers: seconds, the device's peak, what was predicted, and the error."""
    if not engine.device.startswith("cuda"):
        return ["-"] * 4
    assert isinstance(engine, TransformersModel)
    started = time.perf_counter()
    _, device = measured(engine, LARGE)
    seconds = time.perf_counter() - started
    assert device is not None
    return [f"{seconds:.1f}", f"{device / GIB:.2f}", f"{predicted / GIB:.2f}", f"{predicted / device - 1:+.1%}"]


def line(name: str, quant: str, folder: Path, options: argparse.Namespace) -> str:
    """The table's row; what stopped it, where something did."""
    config = composed(name, quant, folder, options)
    try:
        if config.quant.requires.calibrated:
            write(config.model, quant, folder / quant, options)
        return f"| {' | '.join((name, quant, *row(config)))} |"
    except BioquantError as error:
        return f"| {name} | {quant} | {error} |"
    finally:
        shutil.rmtree(folder / quant, ignore_errors=True)


def lines(options: argparse.Namespace) -> Iterator[str]:
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            for quant in options.quants:
                yield line(name, quant, Path(folder), options)
                gc.collect()
                torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", nargs="+", default=SHAPES, help="whose shapes")
    parser.add_argument("--quants", nargs="+", default=QUANTS)
    parser.add_argument("--layers", type=int, help="in place of the model's own number")
    parser.add_argument("--group", type=int, default=128, help="weights that share a scale in GPTQ, AWQ and fp8")
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{where}; {versions()}\n| {HEADINGS} |\n|{'---|' * len(HEADINGS.split('|'))}", flush=True)
    for found in lines(options):
        print(found, flush=True)


if __name__ == "__main__":
    main()
