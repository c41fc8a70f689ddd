"""Faults put into a sweep's processes from outside, by a `sitecustomize` on their PYTHONPATH."""

import json
from collections.abc import Mapping
from pathlib import Path

INSIDE = '''
"""Runs at the start of every Python that has this folder on its path; does something only in a sweep's worker."""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent

# A worker of the grouped launcher, of Ray, of submitit.
if any(argument.endswith(("sweep.worker", "default_worker.py", "core._submit")) for argument in sys.orig_argv):
    import torch

    from bioquant import run
    from bioquant.engine.packed import PackedModel

    faults = json.loads((HERE / "faults.json").read_text())
    now = {"cell": "", "written": 0, "watch": None}
    evaluate, journal, read = run.evaluate, run.journal, PackedModel.read

    def due():
        """The fault of this cell, unless it has already happened as often as it shall."""
        for part, (kind, after, times) in faults.items():
            if now["cell"].endswith(part) and now["written"] >= after:
                with (HERE / "happened" / part).open("ab") as happened:
                    if happened.tell() < times:
                        happened.write(b"x")
                        return kind
        return None

    def strike(kind):
        match kind:
            case "exception":
                raise RuntimeError("injected")
            case "exit":
                sys.exit(3)
            case "abort":
                os.abort()
            case "kill":
                os.kill(os.getpid(), 9)
            case "segfault":
                import ctypes

                ctypes.string_at(0)
            case "hold":
                with now["watch"].stopping() as stopped:
                    while not stopped() and not (HERE / "release").exists():
                        time.sleep(0.02)
            case "hang":
                while True:
                    signal.pause()

    def evaluated(cell, *rest):
        now.update(cell=cell.name, written=0, watch=rest[-1])
        return evaluate(cell, *rest)

    @contextmanager
    def journaled(folder):
        with journal(folder) as write:

            def written(prediction):
                write(prediction)
                now["written"] += 1
                strike(due())

            yield written

    def out_of_memory(self, *rest):
        if any(now["cell"].endswith(part) and kind == "oom" for part, (kind, _, _) in faults.items()):
            raise torch.OutOfMemoryError("injected")
        return read(self, *rest)

    run.evaluate, run.journal, PackedModel.read = evaluated, journaled, out_of_memory
'''


def inject(folder: Path, faults: Mapping[str, tuple[str, int, int]]) -> dict[str, str]:
    """The environment in which a sweep's workers have faults.

    faults: the end of a cell's name -> what happens in it (exception, exit, abort, kill, segfault, oom, hold, hang),
    after how many examples are journaled, and how often. An oom happens always, before the first. One that holds goes
    on once it is told to stop, or there is a file `release` in the folder; one that hangs never does.
    """
    (folder / "happened").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(INSIDE, encoding="utf-8")
    (folder / "faults.json").write_text(json.dumps(faults), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def happened(folder: Path) -> int:
    """How many of the faults injected by this folder have happened so far."""
    return sum(path.stat().st_size for path in (folder / "happened").iterdir())


KILLER = '''
"""Kills the command itself, not its workers, at one call of one function."""

import importlib
import os
import sys
from itertools import count

if "bioquant.sweep.worker" not in sys.orig_argv and sys.argv[1:2] == ["run"]:
    module, _, function = "bioquant.{step}".rpartition(".")
    place = importlib.import_module(module)
    real, calls = getattr(place, function), count(1)

    def step(*arguments, **named):
        due = next(calls) == {nth}
        if due and "{moment}" == "before":
            os.kill(os.getpid(), 9)
        result = real(*arguments, **named)
        if due:
            os.kill(os.getpid(), 9)
        return result

    setattr(place, function, step)
'''


def kill_at(folder: Path, step: str, nth: int, moment: str) -> dict[str, str]:
    """The environment in which `bioquant run` is killed before or after the nth call of a function of ours."""
    folder.mkdir()
    text = KILLER.format(step=step, nth=nth, moment=moment)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
