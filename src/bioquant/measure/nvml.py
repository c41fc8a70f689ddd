"""What the NVIDIA driver says of the whole GPU, whoever uses it. Everything is None where there is none to ask."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pynvml
import torch

Figure = TypeVar("Figure", int, float)

Gpu = Any
"""The driver's handle of one device, an opaque pointer."""


@cache
def available() -> bool:
    """Whether the driver's library is here; it stays initialised until the process ends."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def handle(device: str) -> Gpu | None:
    """The driver's handle of a torch CUDA device; None for a CPU. By UUID: CUDA_VISIBLE_DEVICES renumbers devices."""
    if torch.device(device).type != "cuda" or not available():
        return None
    uuid = torch.cuda.get_device_properties(device).uuid
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:  # a MIG slice is not a device of its own to the driver
        return None


def used_bytes(gpu: Gpu) -> int | None:
    """Memory in use on the device, by all processes and the driver; None where it shares the host's memory."""
    return _told(_used_bytes, gpu)


def other_processes(gpu: Gpu) -> bool | None:
    """Whether more than this process computes on the device; None where the driver shows nobody.

    Counted, not compared with our own process id: in a container the driver lists the host's ids.
    """
    try:
        listed = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)}
    except pynvml.NVMLError:
        return None
    return len(listed) > 1 if listed else None


def energy_j(gpu: Gpu) -> float | None:
    """The board's energy since the driver was loaded, in joules; None before the Volta generation."""
    return _told(_joules, gpu)


def usage(gpu: Gpu) -> dict[str, float]:
    """Memory, load and power of the device now, under MLflow's names of system metrics, by the driver's index."""
    index = int(pynvml.nvmlDeviceGetIndex(gpu))
    told = {name: _told(ask, gpu) for name, ask in _USAGE.items()}
    return {f"system/gpu_{index}_{name}": value for name, value in told.items() if value is not None}


def _used_bytes(gpu: Gpu) -> int:
    return int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used)


def _joules(gpu: Gpu) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000


def _memory_megabytes(gpu: Gpu) -> float:
    return _used_bytes(gpu) / 1e6


def _load_percent(gpu: Gpu) -> float:
    return float(int(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu))


def _power_watts(gpu: Gpu) -> float:
    return int(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000


_USAGE: dict[str, Callable[[Gpu], float]] = {
    "memory_usage_megabytes": _memory_megabytes,
    "utilization_percentage": _load_percent,
    "power_usage_watts": _power_watts,
}


def _told(ask: Callable[[Gpu], Figure], gpu: Gpu) -> Figure | None:
    try:
        return ask(gpu)
    except pynvml.NVMLError:  # not supported by this device
        return None


def driver_version() -> str | None:
    """The driver's version."""
    return pynvml.nvmlSystemGetDriverVersion() if available() else None
