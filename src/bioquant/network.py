"""What a process may connect to: no telemetry and no code from the hub ever; with `offline=true` one tracking store.

A Python audit hook looks at every name that is resolved and every connection that is opened, whichever library asks.
What a library written in C opens by itself (a database's driver, Ray's own processes) no hook sees.
"""

import ipaddress
import os
import socket
import sys
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

from bioquant.errors import UserError

NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # transformers and datasets report through huggingface_hub
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets and evaluate
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "USE_HUB_KERNELS": "0",
}
"""Read by the libraries when they are imported, in workers too."""

LIBRARIES_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
}
"""By which the libraries do not even try."""

VARIABLE = "BIOQUANT_OFFLINE"
"""The same as `offline=true`, for every verb, and how workers are told."""

PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Where an address names none."""

Place = tuple[str, int]
"""A host's name or address, and a port."""


class OfflineError(UserError):
    """A connection that `offline=true` forbids."""

    kind = "offline"


class _Guard:
    """What the audit hook asks. places: what may be connected to beside this machine, once it is on."""

    def __init__(self) -> None:
        self.on = self.hooked = False
        self.places: set[Place] = set()

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or not event.startswith("socket."):
            return
        match event, arguments:
            case (("socket.connect" | "socket.sendto" | "socket.sendmsg"), (opened, address)):
                if cast(socket.socket, opened).family in (socket.AF_INET, socket.AF_INET6) and address:
                    self._check(str(address[0]), int(address[1]))
            case "socket.getaddrinfo", (host, port, *_):
                self._check_name(host, port)
            case (("socket.gethostbyname" | "socket.gethostbyaddr"), (host,)):
                self._check_name(host, None)
            case _:
                pass

    def _check(self, host: str, port: int) -> None:
        """A connection, whose address may be one that an allowed name stands for."""
        if not is_this_machine(host) and not any(port == at and host in _addresses(name) for name, at in self.places):
            raise self._refusal(f"{host}:{port}")

    def _check_name(self, host: str | bytes | None, port: object) -> None:
        """A name that is looked up: in the network's name service, so that alone would leave the machine."""
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if name and not is_this_machine(name) and name not in {place for place, _ in self.places}:
            raise self._refusal(name if port is None else f"{name}:{port}")

    def _refusal(self, wanted: str) -> OfflineError:
        stores = [f"the tracking store at {host}:{port}" for host, port in sorted(self.places)]
        allowed = " and ".join(["this machine", *stores])
        return OfflineError(
            f"offline=true: a connection to {wanted} was refused; allowed: {allowed}. "
            "Whatever was to come from there must be on this machine beforehand (docs/offline.md)."
        )


_guard = _Guard()


def start() -> None:
    """What every process of ours does first, before a library is imported. Offline where the environment says so."""
    os.environ.update(NO_TELEMETRY)
    refuse_hub_code()
    if os.environ.get(VARIABLE, "").casefold() in ("1", "true", "yes", "on"):
        forbid()


def refuse_hub_code() -> None:
    """Make the package `kernels` unimportable: with it transformers and bitsandbytes run binaries from the hub."""
    sys.modules["kernels"] = cast(Any, None)


def forbid() -> None:
    """From now on this process, and the workers that it starts, connect to this machine and to what is allowed."""
    os.environ.update({**LIBRARIES_OFFLINE, VARIABLE: "1"})
    for module in ("huggingface_hub.constants", "datasets.config"):
        if module in sys.modules:  # they read the environment when they were imported
            setattr(sys.modules[module], "HF_HUB_OFFLINE", True)  # noqa: B010 - a module has no such attribute to a checker
    _guard.on = True
    if not _guard.hooked:
        sys.addaudithook(_guard.look)
        _guard.hooked = True


def is_offline() -> bool:
    """Whether connections are forbidden."""
    return _guard.on


def allow(uri: str) -> None:
    """Let the tracking store at this address be connected to, now and once offline. A file needs no connection."""
    parts = urlsplit(uri)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        _guard.places.add((parts.hostname, port))


def is_this_machine(host: str) -> bool:
    """Whether a name or an address stands for this machine, whichever of its interfaces."""
    name = host.casefold().rstrip(".")
    if name in ("", "localhost", socket.gethostname().casefold()) or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified or str(address) in _interfaces()


@lru_cache(maxsize=1)
def _interfaces() -> frozenset[str]:
    import psutil  # only where an address is not plainly this machine's

    return frozenset(
        found.address.partition("%")[0] for interface in psutil.net_if_addrs().values() for found in interface
    )


def _addresses(name: str) -> set[str]:
    """What an allowed name stands for; an address stands for itself."""
    try:
        return {name, *(str(found[4][0]) for found in socket.getaddrinfo(name, None))}
    except socket.gaierror:
        return {name}
