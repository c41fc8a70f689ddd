"""A worker process seen from its parent: ask it, follow it, stop it, and know when it died."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from bioquant.errors import BioquantError
from bioquant.records import Outcome

END_S = 30.0
"""How long a worker that was told to end may take for it."""

LAST_LINES = 200
"""So much of a dead worker's own output is kept with the cell."""


class CellError(BioquantError):
    """A cell failed in its worker by an error that would come again."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class WorkerDiedError(CellError):
    """The worker is gone, or ends: killed, crashed, or by an error nobody foresaw. Another may fare better.

    blameless: the cell has no part in it (its node was lost).
    """

    def __init__(self, kind: str, message: str, *, blameless: bool = False) -> None:
        super().__init__(kind, message)
        self.blameless = blameless


class Worker(Protocol):
    """What runs one cell after another, wherever it is."""

    def ask(self, request: dict[str, Any], advance: Callable[[int], None]) -> Outcome:
        """One cell's outcome; told on the way how many more examples are done.

        Raises CellError, WorkerDiedError, and KeyboardInterrupt where it was stopped.
        """
        ...

    def alive(self) -> bool:
        """Whether it can take another request."""
        ...

    def stop(self) -> None:
        """Have it stop after the examples in flight."""
        ...

    def kill(self) -> None:
        """Have it gone at once."""
        ...

    def close(self) -> None:
        """Let it end in order; it has nothing to do."""
        ...


def outcome_of(reply: Mapping[str, Any]) -> Outcome:
    """What a worker's answer means. Raises CellError, WorkerDiedError, and KeyboardInterrupt where it was stopped."""
    if "stopped" in reply:
        raise KeyboardInterrupt
    if "last_words" in reply:
        raise WorkerDiedError(reply["error_kind"], reply["error"])
    if "error" in reply:
        raise CellError(reply["error_kind"], reply["error"])
    return Outcome(**reply["outcome"])


class ProcessWorker:
    """One child process on this machine that answers JSON lines with JSON lines.

    environment: what it sees beside this process's own. log: where its own output goes, and what libraries print.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._writing = threading.Lock()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "bioquant.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **environment},
                text=True,
                encoding="utf-8",
            )

    def ask(self, request: dict[str, Any], advance: Callable[[int], None]) -> Outcome:
        """See `Worker.ask`."""
        self._write(request)
        assert self._process.stdout
        for line in self._process.stdout:
            if not line.endswith("\n"):
                break  # it died while it spoke
            reply = json.loads(line)
            if "last_words" in reply:
                self._process.wait()
            if "examples" not in reply:
                return outcome_of(reply)
            advance(reply["examples"])
        self._keep_last_lines(Path(request["folder"]))
        ending = _ending(self._process.wait())
        raise WorkerDiedError("worker_died", f"the worker process ended without an answer ({ending}).")

    def alive(self) -> bool:
        """Whether it can take another request."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Have it stop after the examples in flight."""
        self._write({"stop": True})

    def kill(self) -> None:
        """Have it gone at once."""
        self._process.kill()

    def close(self) -> None:
        """Let it end in order, and close its pipes."""
        self._write({"end": True})
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _write(self, message: dict[str, Any]) -> None:
        """Say it, if there is still somebody to hear: whoever died is found out where the answer is read."""
        assert self._process.stdin
        try:
            with self._writing:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def _keep_last_lines(self, folder: Path) -> None:
        """What a crash printed, in the cell's own log."""
        last = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "run.log").open("a", encoding="utf-8") as log:
            log.write("\n".join(["the worker's last words:", *last, ""]))


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (": often the system's out-of-memory killer" if name == "SIGKILL" else "")
