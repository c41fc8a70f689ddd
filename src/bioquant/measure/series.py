"""How the machine fares while a cell runs, second by second: its processors, its memory, the GPU the cell is on."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bioquant import timeline
from bioquant.measure import nvml
from bioquant.timeline import Reading

SAMPLE_S = 1.0


@contextmanager
def recorded(device: str, folder: Path) -> Generator[None]:
    """Look once a second while what is inside runs, and once at its end; the readings are then in the folder."""
    readings: list[Reading] = []
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(nvml.handle(device), readings, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    timeline.write(folder, readings)


def _watch(gpu: nvml.Gpu | None, readings: list[Reading], stop: threading.Event) -> None:
    psutil.cpu_percent()  # gives the load since the call before
    ended = False
    while not ended:
        ended = stop.wait(SAMPLE_S)
        readings.append(Reading(time.time_ns() // 1_000_000, look(gpu)))


def look(gpu: nvml.Gpu | None) -> dict[str, float]:
    """What the system and the driver say now."""
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
    }
    return values if gpu is None else values | nvml.usage(gpu)
