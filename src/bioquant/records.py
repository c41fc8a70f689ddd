"""The frozen records that travel from stage to stage. Data only: no I/O, no torch, no configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
"""What a data file's cell can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One raw record of a data file, its fields named as in the file.

    source: "file:line" (or "file:id"), which error messages name.
    """

    fields: Mapping[str, Value]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """One entity mention: `text` is the input text's [start, end), in characters.

    A mention the model named that stands nowhere in the text has start = end = -1.
    """

    start: int
    end: int
    label: str
    text: str


Answer = str | tuple[str, ...] | tuple[Span, ...]
"""RE and QA: one label. MLC: labels in the label set's order. NER: spans in the text's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item of a dataset, its fields named by the task's kind.

    inputs: what the prompt shows ("text"; for QA "question" and, where there is one, "context").
    choices: the allowed answers: labels, or for multiple-choice QA the letters. Empty for NER.
    options: for multiple-choice QA the text behind each letter, in the letters' order.
    unit: what the row belongs to where rows are not independent (a document); empty where the row is a unit of its own.
    group: a part of the dataset that is scored apart (a subject); empty where there are none.
    """

    id: str
    inputs: Mapping[str, str]
    target: Answer
    choices: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    unit: str = ""
    group: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One rendered item: what the model is asked and what is right.

    shots: the few-shot examples in it. truncated: whether it was shortened to fit the model's context.
    """

    id: str
    messages: tuple[Message, ...]
    row: Row
    shots: tuple[Row, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A task's rows: the test split (after `limit`), the few-shot pool, and what identifies them.

    digest: SHA-256 over the ids, inputs, targets and choices of the whole test split and pool, before `limit`.
    num_shared: rows that were left out of the pool since the test split asks the same.
    """

    test: tuple[Row, ...]
    pool: tuple[Row, ...]
    digest: str
    num_test: int
    origin: str
    num_shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the engine gave back for one sample of one prompt.

    index: the prompt's place in the request. sample: 0 unless several are drawn.
    finish: "stop" at an end token, "length" at the token limit. num_output_tokens: the end token included.
    input_ids_sha256: of the prompt's token ids (little-endian int32), so that two runs can prove they asked the same.
    seconds: wall time of batch `batch_index`, the same for all that rode in it: whole prompts with all their samples.
    batch_size: rows that went through the model at once.
    """

    index: int
    text: str
    num_prompt_tokens: int
    num_output_tokens: int
    finish: Literal["stop", "length"]
    input_ids_sha256: str
    seconds: float
    batch_index: int
    batch_size: int
    sample: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One example's outcome. answer is None where the output could not be parsed: invalid, and wrong.

    choice_logprobs: one a choice, where the answer was the likeliest one instead of parsed text.
    truncated: the prompt was shortened to fit the model's context.
    """

    example_id: str
    prompt: str
    outputs: tuple[str, ...]
    answer: Answer | None
    target: Answer
    correct: bool
    num_prompt_tokens: int
    num_output_tokens: int
    finish: Literal["stop", "length"]
    input_ids_sha256: str
    seconds: float
    batch_index: int
    batch_size: int
    choice_logprobs: tuple[float, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric with its 95 % interval over the examples it was computed from."""

    name: str
    value: float
    ci_low: float
    ci_high: float
    num_examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Milliseconds over `count` timed examples. p95 and p99 need at least 20."""

    p50: float
    p95: float | None
    p99: float | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of `batch_size` requests at a time on the task's own prompts, in milliseconds.

    ttft: to the first token. tpot: a token after it; None where no example gave two tokens. example: the whole answer.
    Requests of one group share a clock, so their percentiles say what a request waits, not how much groups differ.
    """

    batch_size: int
    ttft_ms: Percentiles
    tpot_ms: Percentiles | None
    example_ms: Percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """The proof that a recipe took effect, read off the loaded model.

    replaced: how many modules of each quantized class stand in the model.
    bytes_before: the weights' bytes in the model's own dtype; bytes_after: parameters, buffers and quantization state.
    dequantized_from: how the checkpoint was quantized whose weights were unpacked when they were loaded.
    """

    replaced: Mapping[str, int]
    kept: Mapping[str, int]
    bytes_before: int
    bytes_after: int
    backend: str
    dequantized_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPrediction:
    """What a model is expected to take on a device, in bytes.

    kv: keys and values of a batch. workspace: what a pass needs beside them. peak_allocated: the allocator's figure, on
    a CPU the process's resident memory. peak_device: the driver's figure.
    """

    weights: int
    kv_bytes_per_token: int
    kv: int
    workspace: int
    peak_allocated: int
    peak_device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a cell costs. A figure that was not measured is None and is logged nowhere.

    Memory in MiB (2**20 bytes). On a CPU peak_allocated is the process's peak resident memory. predicted: what
    `bioquant.memory` says of the largest batch that was asked. batch_rows, batch_tokens: what may ride together, as it
    was decided. latency: at batch 1; latency_batched: at the second batch size that was asked for.
    """

    device: str
    device_name: str | None = None
    weights_mib: float
    load_s: float
    compile_s: float | None = None
    load_peak_mib: float | None = None
    peak_allocated_mib: float | None = None
    peak_reserved_mib: float | None = None
    peak_device_mib: float | None = None
    other_processes: bool | None = None
    predicted_allocated_mib: float | None = None
    predicted_device_mib: float | None = None
    batch_rows: int | None = None
    batch_tokens: int | None = None
    examples_per_s: float | None = None
    output_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    joules_per_example: float | None = None
    latency: Latency | None = None
    latency_batched: Latency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What riding in a batch has changed, of examples that were answered again, each alone and read whole.

    num_changed: whose text differs. num_flipped: whose correctness does.
    """

    num_examples: int
    num_changed: int
    num_flipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantCheck:
    """How well the loaded model predicts a fixed text (`quant.check`).

    num_tokens: predicted. kl: of its next-token distribution from the baseline's, in nats a token. None of the baseline
    itself, and where the baseline does not fit the device.
    """

    num_tokens: int
    perplexity: float
    baseline_perplexity: float | None = None
    kl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """All that one finished cell has to say. The predictions themselves are in the cell's folder.

    trivial: the headline score of answers that read no text, by name.
    """

    scores: tuple[Score, ...]
    headline: str
    num_examples: int
    invalid_rate: float
    empty_rate: float
    truncated_input_rate: float
    truncated_output_rate: float
    footprint: Footprint
    quantization: QuantizationReport
    input_ids_sha256: str
    trivial: Mapping[str, float]
    audit: Audit | None = None
    check: QuantCheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a table says of a finished cell: its figures by MLflow name, and the digest of all that it was asked."""

    metrics: dict[str, float]
    input_ids_sha256: str
