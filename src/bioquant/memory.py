"""Memory predicted before anything is loaded: weights to the byte, keys and values, and the workspace of a pass.

The architecture is built on torch's meta device, where a tensor has a shape and no memory. Every term is a function of
its own whose docstring is its formula. The weights dominate and are exact; the workspace is an upper bound on what is
alive at once inside one decoder layer, which is what remains while layer after layer is computed without gradients.

Symbols: T tokens of a pass, R rows, P shared tokens, W width of a row, b bytes of the model's dtype; h, i, H, K, d, V:
hidden size, intermediate size, heads, key-value heads, head dimension, vocabulary.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from transformers import PreTrainedModel

from bioquant import checkpoints, quantization
from bioquant.config import Device, Dtype, ModelConfig, QuantConfig, QuantMethod, WeightFormat
from bioquant.layer_bytes import FLOAT32, LinearLayer, quantized_bytes, workspace_bytes
from bioquant.models import random
from bioquant.records import MemoryPrediction

MIB = 2**20

CUDA_CONTEXT = 1229 * MIB
"""What the driver, CUDA's context and the libraries' kernels take of a GPU beside torch's allocator: measured 1.19 to
1.35 GiB with batches of one prompt (`benchmarks/memory.py`; one H100, driver 580, CUDA 13.0)."""

CUBLAS = 72 * MIB
"""cuBLAS's workspaces, which torch's allocator holds: measured 0.04 to 0.11 GiB as the rest of small batches."""

UNUSED_SHARE = 0.5
"""Of the workspace, what the allocator holds beside it, in fragments and in the graphs' pool: measured 0.2 to 0.9."""

PROCESS = 700 * MIB
"""Resident memory of a process that has run a cell on a CPU, without its model: measured 650 to 690 MiB (Linux)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """What of an architecture decides its memory. Each is made once, so that it can stand for itself in a cache's key.

    unquantized: bytes of all parameters in the model's dtype, tied ones once, and of all buffers. linears: by name.
    fused: gate and up projection are one layer. softcap: attention scores are capped, which no fused kernel does.
    """

    unquantized: int
    itemsize: int
    linears: Mapping[str, LinearLayer]
    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    fused: bool
    softcap: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """What rides together, in tokens.

    rows: samples that decode at once. shared: tokens that all prompts begin with, held once. prompt: of the longest
    prompt beyond those. width: places that each row has for its own tokens, prompt and answer. prefill_tokens: of
    prompts that are read in one pass at most; a longer prompt is read in one pass all the same.
    """

    rows: int
    shared: int
    prompt: int
    width: int
    prefill_tokens: int

    @property
    def pass_tokens(self) -> int:
        """Tokens of the largest pass that reads prompts."""
        return max(self.shared, self.prompt, min(self.prefill_tokens, self.rows * self.prompt))


def predict(model: ModelConfig, quant: QuantConfig, batch: BatchShape, device: Device) -> MemoryPrediction:
    """What a model takes under a recipe while it answers such batches on a device (cpu or cuda).

    Raises ModelError where nothing here knows the architecture.
    """
    return predict_shape(anatomy(quantization.as_loaded(model, quant)), quant, batch, device)


def predict_shape(shape: Anatomy, quant: QuantConfig, batch: BatchShape, device: Device) -> MemoryPrediction:
    """`predict` for an architecture that is known already, in the dtype in which it is loaded. Pure."""
    held, kept = weights(shape, quant, device), kv(shape, batch)
    work = max(reading(shape, quant, batch), stepping(shape, quant, batch))
    on_cpu = device is Device.cpu
    allocated = held + kept + work + (base(device) if on_cpu else CUBLAS)
    return MemoryPrediction(
        weights=held,
        kv_bytes_per_token=kv_bytes_per_token(shape),
        kv=kept,
        workspace=work,
        peak_allocated=allocated,
        peak_device=allocated if on_cpu else allocated + base(device) + int(UNUSED_SHARE * work),
    )


def base(device: Device) -> int:
    """What is taken before there is a model."""
    return PROCESS if device is Device.cpu else CUDA_CONTEXT


# The weights, which are exact


def weights(shape: Anatomy, quant: QuantConfig, device: Device) -> int:
    """All that stands in the model once it is loaded: what the recipe leaves alone, and what it makes of the rest.

    device: some libraries keep other things on a CPU than on CUDA, and some unpack the weights there.
    """
    saved = (
        count * (layer.size * shape.itemsize - quantized_bytes(layer, quant, weight_format, shape.itemsize, device))
        for (layer, weight_format), count in quantized_layers(shape, quant).items()
    )
    return shape.unquantized - sum(saved)


def quantized_layers(shape: Anatomy, quant: QuantConfig) -> Mapping[tuple[LinearLayer, WeightFormat], int]:
    """How many linear layers of each size have their weight replaced, by what becomes of it: not one that is tied,
    which the loader ties to the unquantized embedding again.
    """
    if quant.method in (QuantMethod.none, QuantMethod.cast):
        return {}
    return _by_format(shape, quant.weight_format, tuple(quant.skip_modules), tuple(quant.overrides.items()))


@cache
def _by_format(
    shape: Anatomy,
    weight_format: WeightFormat,
    skipped: tuple[str, ...],
    overrides: tuple[tuple[str, WeightFormat], ...],
) -> Counter[tuple[LinearLayer, WeightFormat]]:
    quant = QuantConfig(weight_format=weight_format, skip_modules=list(skipped), overrides=dict(overrides))
    found = ((layer, quantization.layer_format(quant, name)) for name, layer in shape.linears.items() if not layer.tied)
    return Counter((layer, becomes) for layer, becomes in found if becomes is not None)


# Keys and values, which are exact


def kv_bytes_per_token(shape: Anatomy) -> int:
    """2 · layers · K · d · b: a key and a value a layer."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * shape.itemsize


def kv(shape: Anatomy, batch: BatchShape) -> int:
    """(P + R · W) tokens: what all prompts begin with once, and the rows' places, allocated for the largest batch."""
    return kv_bytes_per_token(shape) * (batch.shared + batch.rows * batch.width)


# The workspace, an estimate of what is alive at once


def reading(shape: Anatomy, quant: QuantConfig, batch: BatchShape) -> int:
    """A pass that reads prompts: T times a layer's activations, scores, what a linear layer needs, logits a row."""
    tokens = batch.pass_tokens
    return (
        tokens * layer_bytes_per_token(shape)
        + prompt_scores(shape, batch)
        + linear_bytes(shape, quant, tokens)
        + logits_bytes(shape, batch.rows)
    )


def stepping(shape: Anatomy, quant: QuantConfig, batch: BatchShape) -> int:
    """A pass over one new token a row: R times a layer's activations, scores, what a linear layer needs, logits."""
    return (
        batch.rows * layer_bytes_per_token(shape)
        + step_scores(shape, batch)
        + linear_bytes(shape, quant, batch.rows)
        + logits_bytes(shape, batch.rows)
    )


def layer_bytes_per_token(shape: Anatomy) -> int:
    """The larger of a layer's two stages, each beside the residual and the normalized hidden state (2h · b)."""
    return max(attention_bytes_per_token(shape), mlp_bytes_per_token(shape))


def attention_bytes_per_token(shape: Anatomy) -> int:
    """(2h + Hd + 2Kd + 2Hd) · b + 3Hd · 4 + 2H · 4: the query, key and value, the outputs over own and shared tokens,
    the three float32 copies in which these are joined, and their log-sum-exps.
    """
    query, pair = shape.num_heads * shape.head_dim, 2 * shape.num_kv_heads * shape.head_dim
    return (2 * shape.hidden_size + 3 * query + pair) * shape.itemsize + (3 * query + 2 * shape.num_heads) * FLOAT32


def mlp_bytes_per_token(shape: Anatomy) -> int:
    """(2h + 3i) · b: activated gate, up projection and product; 4i where gate and up projection are one layer."""
    return (2 * shape.hidden_size + (4 if shape.fused else 3) * shape.intermediate_size) * shape.itemsize


def prompt_scores(shape: Anatomy, batch: BatchShape) -> int:
    """0 under a fused kernel. With capped scores, which it has not: H · n · (8 + b) for the n query-key pairs of one
    prompt, as float32 scores, their softmax, and its copy in the model's dtype.
    """
    if not shape.softcap:
        return 0
    pairs = max(batch.prompt * (batch.shared + batch.prompt), batch.shared**2)
    return shape.num_heads * pairs * (2 * FLOAT32 + shape.itemsize)


def step_scores(shape: Anatomy, batch: BatchShape) -> int:
    """R · H · (P + W) · (8 + b): scores of every row over all places, in float32, their softmax, and its copy."""
    return batch.rows * shape.num_heads * (batch.shared + batch.width) * (2 * FLOAT32 + shape.itemsize)


def linear_bytes(shape: Anatomy, quant: QuantConfig, tokens: int) -> int:
    """What the neediest replaced linear layer takes beside its input and output (`layer_bytes.workspace_bytes`)."""
    return max(
        (
            workspace_bytes(layer, quant, weight_format, shape.itemsize, tokens)
            for layer, weight_format in quantized_layers(shape, quant)
        ),
        default=0,
    )


def logits_bytes(shape: Anatomy, rows: int) -> int:
    """R · V · (2b + 4): logits of one place a row, gathered from several passes, and their float32 copy."""
    return rows * shape.vocab_size * (2 * shape.itemsize + FLOAT32)


# The architecture


def anatomy(model: ModelConfig) -> Anatomy:
    """Read off the architecture that `conf/model` states, else off the checkpoint's config.json. Raises ModelError."""
    fields = model.architecture or checkpoints.configuration(model)
    return _anatomy(model.name, json.dumps(fields, sort_keys=True), model.dtype)


@cache
def _anatomy(name: str, fields: str, dtype: Dtype) -> Anatomy:
    config = random.shape(ModelConfig(name=name, architecture=json.loads(fields))).get_text_config()
    network = random.empty(config, getattr(torch, dtype))
    parameters = {id(value): value for value in network.parameters()}
    linears = _linears(network)
    return Anatomy(
        unquantized=sum(value.nbytes for value in (*parameters.values(), *network.buffers())),
        itemsize=getattr(torch, dtype).itemsize,
        linears=linears,
        num_parameters=sum(value.numel() for value in parameters.values()),
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        fused=any(layer.out_features == 2 * config.intermediate_size for layer in linears.values()),
        softcap=getattr(config, "attn_logit_softcapping", None) is not None,
    )


def _linears(network: PreTrainedModel) -> dict[str, LinearLayer]:
    embedding = network.get_input_embeddings()
    return {
        name: LinearLayer(module.out_features, module.in_features, module.weight is embedding.weight)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }
