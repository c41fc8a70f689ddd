"""Where a cell was measured: machine, libraries, commit."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch

from bioquant.measure import nvml
from bioquant.plan import library_version

LIBRARIES = (
    "bioquant",
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "optimum-quanto",
    "torchao",
    "vllm",
    "vllm-bnb-plugin",
    "datasets",
    "evaluate",
    "mlflow",
    "hydra-core",
    "numpy",
)


def environment() -> dict[str, str]:
    """All that can change a figure and is not configured. What this machine has not is left out."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "num_cpus": str(os.cpu_count()),
        "num_threads": str(torch.get_num_threads()),
        **{library: library_version(library) for library in LIBRARIES},
        **gpu(),
        "git_commit": git_commit(Path(__file__).parents[3]),
    }
    return {name: value for name, value in found.items() if value is not None}


def cpu_model() -> str | None:
    """The processor's name; None where the system does not say."""
    path = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return named[1] if named else platform.processor() or None


def device_name(device: str) -> str | None:
    """The product behind a torch device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_model()


def gpu() -> dict[str, str | None]:
    """The first GPU's name, how many there are, CUDA's and the driver's version."""
    if not torch.cuda.is_available():
        return {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "num_gpus": str(torch.cuda.device_count()),
        "cuda": torch.version.cuda,
        "gpu_driver": nvml.driver_version(),
    }


def git_commit(checkout: Path) -> str | None:
    """The commit of a checkout, with `-dirty` after it where files were changed; None where it is not one."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    command = [
        git,
        "--no-optional-locks",
        "-C",
        str(checkout),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
