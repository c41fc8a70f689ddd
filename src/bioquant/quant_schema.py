"""A quantization recipe as it stands in `conf/quant`: what is done to the weights, and what that needs."""

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING


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


class QuantMethod(StrEnum):
    """The library call behind a recipe."""

    none = "none"
    bnb_int8 = "bnb_int8"
    bnb_4bit = "bnb_4bit"
    cast = "cast"
    quanto = "quanto"
    hqq = "hqq"
    torchao = "torchao"
    torchao_dynamic = "torchao_dynamic"
    gptq = "gptq"
    awq = "awq"
    fp8 = "fp8"
    compressed_tensors = "compressed_tensors"
    gguf = "gguf"


class WeightFormat(StrEnum):
    """How a quantized weight is stored. fp8: float8_e4m3fn, bf16 and fp16: bfloat16 and float16, by torch's names.

    gguf: as the file has it, by layer.
    """

    none = "none"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"
    fp8 = "fp8"
    int4 = "int4"
    int3 = "int3"
    int2 = "int2"
    nf4 = "nf4"
    fp4 = "fp4"
    gguf = "gguf"


@dataclass(kw_only=True, slots=True)
class RequiresConfig:
    """What a recipe needs; a sweep leaves out the cells that do not have it. null is no limit.

    devices: where it runs.
    compute_capability: the least of a CUDA device, as NVIDIA counts (8.0: Ampere, 8.9: Ada, 9.0: Hopper).
    calibrated: a published checkpoint that is quantized already, which `model.calibrated` names; it is loaded in place
        of the model's own.
    dtype: of the model.
    min_parameters, max_parameters: of the model.
    """

    devices: list[Device] = field(default_factory=lambda: [Device.cpu, Device.cuda])
    compute_capability: float | None = None
    calibrated: bool = False
    dtype: Dtype | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None


@dataclass(kw_only=True, slots=True)
class CalibrationConfig:
    """The text that a recipe is calibrated on: its tokens, cut into windows.

    task: whose few-shot pool it is, each example with its gold answer.
    file: or a text file of your own.
    num_samples: windows.
    num_tokens: of one window.
    seed: of the order in which the pool's examples, or the file's paragraphs, are taken.
    sha256: of the text; found when the cell is planned.
    """

    task: str | None = None
    file: str | None = None
    num_samples: int = 128
    num_tokens: int = 512
    seed: int = 0
    sha256: str | None = None


@dataclass(kw_only=True, slots=True)
class QuantConfig:
    """A quantization recipe.

    method: the library call behind it.
    weight_format: how one weight is stored.
    bits: of one quantized weight, without its quantization state.
    group_size: consecutive weights that share a scale, where the method has such groups.
    block_size: the same by the name that bitsandbytes gives it, for its 4-bit formats; null is their own, 64.
    double_quant: bnb_4bit: whether the blocks' scales are quantized too.
    int8_threshold: bnb_int8: activations beyond it are outliers, whose columns are multiplied in 16 bits.
    compute_dtype: of the matrix products; null takes the model's.
    skip_modules: linear layers of these names are left alone.
    desc_act: gptq: columns in the order of their activations' size, which costs speed.
    overrides: name of a module -> the weight format of the linear layers in it, where a method can mix them. Names are
        read as in skip_modules, which comes first; of several that name a layer, the first counts.
    requires: what a sweep leaves out the cells by.
    check: whether the loaded model reads a fixed text before it is evaluated, beside the unquantized model.
    """

    name: str = MISSING
    method: QuantMethod = MISSING
    weight_format: WeightFormat = MISSING
    bits: int = MISSING
    double_quant: bool = False
    int8_threshold: float = 6.0
    group_size: int | None = None
    block_size: int | None = None
    compute_dtype: Dtype | None = None
    desc_act: bool = False
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    skip_modules: list[str] = field(default_factory=lambda: ["lm_head"])
    overrides: dict[str, WeightFormat] = field(default_factory=dict[str, WeightFormat])
    requires: RequiresConfig = field(default_factory=RequiresConfig)
    check: bool = False
