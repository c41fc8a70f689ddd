"""What the spool holds: each event is one call to the tracking server and carries all that the call needs.

Delivering an event twice is the same as once: params and tags are overwritten by the same value, a metric with the same
key, step, timestamp and value is stored once, a file or a status is overwritten. Only `Create` is not: it is looked for
before it is repeated (see `calls.create`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Point(NamedTuple):
    """One value of a metric. timestamp_ms: since the epoch."""

    key: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """A new run, RUNNING since start_ms. parent: the id or local key of the run it hangs under."""

    name: str
    tags: Mapping[str, str]
    start_ms: int
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Params, metrics and tags in one call."""

    params: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: tuple[Point, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The dataset the run evaluates."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file on disk that becomes an artifact under its own name."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A small artifact whose content is in the event itself."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The run's terminal status."""

    status: Status
    end_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopen:
    """RUNNING again."""


Event = Create | Batch | Input | File | Text | End | Reopen

KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in (Create, Batch, Input, File, Text, End, Reopen)}


def to_line(event: Event) -> bytes:
    """One line of the spool."""
    return json.dumps({type(event).__name__: asdict(event)}, ensure_ascii=False).encode() + b"\n"


def from_line(line: bytes) -> Event:
    """The event that `to_line` wrote."""
    [(name, fields)] = json.loads(line).items()
    if name == "Batch":
        fields["metrics"] = tuple(Point(*point) for point in fields["metrics"])
    return KINDS[name](**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run's events come to. status: None while it is RUNNING."""

    name: str | None
    status: Status | None
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def summary(events: Iterable[Event]) -> Summary:
    """The state after these events. Pure."""
    name: str | None = None
    status: Status | None = None
    tags: dict[str, str] = {}
    metrics: dict[str, float] = {}
    for event in events:
        match event:
            case Create():
                name, tags = event.name, tags | dict(event.tags)
            case Batch():
                tags |= event.tags
                metrics |= {point.key: point.value for point in event.metrics}
            case End():
                status = event.status
            case Reopen():
                status = None
            case _:
                pass
    return Summary(name=name, status=status, tags=tags, metrics=metrics)
