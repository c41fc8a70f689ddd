"""How figures and verdicts are said, the same in tables, reasons and reports. Pure."""

from bioquant.compare import Comparison
from bioquant.statistics import Verdict


def gib(mib: float | None) -> str:
    """`9.4 GiB`, or MiB where it is less than one."""
    if mib is None:
        return "-"
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def seconds(ms: float | None) -> str:
    """`340 ms` or `1.2 s`."""
    if ms is None:
        return "-"
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms"


def bounds(value: float, low: float, high: float) -> str:
    """`0.871 [0.860, 0.882]`."""
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def points(value: float, low: float, high: float) -> str:
    """`-0.4 [-1.3, +0.6]`, of points."""
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def in_points(share: float) -> str:
    """`1 point`, `2.5 points`: of a share of 1."""
    number = f"{100 * share:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def p_value(value: float) -> str:
    """Three digits, or less than the least of them."""
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def ratio(value: float | None) -> str:
    """`0.55×`."""
    return "-" if value is None else f"{value:.2f}×"


def verdict_text(one: Comparison) -> str:
    """The verdict, with how many more examples it needs where it is open."""
    if one.verdict is not Verdict.undecided:
        return str(one.verdict)
    return "undecided: at the limit" if one.more_examples is None else f"undecided: +{one.more_examples:,}"


def change(comparison: Comparison) -> str:
    """`-0.4 points of accuracy [-1.3, +0.6]`."""
    low, high = 100 * comparison.ci_low, 100 * comparison.ci_high
    return f"{100 * comparison.delta:+.1f} points of {comparison.metric} [{low:+.1f}, {high:+.1f}]"


def loss(comparison: Comparison) -> str:
    """`3.1 points of accuracy [1.8, 4.5]`."""
    low, high = -100 * comparison.ci_high, -100 * comparison.ci_low
    return f"{-100 * comparison.delta:.1f} points of {comparison.metric} [{low:.1f}, {high:.1f}]"


def needs(comparison: Comparison) -> str:
    """How many more examples an open verdict needs, and whether the task has them."""
    if comparison.more_examples is None:
        return "it lies too near the limit for any number of examples to tell"
    left = comparison.num_test - comparison.num_examples
    has = f"the task has {left:,} more" if left else "the task has no more"
    return f"needs about {comparison.more_examples:,} more examples ({has})"
