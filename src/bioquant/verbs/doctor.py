"""`bioquant doctor`: what works on this machine, and what to do about what does not."""

import argparse
import importlib.machinery
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from bioquant import hardware, network, places, shown, tables
from bioquant.config import TrackingConfig
from bioquant.errors import BioquantError, TrackingError

FREE_GIB = 5.0
"""Disk a first model and its runs need."""


REAPED = ("run", "name", "owner", "closed as")


class DoctorError(BioquantError):
    """Something that a run needs is missing."""

    kind = "doctor"


def main(arguments: Sequence[str]) -> None:
    """Run every check; raises DoctorError where one failed."""
    parser = argparse.ArgumentParser(prog="bioquant doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--reap", action="store_true", help="close the runs still RUNNING whose process is gone")
    options = parser.parse_args(arguments)
    if options.reap:
        reap(as_json=options.json)
        return
    checks: tuple[Callable[[], list[str]], ...] = (
        python,
        torch,
        cuda,
        bitsandbytes,
        quanto,
        cache,
        project,
        data,
        kernels,
        connections,
        tracking,
    )
    lines = [check() for check in checks]
    tables.show(("check", "state", "found", "what to do"), lines, as_json=options.json)
    failed = [line[0] for line in lines if line[1] == "missing"]
    if failed:
        raise DoctorError(f"missing: {', '.join(failed)}")


def reap(*, as_json: bool) -> None:
    """Close the runs still RUNNING whose process is gone, and list them."""
    from bioquant import tracking as runs

    store = runs.open_store(TrackingConfig(name="default"))
    closed = runs.reap(store)
    runs.flush(store)
    if closed or as_json:
        tables.show(REAPED, [[run.run_id, run.name, run.owner, run.status] for run in closed], as_json=as_json)
    else:
        print("No run is RUNNING without its process.", file=sys.stderr)


def python() -> list[str]:
    """The interpreter."""
    return ["python", "ok", sys.version.split()[0], ""]


def torch() -> list[str]:
    """Torch and its build."""
    import torch as library

    return ["torch", "ok", f"{library.__version__}, {library.get_num_threads()} threads", ""]


def cuda() -> list[str]:
    """A CUDA GPU; without one everything runs on the CPU. One that the driver shows and torch does not is a mistake."""
    import torch as library

    if library.cuda.is_available():
        name, (_, total) = library.cuda.get_device_name(), library.cuda.mem_get_info()
        return ["cuda", "ok", f"{name}, {total / 2**30:.0f} GiB", ""]
    if hardware.visible_gpus():
        build = f"CUDA {library.version.cuda}" if library.version.cuda else "the CPU alone"
        return [
            "cuda",
            "missing",
            f"the driver shows a GPU, torch {library.__version__}, built for {build}, does not use it",
            "uv pip install --torch-backend auto --reinstall torch, or a newer driver",
        ]
    advice = "models run on the CPU: judge quality and size there, speed only on a GPU"
    return ["cuda", "absent", "no CUDA GPU", advice]


def bitsandbytes() -> list[str]:
    """The library behind bnb_*, and whether it quantizes on this machine's device."""
    found = _library("bitsandbytes", "bitsandbytes")
    if found[1] != "ok":
        return found
    import torch as library

    from bioquant.models.native import bitsandbytes_problem

    problem = bitsandbytes_problem("cuda" if library.cuda.is_available() else "cpu")
    if problem is None:
        return found
    return [
        "bitsandbytes",
        "missing",
        f"{found[2]} does not work: {problem}",
        "pip install --force-reinstall bitsandbytes",
    ]


def quanto() -> list[str]:
    """The library behind quanto_*."""
    return _library("optimum.quanto", "optimum-quanto")


def _library(module: str, package: str) -> list[str]:
    if importlib.util.find_spec(module) is None:
        return [package, "missing", "not installed", f"pip install {package}"]
    return [package, "ok", version(package), ""]


def cache() -> list[str]:
    """Room where checkpoints are cached."""
    return _room("cache", places.cache_dir(), "BIOQUANT_CACHE")


def project() -> list[str]:
    """Room where runs are kept."""
    return _room("project", places.project_root(), "BIOQUANT_ROOT")


def _room(check: str, folder: Path, variable: str) -> list[str]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return [check, "missing", f"{there} cannot be written to", f"set {variable} to a folder of yours"]
    free = shutil.disk_usage(there).free / 2**30
    advice = "" if free >= FREE_GIB else f"free {FREE_GIB:.0f} GiB there, or set {variable} to another disk"
    return [check, "ok" if free >= FREE_GIB else "missing", f"{folder}, {free:.0f} GiB free", advice]


def data() -> list[str]:
    """The folder of benchmark files; the demo tasks need none."""
    root = places.data_root(None)
    if root is not None and root.is_dir():
        return ["data", "ok", str(root), ""]
    return [
        "data",
        "absent",
        "BIOQUANT_DATA is not a folder" if root else "BIOQUANT_DATA is not set",
        "only demo_* tasks run",
    ]


def kernels() -> list[str]:
    """A package by which transformers and bitsandbytes would run binaries from the hub; we make it unimportable."""
    spec = importlib.machinery.PathFinder.find_spec("kernels")
    found = "not installed" if spec is None else f"installed ({version('kernels')}) and never used"
    return ["hub code", "ok", found, "" if spec is None else "nothing: models run on torch's own kernels"]


def connections() -> list[str]:
    """What may be connected to."""
    if network.is_offline():
        return ["network", "offline", "this machine and the tracking store alone", ""]
    return ["network", "ok", "no telemetry; hub and package index where a model is fetched", ""]


def tracking() -> list[str]:
    """The store runs are logged to, and whether something waits for it."""
    from bioquant.tracking import open_store, pending

    try:
        store = open_store(TrackingConfig(name="default"))
        left = pending(store)
        number = left.waiting + len(left.refused)
        advice = f"{number} of its runs wait on disk: bioquant sync" if number else ""
        if store.away:
            return [
                "tracking",
                "away",
                shown.without_password(store.uri),
                f"{store.away}: what is logged waits on disk",
            ]
        return ["tracking", "ok", shown.without_password(store.uri), advice]
    except TrackingError as error:
        return ["tracking", "missing", shown.without_password(places.tracking_uri(None)), str(error)]
