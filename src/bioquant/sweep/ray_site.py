"""Workers on a Ray cluster: an actor a group of cells, placed by Ray wherever there is room; ray is imported when used.

The project's folder must be on a file system that all nodes share: journals, results and the spool are there. The
driver keeps the MLflow runs, as everywhere.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bioquant import network, privacy
from bioquant.config import Device
from bioquant.errors import ConfigError, kind_of
from bioquant.hardware import Gpu
from bioquant.launching import LauncherConfig
from bioquant.places import project_root
from bioquant.records import Outcome
from bioquant.sweep.desk import Hire
from bioquant.sweep.devices import Slot
from bioquant.sweep.process import Worker, WorkerDiedError, outcome_of

LOOK_S = 1.0

KNOCK_S = 10.0
"""How long the head of a cluster may take to accept a connection."""

NODE_S = 90.0
"""How long Ray may take to notice that a node is gone."""

PASSED_ON = ("BIOQUANT_", "HF_", "MLFLOW_TRACKING_URI")
"""Environment variables that a worker gets from the driver: it writes to the spool, so it needs no password."""


class RayCluster:
    """A running cluster, or Ray started on this machine. Each group is one worker; Ray decides where and when."""

    joining = False

    def __init__(self, launcher: LauncherConfig) -> None:
        self._ray, self._launcher = _connected(launcher.address), launcher
        found = self._ray.cluster_resources().get("GPU", 0)
        self.gpus: Sequence[Gpu] = [Gpu("any")] * int(found)

    def slots(self, groups: Sequence[Device]) -> list[Slot]:
        """One a group: those without room on the cluster wait in Ray's queue."""
        return [Slot(f"ray {place}", device, {}) for place, device in enumerate(groups)]

    def hire(self, folder: Path) -> Hire:
        """Starts actors; their output is in Ray's own logs."""

        def start(slot: Slot, stopping: threading.Event) -> Worker:
            return RayWorker(self._ray, self._actor(slot), folder, stopping)

        return start

    def _actor(self, slot: Slot) -> Any:
        num_gpus = self._launcher.gpus_per_worker if slot.device is Device.cuda else 0
        environment = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
        environment |= {"BIOQUANT_ROOT": str(project_root())}
        options: dict[str, Any] = {
            "num_gpus": num_gpus,
            "num_cpus": self._launcher.cpus_per_worker,
            "max_restarts": 0,
            "max_concurrency": 2,  # one thread runs the cell, one answers how far it is
        }
        return self._ray.remote(Runner).options(**options).remote(environment)


def _connected(address: str | None) -> Any:
    """Ray, connected. Raises ConfigError where it is not installed or does not answer."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "hydra/launcher=ray needs Ray, which is not installed: pip install 'bioquant[ray]'"
        ) from error
    address = address or os.environ.get("RAY_ADDRESS")
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        raise ConfigError(
            f"launcher.address={address}: no Ray cluster answers there. Start one with `ray start --head`, or leave "
            "the address out to run on this machine alone."
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray takes it for itself
    return ray


def _knock(address: str | None) -> None:
    """Raise OSError where nothing listens at `host:port` or `ray://host:port`: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_S).close()


class Runner:
    """The actor: a worker's session in a process that Ray has started on some node."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        network.start()
        from bioquant.sweep.worker import Session  # after the environment: some libraries read it as they are imported

        self._done = 0
        self._stop = threading.Event()
        self._session = Session(self._count, self._stop)

    def node(self, folder: str) -> tuple[str, bool]:
        """The node it is on, and whether that sees the sweep's folder."""
        import ray

        return ray.get_runtime_context().get_node_id(), Path(folder).is_dir()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One cell; see `worker.Session.answer`."""
        self._done = 0
        with privacy.wordless():
            return self._session.answer(request)

    def done(self) -> int:
        """How many examples of the cell are done."""
        return self._done

    def stop(self) -> None:
        """Stop after the examples in flight."""
        self._stop.set()

    def _count(self, message: dict[str, Any]) -> None:
        self._done += message["examples"]


class RayWorker:
    """An actor as `Worker`: there once Ray has found room for it."""

    def __init__(self, ray: Any, actor: Any, folder: Path, stopping: threading.Event) -> None:
        self._ray, self._actor = ray, actor
        self._node = self._placed(folder, stopping)
        self._alive = True

    def ask(self, request: dict[str, Any], advance: Callable[[int], None]) -> Outcome:
        """See `Worker.ask`."""
        known = 0
        answer = self._actor.answer.remote(request)
        try:
            while not self._ray.wait([answer], timeout=LOOK_S)[0]:
                now = self._ray.get(self._actor.done.remote())
                advance(now - known)
                known = now
            return outcome_of(self._ray.get(answer))
        except self._ray.exceptions.RayActorError as error:
            self.kill()
            lost = self._is_lost(patiently=isinstance(error, self._ray.exceptions.ActorUnavailableError))
            kind, what = ("node_lost", "node") if lost else ("worker_died", "worker's process")
            raise WorkerDiedError(kind, f"the {what} is gone ({_first_line(error)}).", blameless=lost) from error
        except self._ray.exceptions.RayTaskError as error:
            self.kill()
            raise WorkerDiedError(kind_of(error.cause), _first_line(error.cause)) from error

    def alive(self) -> bool:
        """Whether it can take another request."""
        return self._alive

    def stop(self) -> None:
        """Have it stop after the examples in flight."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """Have it gone at once."""
        self._alive = False
        self._ray.kill(self._actor)

    def close(self) -> None:
        """Give its room back to the cluster."""
        self.kill()

    def _placed(self, folder: Path, stopping: threading.Event) -> str:
        """The node it came to. Raises KeyboardInterrupt where the sweep is stopped before there is room."""
        found = self._actor.node.remote(str(folder))
        while not self._ray.wait([found], timeout=LOOK_S)[0]:
            if stopping.is_set():
                self._ray.kill(self._actor)
                raise KeyboardInterrupt
        try:
            node, sees_folder = self._ray.get(found)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerDiedError("node_lost", _first_line(error), blameless=True) from error
        if not sees_folder:
            raise ConfigError(
                f"node {node} does not see {folder}: the project must be on a file system that all nodes of the "
                "cluster share (BIOQUANT_ROOT)."
            )
        return node

    def _is_lost(self, *, patiently: bool) -> bool:
        """Whether its node is gone: not the cell's fault."""
        deadline = time.monotonic() + (NODE_S if patiently else 0)
        while any(node["NodeID"] == self._node and node["Alive"] for node in self._ray.nodes()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_S)
        return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
