"""How a sweep is launched, as dataclasses of the configuration: nothing of it changes a result."""

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """What is done with a sweep's plan.

    dry_run: show it and stop.
    """

    dry_run: bool = False


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """Where the workers of a sweep run. One worker holds one model.

    devices: `auto`, all GPUs this process may use, or a list of their numbers (or UUIDs), as `nvidia-smi` counts them.
    gpus_per_worker: a worker sees these and no others.
    cpu_workers: workers side by side where cells run on the CPU; they share its threads.
    address: Ray: of the cluster's head; null takes $RAY_ADDRESS, else starts Ray on this machine.
    cpus_per_worker: Ray: CPUs a worker reserves, and the threads it computes with.
    """

    devices: Any = "auto"
    gpus_per_worker: int = 1
    cpu_workers: int = 1
    address: str | None = None
    cpus_per_worker: int = 1
