"""Room for a sweep's workers on GPUs or on the CPU, each with an environment that shows a worker no other device."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from bioquant.config import Device
from bioquant.errors import ConfigError
from bioquant.hardware import Gpu
from bioquant.launching import LauncherConfig


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one worker at a time, and what its environment says of devices and threads."""

    name: str
    device: Device
    environment: Mapping[str, str]


def chosen(launcher: LauncherConfig, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs that `launcher.devices` names. Raises ConfigError."""
    if launcher.devices == "auto":
        return list(gpus)
    wanted = [str(device) for device in cast(list[object], launcher.devices)]
    found = {gpu.name: gpu for gpu in gpus}
    missing = [name for name in wanted if name not in found]
    if missing:
        here = ", ".join(found) or "none"
        raise ConfigError(f"launcher.devices: there is no GPU {missing[0]} here. GPUs this process may use: {here}.")
    return [found[name] for name in wanted]


def slots(
    launcher: LauncherConfig, gpus: Sequence[Gpu], devices: Iterable[Device], environment: Mapping[str, str]
) -> list[Slot]:
    """Room for the workers of cells that run on these devices (cpu, cuda, or both).

    environment: this process's own; where it limits threads, the workers share what it allows. Raises ConfigError.
    """
    wanted = set(devices)
    on_gpus = _gpu_packs(launcher, gpus) if Device.cuda in wanted else []
    number = len(on_gpus) + (launcher.cpu_workers if Device.cpu in wanted else 0)
    threads = _threads(number, environment)
    found = [
        Slot(
            name=f"gpu {','.join(pack)}",
            device=Device.cuda,
            environment={"CUDA_VISIBLE_DEVICES": ",".join(pack), "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **threads},
        )
        for pack in on_gpus
    ]
    on_cpu = range(number - len(on_gpus))
    return found + [Slot(f"cpu {place}", Device.cpu, {"CUDA_VISIBLE_DEVICES": "", **threads}) for place in on_cpu]


def _gpu_packs(launcher: LauncherConfig, gpus: Sequence[Gpu]) -> list[list[str]]:
    names, size = [gpu.name for gpu in gpus], launcher.gpus_per_worker
    if len(names) < size:
        here = ", ".join(names) or "none"
        raise ConfigError(
            f"launcher.gpus_per_worker={size} but the GPUs to use are: {here}. "
            "Lower it, name more in launcher.devices, or set engine.device=cpu."
        )
    return [names[start : start + size] for start in range(0, len(names) - size + 1, size)]


def _threads(num_workers: int, environment: Mapping[str, str]) -> dict[str, str]:
    """An equal share of the CPU each; one worker alone is left to its libraries' own choice."""
    if num_workers == 1:
        return {}
    total = environment.get("OMP_NUM_THREADS", "")
    available = int(total) if total.isdecimal() else len(os.sched_getaffinity(0))
    share = str(max(1, available // num_workers))
    return {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}
