"""What the commands print: a table for people, JSON for programs."""

import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table

from bioquant import shown
from bioquant.errors import kind_of as kind
from bioquant.plan import RunPlan
from bioquant.privacy import told
from bioquant.records import Outcome
from bioquant.tasks import kind_of

Row = Mapping[str, object]

LEGEND = """trivial: the best constant answer's score
peak: resident memory of the process on a CPU, of the allocator on a GPU"""


def row(plan: RunPlan, outcome: Outcome | None, *, error: BaseException | None = None, command: str = "") -> Row:
    """One cell of a sweep's table. Memory in MiB, latency in ms; what was not measured is None.

    error: what ended it, where it failed. command: what repeats it.
    """
    config = plan.config
    found = outcome.metrics if outcome else {}
    return {
        "model": config.model.name,
        "dtype": str(config.model.dtype),
        "prompt": config.prompt.name,
        "task": config.task.name,
        "quant": config.quant.name,
        "setting": plan.setting,
        "metric": kind_of(config.task.kind).headline,
        "quality": found.get("quality"),
        "ci_low": found.get("quality_ci_low"),
        "ci_high": found.get("quality_ci_high"),
        "num_examples": plan.num_examples,
        "invalid_rate": found.get("invalid_rate"),
        "weights_mib": found.get("memory/weights_mib"),
        "peak_mib": found.get("memory/peak_allocated_mib"),
        "trivial": max((value for name, value in found.items() if name.startswith("trivial/")), default=None),
        "num_timed": found.get("latency/num_examples"),
        "latency_ms_p50": found.get("latency/example_ms_p50"),
        "examples_per_s": found.get("throughput/examples_per_s"),
        "baseline_cell_id": plan.baseline_cell_id,
        "input_ids_sha256": outcome.input_ids_sha256 if outcome else None,
        "error_kind": "" if error is None else kind(error),
        "error": "" if error is None else told(error),
        "command": command,
    }


def show_cells(rows: Sequence[Row], *, as_json: bool) -> None:
    """The cells of a run or a sweep, a task's baseline beside its candidates."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    tasks = list(dict.fromkeys(cell["task"] for cell in rows))
    ordered = sorted(rows, key=lambda cell: (str(cell["model"]), str(cell["prompt"]), tasks.index(cell["task"])))
    for model, prompt in dict.fromkeys((cell["model"], cell["prompt"]) for cell in ordered):
        chosen = [cell for cell in ordered if (cell["model"], cell["prompt"]) == (model, prompt)]
        examples = f"{_range(chosen, 'num_examples')} examples a cell"
        print_table(_cells(f"{model} ({chosen[0]['dtype']}) · {prompt} · {examples}", chosen))
    print(LEGEND)
    if any(row["num_timed"] for row in rows):
        print(f"p50: one example at batch 1, median of {_range(rows, 'num_timed')}")


def _range(rows: Sequence[Row], key: str) -> str:
    """`20`, or `4 to 20` where the cells differ."""
    numbers = sorted({int(number) for row in rows if isinstance(number := row[key], int | float)})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1]))) if numbers else "0"


def _cells(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    for heading in ("task\n  metric", "quant", "quality [95 % CI]"):
        table.add_column(heading)
    for heading in ("invalid\nrate", "weights\nMiB", "peak\nMiB", "p50\nms", "ex/s"):
        table.add_column(heading, justify="right")
    for task in dict.fromkeys(cell["task"] for cell in rows):
        cells = [cell for cell in rows if cell["task"] == task]
        names = [str(task), f"  {cells[0]['metric']}", f"  trivial {_figure(cells[0]['trivial'], '.3f')}"]
        for name, cell in zip_longest(names, cells):
            table.add_row(name or "", *(_texts(cell) if cell else []))
    return table


def stacked(name: str) -> str:
    """A recipe's name with each of its settings on a line of its own."""
    return name.replace(" · ", "\n  ")


def _texts(cell: Row) -> list[str]:
    quant = stacked(" · ".join(str(cell[part]) for part in ("quant", "setting") if cell[part]))
    if cell["quality"] is None:
        return [quant, "failed"]
    quality = f"{cell['quality']:.3f} [{cell['ci_low']:.3f}, {cell['ci_high']:.3f}]"
    memory = [_figure(cell[name], ".0f") for name in ("weights_mib", "peak_mib", "latency_ms_p50")]
    return [
        quant,
        quality,
        _figure(cell["invalid_rate"], ".2f"),
        *memory,
        _figure(cell["examples_per_s"], ".1f"),
    ]


def _figure(value: object, form: str) -> str:
    """A dash for what was not measured; what would round to nothing keeps a digit."""
    if value is None:
        return "-"
    return f"{value:.1f}" if form == ".0f" and isinstance(value, float) and value < 10 else format(value, form)


def show(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool, only_json: Sequence[str] = ()
) -> None:
    """A plain listing: a table, or with `as_json` a list of objects keyed by the headings.

    only_json: headings that a terminal has no room for. What a row is named by, its first cell, is never broken.
    """
    if as_json:
        print(json.dumps([dict(zip(headings, line, strict=True)) for line in rows], indent=2))
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown = [number for number, heading in enumerate(headings) if heading not in only_json]
    for number in shown:
        table.add_column(headings[number], overflow="fold", no_wrap=number == 0)
    for line in rows:
        table.add_row(*(line[number] for number in shown))
    print_table(table)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same listing as a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(shown.markdown_cell, line))} |\n" for line in lines)


def print_table(table: Table) -> None:
    """On a terminal as wide as it is, elsewhere as wide as the table needs, so that a pipe cuts nothing."""
    text = io.StringIO()  # writing to stdout itself, rich ends the process where nobody reads any more
    Console(file=text, force_terminal=is_styled(), width=width(), highlight=False, markup=False).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def width() -> int:
    """Columns there are: those of the terminal, elsewhere as many as a table may need."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def say(line: str) -> None:
    """A line of prose; on a terminal broken between its words, further lines indented."""
    broken = textwrap.fill(line, width(), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    print(broken if sys.stdout.isatty() else line)


def is_styled() -> bool:
    """Whether bold type reaches a reader: not in a pipe, not on a dumb terminal, not where $NO_COLOR is set."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
