"""Who owns a run's status: a process, known by host, pid and start time, that is silent once it is gone."""

import os
import socket
import time
from collections.abc import Mapping

import psutil

HEARTBEAT_S = 60.0
"""How often an owner tells that it is alive."""

SILENT_S = 600.0
"""An owner on another host that was silent for this long is taken for dead: ten beats, so that clocks may differ."""

SAME_START_S = 5.0
"""Start times of one process read at different moments differ by this much at most; pids are not reused that fast."""


def tags() -> dict[str, str]:
    """The tags by which a run names this process as its owner."""
    return {
        "owner.host": socket.gethostname(),
        "owner.pid": str(os.getpid()),
        "owner.started": f"{psutil.Process().create_time():.2f}",
        "owner.heartbeat": heartbeat(),
    }


def heartbeat() -> str:
    """The value of the tag `owner.heartbeat` now: whole seconds since the epoch."""
    return str(int(time.time()))


def gone(found: Mapping[str, str]) -> bool:
    """Whether the owner named in these tags is certainly not at work any more. A run without these tags is not ours."""
    if "owner.host" not in found or "owner.pid" not in found:
        return False
    if found["owner.host"] == socket.gethostname():
        return not _runs(int(found["owner.pid"]), found.get("owner.started"))
    last = found.get("owner.heartbeat")
    return last is not None and time.time() - float(last) > SILENT_S


def is_this_process(found: Mapping[str, str]) -> bool:
    """Whether these tags name this process, or nobody."""
    named = found.get("owner.host"), found.get("owner.pid")
    return named in ((None, None), (socket.gethostname(), str(os.getpid())))


def described(found: Mapping[str, str]) -> str:
    """The owner as a message names it."""
    return f"process {found.get('owner.pid', '?')} on {found.get('owner.host', '?')}"


def _runs(pid: int, started: str | None) -> bool:
    try:
        process = psutil.Process(pid)
        same = started is None or abs(process.create_time() - float(started)) < SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
