"""Faults put into a sweep's processes from outside, by a `sitecustomize` on their PYTHONPATH."""

import json
from collections.abc import Mapping
from pathlib import Path

INSIDE = '''
"""Runs at the start of every Python that has this folder on its path; does something only in a sweep's worker."""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent

if "bioquant.sweep.worker" in sys.orig_argv or os.environ.get("FAULTS_EVERYWHERE"):
    import torch

    from bioquant import run
    from bioquant.engine.packed import PackedModel

    faults = json.loads((HERE / "faults.json").read_text())
    now = {"cell": "", "written": 0}
    evaluate, journal, read = run.evaluate, run.journal, PackedModel.read

    def due():
        """The fault of this cell, unless it has already happened as often as it shall."""
        for part, (kind, after, times) in faults.items():
            if now["cell"].endswith(part) and now["written"] >= after:
                happened = HERE / part.replace(" ", "_")
                count = len(happened.read_bytes()) if happened.exists() else 0
                if count < times:
                    happened.write_bytes(b"x" * (count + 1))
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

    def evaluated(cell, *rest):
        now.update(cell=cell.name, written=0)
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

    faults: the end of a cell's name -> what happens in it (exception, exit, abort, kill, segfault, oom), after how many
    examples are journaled, and how often. An oom happens always, before the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(INSIDE, encoding="utf-8")
    (folder / "faults.json").write_text(json.dumps(faults), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


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
