"""A report's figures as inline SVG: text stays text, and takes the page's colour, light or dark."""

import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.typing import RcKeyType

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Of Okabe and Ito, told apart by colour-blind readers; those that show on white and on black."""

INK = "#010203"
"""Drawn with, then replaced by the page's own text colour."""

WIDTH = 5.2
"""Inches: the text of a figure this narrow can still be read when a phone shrinks it."""

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bioquant",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}

WIDE = 5
"""Costs whose largest is more than this times the smallest are drawn on a log scale."""

MARKERS = {"chosen": "*", "acceptable": "o", "undecided": "o", "rejected": "x"}
"""By where a cell stands; the undecided are drawn hollow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A cell in a plot: its quality with its interval over a cost, where it stands, and what is written beside it.

    beaten: drawn faint.
    """

    cost: float
    quality: float
    low: float
    high: float
    series: str
    state: str
    beaten: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row of a plot of changes, in points."""

    label: str
    value: float
    low: float
    high: float


def scatter(name: str, points: Sequence[Point], *, cost: str, quality: str, described: str) -> str:
    """Quality with intervals over a cost, each series in a colour, each state with a marker."""
    with rc_context(STYLE):
        figure, axes = _axes(3.6)
        colours = _colours([point.series for point in points])
        _draw(axes, points, colours)
        _cost_axis(axes, points, cost)
        axes.set_ylabel(quality)
        _legend(figure, colours, sorted({point.state for point in points}, key=list(MARKERS).index))
        return _svg(figure, name, described)


def ladders(name: str, points: Sequence[Point], *, cost: str, quality: str, described: str) -> str:
    """Quality over cost with a line a series, from its smallest to its largest precision."""
    with rc_context(STYLE):
        figure, axes = _axes(3.6)
        colours = _colours([point.series for point in points])
        for series, colour in colours.items():
            steps = sorted((point for point in points if point.series == series), key=lambda point: point.cost)
            axes.plot([step.cost for step in steps], [step.quality for step in steps], color=colour, linewidth=1)
        _draw(axes, points, colours)
        _cost_axis(axes, points, cost)
        axes.set_ylabel(quality)
        _legend(figure, colours, [])
        return _svg(figure, name, described)


def _draw(axes: Axes, points: Sequence[Point], colours: Mapping[str, str]) -> None:
    """The points, those that look alike at once: a task may have hundreds."""
    alike: dict[tuple[str, str, bool], list[Point]] = defaultdict(list)
    for point in points:
        alike[point.series, point.state, point.beaten].append(point)
    for (series, state, beaten), some in alike.items():
        costs, faint = [point.cost for point in some], 0.35 if beaten else 1.0
        lows, highs = [point.low for point in some], [point.high for point in some]
        axes.vlines(costs, lows, highs, colors=colours[series], alpha=0.6 * faint, linewidth=1.2)
        axes.plot(
            costs,
            [point.quality for point in some],
            linestyle="none",
            marker=MARKERS[state],
            markersize=13 if state == "chosen" else 6,
            color=colours[series],
            markerfacecolor="none" if state == "undecided" else colours[series],
            alpha=faint,
        )
    for point in points:
        if point.label:
            axes.annotate(
                point.label, (point.cost, point.quality), xytext=(5, 4), textcoords="offset points", color=INK
            )


def _cost_axis(axes: Axes, points: Sequence[Point], label: str) -> None:
    """In powers where the costs differ by more than a factor of a few."""
    costs = [point.cost for point in points]
    if max(costs) > WIDE * min(costs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        label = f"{label} (log scale)"
    axes.set_xlabel(label)


def forest(name: str, changes: Sequence[Change], *, margin: float, axis: str, described: str) -> str:
    """Changes in points with their intervals, a row each; the dashed line is the tolerated loss, `margin` (0 to 1)."""
    with rc_context(STYLE):
        figure, axes = _axes(0.9 + 0.36 * len(changes))
        for place, change in enumerate(changes):
            axes.plot([change.low, change.high], [place, place], color=PALETTE[0], linewidth=2)
            axes.plot([change.value], [place], marker="o", color=PALETTE[0])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.axvline(-100 * margin, color=PALETTE[5], linewidth=1, linestyle="--")
        axes.set_yticks(range(len(changes)), [change.label for change in changes])
        axes.set_ylim(len(changes) - 0.5, -0.5)
        axes.set_xlabel(axis)
        return _svg(figure, name, described)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _colours(series: Sequence[str]) -> dict[str, str]:
    """A colour a series; after six they come again, and the numbers in the plot tell them apart."""
    return {one: PALETTE[place % len(PALETTE)] for place, one in enumerate(dict.fromkeys(sorted(series)))}


def _legend(figure: Figure, colours: dict[str, str], states: Sequence[str]) -> None:
    handles = [Line2D([], [], color=colour, linewidth=3, label=series) for series, colour in colours.items()]
    for state in states:
        face = "none" if state == "undecided" else INK
        handles.append(
            Line2D([], [], linestyle="none", marker=MARKERS[state], color=INK, markerfacecolor=face, label=state)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _svg(figure: Figure, name: str, described: str) -> str:
    """The figure as an element of a page that holds several: its ids its own, its ink the page's."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(described)}"', 1)
