"""`bioquant plan`: what a cell or a sweep would take, before anything is loaded."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING

from rich.table import Table

from bioquant import compose, privacy, tables
from bioquant.config import Device, RunConfig
from bioquant.errors import TrackingError

if TYPE_CHECKING:
    from bioquant.costs import History
    from bioquant.forecast import CellForecast, Forecast

EPILOG = """The overrides are those of bioquant run: model=llama_3_1_8b,qwen2_5_7b quant=none,bnb_nf4 task=pubmedqa
policy.gpu_memory_gib=40. Where the policy names no memory, the plan is for this machine."""

GIB = 2**30

SIGNS = {"fits": "+", "tight": "~", "no": "-"}

LEGEND = "16 … 80: a card of so many GB; + fits, ~ within 5 % of its size, - does not fit (1 row)"


def main(arguments: Sequence[str]) -> None:
    """Compose the cells and print what they would take. Raises UserError."""
    options = _parser().parse_intermixed_args(arguments)
    configs = compose.compose_all(options.overrides, options.config_dir)
    privacy.enter(*configs)
    from bioquant.forecast import forecast, target

    aim = target(configs[0].policy, configs[0].engine.device)
    found = forecast(configs, aim, _history(configs[0], aim.device))
    if options.json:
        totals = {"seconds": found.seconds, "download": found.download, "results": found.results}
        print(json.dumps(asdict(found) | totals, indent=2))
    else:
        show(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bioquant plan", description=__doc__, epilog=EPILOG)
    parser.add_argument("overrides", nargs="*", help="as of bioquant run; lists are swept")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="as of bioquant run; lists are swept all the same"
    )
    parser.add_argument("--config-dir", help="a folder of configuration files of your own")
    parser.add_argument("--json", action="store_true", help="print JSON, all sizes in bytes")
    return parser


def _history(config: RunConfig, device: Device) -> "History":
    """A plan is worth having without the tracking server too."""
    from bioquant import costs

    try:
        return costs.history(config.tracking, device)
    except TrackingError as error:
        print(f"without logged runs: {error}", file=sys.stderr)
        return {}


def show(found: "Forecast") -> None:
    """The prompts, the memory of each model and quant, and what all of it takes together."""
    print(f"For {found.target.name}.\n")
    if found.cells:
        tables.print_table(_prompts(found.cells))
        print()
        tables.print_table(_memory(found.cells))
        print(f"{fill(LEGEND, 80)}\n")
    for line in (*_totals(found), *(f"Left out: {what}: {why}" for what, why in found.left_out)):
        print(fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def _prompts(cells: Sequence["CellForecast"]) -> Table:
    """A line a task and prompting method."""
    table = _table("task", "prompt", "examples", "shared\ntokens", "longest\nbeside", "new\ntokens")
    for task, prompt in dict.fromkeys((cell.task, cell.prompt) for cell in cells):
        alike = [cell for cell in cells if (cell.task, cell.prompt) == (task, prompt)]
        lengths = [cell.lengths for cell in alike]
        examples = lengths[0].num_examples
        table.add_row(
            task,
            prompt,
            "?" if examples is None else str(examples),
            _range((each.shared for each in lengths), "d"),
            _range((each.longest for each in lengths), "d"),
            _range((cell.max_new_tokens for cell in alike), "d"),
        )
    return table


def _memory(cells: Sequence["CellForecast"]) -> Table:
    """A line a model and quant, with the range over its tasks and prompts, and the worst verdict."""
    cards = list(cells[0].cards)
    table = _table(
        "model\n  quant", "weights\nGiB", "KV KiB\na token", "peak GiB\n1 row", "rows\nthat fit", *cards, "time"
    )
    for model in dict.fromkeys(cell.model for cell in cells):
        table.add_row(model)
        for quant in dict.fromkeys(cell.quant for cell in cells if cell.model == model):
            alike = [cell for cell in cells if (cell.model, cell.quant) == (model, quant)]
            table.add_row(
                f"  {quant}",
                f"{alike[0].memory.weights / GIB:.2f}",
                f"{alike[0].memory.kv_bytes_per_token / 1024:.0f}",
                _range((cell.memory.peak_device / GIB for cell in alike), ".1f"),
                _range((cell.largest_batch for cell in alike), "d"),
                *(_worst(cell.cards[card] for cell in alike) for card in cards),
                _time([cell for cell in alike if cell.largest_batch]),
            )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 or heading == "prompt" else "right")
    return table


def _range(numbers: Iterable[float], form: str) -> str:
    """`5.9`, or `5.9-6.4` where the cells differ."""
    known = sorted(numbers)
    return "-".join(dict.fromkeys((format(known[0], form), format(known[-1], form))))


def _worst(verdicts: Iterable[str]) -> str:
    """The sign of the cell that fits least."""
    return SIGNS[max(verdicts, key=list(SIGNS).index)]


def _time(cells: Sequence["CellForecast"]) -> str:
    """Of the cells that fit, with one load; `~` before what no logged run stands for."""
    if not cells:
        return "-"
    known = [cell.seconds for cell in cells if cell.seconds is not None]
    if len(known) < len(cells):
        return "?"
    estimated = "" if all(cell.from_log for cell in cells) else "~"
    return estimated + duration(sum(known) + max(cell.load_s for cell in cells))


def _totals(found: "Forecast") -> Iterable[str]:
    """Time, disk, and what both rest on."""
    from bioquant import costs

    cells = found.fitting
    num_logged = sum(cell.from_log for cell in cells)
    sign = "" if num_logged == len(cells) else "~"
    total = "an unknown time" if found.seconds is None else sign + duration(found.seconds)
    yield f"{len(cells)} of {len(found.cells)} cells fit. One after another they take {total}."
    if num_logged:
        yield f"{num_logged} of these times are from logged runs of the same model, quant and task."
    if num_logged < len(cells):
        assumed = costs.ASSUMPTION[found.target.device]
        yield f"~ estimated for {assumed}, answers of full length, any quant as fast as none."
    yield (
        f"Disk: {found.download / 1e9:.1f} GB of checkpoints to download, {found.results / 1e9:.2f} GB of results; "
        f"{costs.free_disk() / 1e9:.0f} GB free."
    )
    branches = dict.fromkeys(cell.model for cell in found.cells if not cell.pinned)
    if branches:
        yield f"Not pinned to a commit by model.revision, so not repeatable once a branch moves: {', '.join(branches)}."
    for source, said in SOURCES.items():
        if any(cell.lengths.source == source for cell in found.cells):
            yield said


SOURCES = {
    "estimated": "Prompt lengths of models whose tokenizer is not here: estimated, a token for each 3.5 characters.",
    "assumed": "Tasks whose files cannot be read here (?): taken to have prompts of 1,024 tokens, half of them shared.",
}


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.2 h`."""
    for size, unit, form in ((3600, "h", ".1f"), (60, "min", ".0f")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:{form}} {unit}"
    return f"{seconds:.0f} s"
