"""`bioquant tasks`: what can be chosen as `task=`; `bioquant tasks check NAME` looks at one closely."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bioquant import compose, datasets, places, privacy, tables
from bioquant.config import RunConfig, TaskConfig
from bioquant.errors import DataError
from bioquant.shown import visible

if TYPE_CHECKING:
    from bioquant.inspection import Inspection, Lengths

HEADINGS = ("task", "kind", "test", "pool", "labels", "licence", "found", "test file")

ONLY_JSON = ("test file",)


def main(arguments: Sequence[str]) -> None:
    """List the tasks, or check one."""
    if arguments and arguments[0] == "check":
        check(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog="bioquant tasks", description=__doc__)
    parser.add_argument("--data", help="the folder of benchmark files; by default $BIOQUANT_DATA")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    root = places.data_root(options.data)
    tasks: dict[str, TaskConfig] = compose.options("task", TaskConfig)
    tables.show(HEADINGS, [line(task, root) for task in tasks.values()], as_json=options.json, only_json=ONLY_JSON)
    if not options.json:
        folder = root or "$BIOQUANT_DATA, which is not set"
        print(f"Files are looked for below {folder};\nbioquant tasks check NAME names a task's own.")


def line(task: TaskConfig, root: Path | None) -> list[str]:
    """One task's row; the first file looked for stands for the test split. Sizes are those of the files found."""
    files = datasets.files(task, root)
    found = all(there for _, there in files)
    sizes, state = ["-", "-"], "yes" if found else "no"
    if found:
        try:
            dataset = datasets.load(task, root)
            sizes = [str(len(dataset.test)), str(len(dataset.pool))]
        except DataError as error:  # a damaged file must not hide the other tasks
            print(f"{task.name}: {error}", file=sys.stderr)
            state = "unreadable"
    labels = str(len(task.labels) or "letters")
    return [task.name, str(task.kind), *sizes, labels, task.licence, state, place(files[0][0], root)]


def place(entry: str, root: Path | None) -> str:
    """Where a file is looked for."""
    if entry.startswith("demo:"):
        return "ships with bioquant"
    return str(root / entry) if root else f"$BIOQUANT_DATA/{entry}"


def check(arguments: Sequence[str]) -> None:
    """Look at one task: sizes, labels, duplicates, two prompts with their gold answers, and whether prompts fit."""
    parser = argparse.ArgumentParser(prog="bioquant tasks check", description=check.__doc__)
    parser.add_argument("task", help="the task's name")
    parser.add_argument("overrides", nargs="*", help="as of bioquant run: model=…, prompt=…, data.root=…")
    parser.add_argument("--config-dir", help="a folder of configuration files of your own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_intermixed_args(arguments)
    config = compose.compose_one([f"task={options.task}", *options.overrides], options.config_dir)
    privacy.enter(config)
    from bioquant.inspection import inspect

    found = inspect(config)
    if options.json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        show(config, found)


def show(config: RunConfig, found: "Inspection") -> None:
    """Print what was found."""
    task, fits = config.task, found.lengths
    print(f"{task.name}: {task.description}")
    print(f"from {found.origin}, sha256 {found.digest[:16]}…, licence: {task.licence}\n")
    rows = [["rows", str(found.num_test), str(found.num_pool)]]
    rows += [["duplicates inside", *(str(number) for number in found.num_duplicates)]]
    rows += [[f"gold: {label}", *(str(number) for number in counts)] for label, counts in found.labels.items()]
    tables.show(("", "test", "pool"), rows, as_json=False)
    print(f"\nLeft out of the pool since the test split has the same id, question or text: {found.num_shared}.")
    print(
        f"Prompts ({config.prompt.name}) in tokens of {config.model.name}, {fits.num_prompts} counted:"
        f" {fits.shortest} to {fits.longest}, median {fits.median}, p95 {fits.p95}.\n"
        f"Room for {fits.room}: {fits.num_shortened} of {fits.num_prompts} would be shortened{unfit(fits)}."
    )
    for number, (prompt, gold) in enumerate(found.shown, start=1):
        print(visible(f"\n--- prompt {number} ---\n{prompt}\n--- gold ---\n{gold}"))


def unfit(fits: "Lengths") -> str:
    """What to say of prompts that no shortening makes fit."""
    if not fits.unfit:
        return ""
    more = " …" if len(fits.unfit) > 3 else ""
    return f"; {len(fits.unfit)} cannot be made to fit, and a run refuses them ({', '.join(fits.unfit[:3])}{more})"
