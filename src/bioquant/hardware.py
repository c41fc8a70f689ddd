"""The machine as its driver tells it, before torch or CUDA is touched: which GPUs there are, and how large."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil
import pynvml

from bioquant.config import Device, RunConfig

GIB = 2**30

SIZES_GIB = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 140, 192, 256, 512)
"""Memory is counted in these sizes, so that machines that are nearly alike decide alike."""

UNKNOWN_GIB = 16
"""Taken for a GPU whose memory is not known: one of another machine, or a slice."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device by its name in CUDA_VISIBLE_DEVICES.

    capability: as NVIDIA counts (8.9); memory_gib: all of it, as a size. None where it is not known.
    """

    name: str
    capability: float | None = None
    memory_gib: int | None = None


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use, as `nvidia-smi` counts them; torch and CUDA stay untouched."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = range(pynvml.nvmlDeviceGetCount()) if allowed is None else allowed.split(",")
    return [_gpu(name) for name in map(str, listed) if name not in ("", "-1", "NoDevFiles")]


def _gpu(name: str) -> Gpu:
    try:
        by_index = name.isdecimal()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(name)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(name)
        capability = float("{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(handle)))
        return Gpu(name, capability, size_gib(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)))
    except pynvml.NVMLError:  # a MIG slice, to older drivers
        return Gpu(name)


def size_gib(number: int) -> int:
    """The largest size that so many bytes come to, give or take 3 %: a card of 80 GB shows 79.6 GiB."""
    return max((size for size in SIZES_GIB if size * GIB <= 1.03 * number), default=SIZES_GIB[0])


def device_of(config: RunConfig, gpus: Sequence[Gpu]) -> Device:
    """Where the cell runs: cpu or cuda."""
    if config.engine.device is Device.auto:
        return Device.cuda if gpus else Device.cpu
    return config.engine.device


def capability_of(device: Device, gpus: Sequence[Gpu]) -> float | None:
    """What every worker's device has at least; None on a CPU and where it is not known."""
    known = [gpu.capability for gpu in gpus if gpu.capability is not None]
    return min(known) if device is Device.cuda and len(known) == len(gpus) > 0 else None


def with_budget(config: RunConfig, gpus: Sequence[Gpu]) -> RunConfig:
    """The configuration with `engine.batch_memory_gib` given a number, where the batch is decided from it.

    The policy's, if that is less than the device has; of several GPUs the smallest counts.
    """
    if config.engine.batch != "auto" or config.engine.batch_memory_gib is not None:
        return config
    device = device_of(config, gpus)
    if device is Device.cpu:
        size = size_gib(psutil.virtual_memory().total)
    else:
        size = min((gpu.memory_gib or UNKNOWN_GIB for gpu in gpus), default=UNKNOWN_GIB)
        size = min(size, int(config.policy.gpu_memory_gib or size))
    return replace(config, engine=replace(config.engine, batch_memory_gib=size))
