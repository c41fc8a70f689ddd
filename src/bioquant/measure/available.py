"""How much memory a device has: all of it, and what is free now. In bytes."""

import psutil
import torch


def total_bytes(place: str) -> int:
    """Of the whole device: a torch device such as "cuda:0", or the machine's memory for "cpu"."""
    if place.startswith("cuda"):
        return torch.cuda.get_device_properties(place).total_memory
    return psutil.virtual_memory().total


def free_bytes(place: str) -> int:
    """What this process can still take, by the driver's or the system's own figure."""
    if place.startswith("cuda"):
        return torch.cuda.mem_get_info(place)[0]
    return psutil.virtual_memory().available
