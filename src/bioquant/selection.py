"""Which runs a verb is about, and under which policy: `model=a,b task=pubmedqa policy=gpu_24gb`. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bioquant.errors import ConfigError, did_you_mean
from bioquant.evidence import LoggedRun

FILTERS = ("model", "quant", "task", "prompt", "sweep_id", "limit", "seed", "device")
"""What runs are chosen by: their params, and where they ran."""

SETTINGS = ("policy", "tracking")
"""Groups of the configuration that such a verb reads: `policy=gpu_24gb`, `policy.max_quality_loss=0.02`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """filters: by key, the values of which a run must have one. overrides: for composing the configuration."""

    filters: Mapping[str, tuple[str, ...]]
    overrides: tuple[str, ...]


def parse(arguments: Sequence[str]) -> Selection:
    """Split a verb's `key=value` arguments. Raises ConfigError for a key that is neither filter nor setting."""
    filters: dict[str, tuple[str, ...]] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in FILTERS and value:
            filters[key] = tuple(part for part in value.split(",") if part)
        elif equals and key.split(".")[0] in SETTINGS:
            overrides.append(argument)
        else:
            raise ConfigError(_not_understood(argument, key, equals))
    return Selection(filters=filters, overrides=tuple(overrides))


def _not_understood(argument: str, key: str, equals: str) -> str:
    known = (*FILTERS, *SETTINGS)
    if not equals or key in FILTERS:
        return f"'{argument}' cannot be read: write key=value, for example task=pubmedqa,hoc."
    return (
        f"key '{key}' is not known{did_you_mean(key, known)} Runs are chosen by {', '.join(FILTERS)}; settings are "
        f"{', '.join(f'{group}=… and {group}.KEY=…' for group in SETTINGS)}."
    )


def select(runs: Sequence[LoggedRun], filters: Mapping[str, tuple[str, ...]]) -> list[LoggedRun]:
    """The runs that have one of the wanted values for every key. Raises ConfigError for a value that no run has."""
    chosen = list(runs)
    for key, wanted in filters.items():
        present = sorted({value(run, key) for run in runs})
        for one in wanted:
            if not any(_matches(key, one, there) for there in present):
                near = did_you_mean(one, present)
                raise ConfigError(f"no finished run has {key}={one}{near} The runs have: {', '.join(present)}.")
        chosen = [run for run in chosen if any(_matches(key, one, value(run, key)) for one in wanted)]
    if not chosen:
        asked = " ".join(f"{key}={','.join(values)}" for key, values in filters.items())
        raise ConfigError(f"no finished run has all of {asked}: leave a filter out.")
    return chosen


def value(run: LoggedRun, key: str) -> str:
    """What a run is filtered by."""
    return run.machine if key == "device" else run.params.get(key, "")


def _matches(key: str, wanted: str, present: str) -> bool:
    """Names are matched whole; a machine by any part of its name."""
    return wanted.casefold() in present.casefold() if key == "device" else wanted == present
