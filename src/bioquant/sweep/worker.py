"""The child process of a sweep: loads one (model, quant) and runs the cells its parent names, one JSON line each.

In: {"config": …, "folder": …, "run_id": …}, {"stop": true} or {"end": true}. Out: {"examples": n} as n more are done,
then {"outcome": …}, {"error_kind": …, "error": …} or {"stopped": true}. A process of its own because a CUDA fault or
the out-of-memory killer must end a worker and not the sweep, and because memory peaks are only a cell's own in a
process that held no other model.
"""

import gc
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from bioquant import network, privacy, run, tracking
from bioquant.compose import from_mapping
from bioquant.config import EngineConfig, ModelConfig, QuantConfig, RunConfig
from bioquant.engine.offers import what_is_loaded
from bioquant.errors import BioquantError
from bioquant.files import logged
from bioquant.plan import RunPlan
from bioquant.progress import Watch
from bioquant.records import Dataset, RunResult

Message = dict[str, Any]
Say = Callable[[Message], None]


def main() -> None:
    """Answer requests until the parent has no more, or is gone."""
    # Ctrl-C reaches the whole process group: the parent decides what becomes of the cell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    network.start()
    say = _answers()
    _answer_with_the_last_words(say)
    stop = threading.Event()
    requests = queue.SimpleQueue[Message]()
    threading.Thread(target=_listen, args=(requests, stop), daemon=True).start()
    session = Session(say, stop)
    # What was imported stays: the collection before each cell's memory is measured need not look at it again.
    gc.freeze()
    while "end" not in (request := requests.get()):
        say(session.answer(request))


def _listen(requests: queue.SimpleQueue[Message], stop: threading.Event) -> None:
    """Hear the parent while a cell runs; where it is gone, be gone: the next one may be waiting for this cell."""
    # Unbuffered: a thread that holds the lock of sys.stdin's buffer when the process ends makes Python abort.
    for line in os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False):
        message = json.loads(line)
        if "stop" in message:
            stop.set()
        else:
            requests.put(message)
        if "end" in message:
            return
    os._exit(1)


class Session:
    """Runs cells, and keeps what they share: the model that was loaded last, and the datasets."""

    def __init__(self, say: Say, stop: threading.Event) -> None:
        self._watch = Watch(_told(say), lambda: nullcontext(stop.is_set))
        self._key: tuple[ModelConfig, QuantConfig, EngineConfig] | None = None
        self._loaded: run.Loaded | None = None
        self._datasets: dict[str, Dataset] = {}

    def answer(self, request: Message) -> Message:
        """Run one cell and log it; the parent sets the run's status from what comes back."""
        folder = Path(request["folder"])
        try:
            with logged(folder):
                config = from_mapping(request["config"])
                privacy.enter(config)
                result = self._result(config, folder, request["run_id"])
        except KeyboardInterrupt:
            return {"stopped": True}
        except BioquantError as error:
            return {"error_kind": error.kind, "error": str(error)}
        return {"outcome": asdict(tracking.outcome(result))}

    def _result(self, config: RunConfig, folder: Path, run_id: str) -> RunResult:
        cell, loaded = self._prepare(config), self._load(config)
        result = run.run_cell(cell, folder, loaded, run.journaled(cell, folder), self._watch)
        tracking.log_result(tracking.open_spool(config.tracking), run_id, result, folder)
        return result

    def _prepare(self, config: RunConfig) -> RunPlan:
        key = repr((config.task, config.data))
        if key not in self._datasets:
            self._datasets[key] = run.read(config)
        return run.prepare(config, self._datasets[key])

    def _load(self, config: RunConfig) -> run.Loaded:
        key = (config.model, config.quant, what_is_loaded(config.engine))
        if self._loaded is None or self._key != key:
            self._loaded, self._key = None, key
            self._loaded = run.load(config)
        return self._loaded


def _told(say: Say) -> Callable[[str, int], nullcontext[Callable[[int], None]]]:
    """Progress as messages to the parent, which has the terminal."""
    return lambda _, __: nullcontext(lambda number: say({"examples": number}))


def _answers() -> Say:
    """What writes to the parent's pipe; what libraries print goes to stderr from now on."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lambda message: print(json.dumps(message), file=pipe, flush=True)


def _answer_with_the_last_words(say: Say) -> None:
    """An error nobody foresaw ends the process, whose state (a CUDA context, say) is not to be trusted any more."""

    def report(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        message = " ".join(privacy.told(error).split()) or kind.__name__
        say({"error_kind": kind.__name__, "error": message, "last_words": True})

    sys.excepthook = report


if __name__ == "__main__":
    main()
