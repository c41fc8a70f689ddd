"""Where a sweep's workers run: processes of this machine (the cluster is in `ray_site`)."""

import os
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Protocol

from bioquant import hardware
from bioquant.config import Device
from bioquant.hardware import Gpu
from bioquant.launching import LauncherConfig
from bioquant.sweep import devices
from bioquant.sweep.desk import Hire
from bioquant.sweep.devices import Slot
from bioquant.sweep.process import ProcessWorker, Worker


class Site(Protocol):
    """What a sweep asks of the place its workers run at.

    gpus: that workers may use. joining: whether a worker may help with a group that another one has begun.
    """

    gpus: Sequence[Gpu]
    joining: bool

    def slots(self, groups: Sequence[Device]) -> list[Slot]:
        """Room for the workers of groups of cells that run on these devices. Raises ConfigError."""
        ...

    def hire(self, folder: Path) -> Hire:
        """What starts a worker; its own output goes into the folder."""
        ...


class ThisMachine:
    """Worker processes, packed on the GPUs or side by side on the CPU."""

    joining = True

    def __init__(self, launcher: LauncherConfig) -> None:
        self.gpus: Sequence[Gpu] = devices.chosen(launcher, hardware.visible_gpus())
        self._launcher = launcher

    def slots(self, groups: Sequence[Device]) -> list[Slot]:
        """No more than there are groups to fill them, but for a device each."""
        return devices.slots(self._launcher, self.gpus, groups, os.environ)

    def hire(self, folder: Path) -> Hire:
        """Starts processes; their output goes to `worker_N.log`."""
        numbers = count()

        def start(slot: Slot, _: threading.Event) -> Worker:
            return ProcessWorker(slot.environment, folder / f"worker_{next(numbers)}.log")

        return start
