"""How a chosen cell becomes an endpoint: settings of the registry and of the service, on which no run depends."""

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from bioquant.errors import ConfigError


class RegistryChoice(StrEnum):
    """Which cells of a recommendation are registered: each task's own best, or those of one model for all tasks."""

    task = "task"
    overall = "overall"


@dataclass(kw_only=True, slots=True)
class RegistryConfig:
    """How model versions are registered.

    registered_model: its name; null takes `bioquant-TASK`.
    aliases: beside the one a recommendation's policy gives.
    choice: of a recommendation: each task's own, or the one model for all tasks.
    save_weights: store the quantized weights too, so that loading the version never needs the full-precision ones.
    """

    name: str = MISSING
    registered_model: str | None = None
    aliases: list[str] = field(default_factory=list[str])
    choice: RegistryChoice = RegistryChoice.task
    save_weights: bool = False


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """How a registered model is served.

    host: the address it listens on; the default is reached from this machine alone.
    port: 0 takes any that is free.
    batch_rows: that go through the model together; null takes what the recipe was evaluated with.
    batch_wait_ms: how long the first of a batch waits for others.
    queue_rows: that may wait; beyond that 429.
    request_rows, text_chars, body_mib: the most of one request: rows, characters of one text, size; beyond that 413.
    shutdown_s: how long requests that are under way may still take when the service is told to end.
    """

    name: str = MISSING
    host: str = "127.0.0.1"
    port: int = 8000
    batch_rows: int | None = None
    batch_wait_ms: float = 5.0
    queue_rows: int = 256
    request_rows: int = 64
    text_chars: int = 100_000
    body_mib: float = 8.0
    shutdown_s: int = 60


def check_serve(config: ServeConfig) -> None:
    """Ranges the types cannot say. Raises ConfigError."""
    at_least_one = {"queue_rows": config.queue_rows, "request_rows": config.request_rows}
    at_least_one |= {"text_chars": config.text_chars, "shutdown_s": config.shutdown_s}
    if config.batch_rows is not None:
        at_least_one["batch_rows"] = config.batch_rows
    for key, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"serve.{key}={value} is not allowed: give a whole number of at least 1.")
    if not 0 <= config.port <= 65535:
        raise ConfigError(f"serve.port={config.port} is not allowed: give 1 to 65535, or 0 for any that is free.")
    if config.batch_wait_ms < 0:
        raise ConfigError(f"serve.batch_wait_ms={config.batch_wait_ms} is not allowed: give 0 or more.")
    if config.body_mib <= 0:
        raise ConfigError(f"serve.body_mib={config.body_mib} is not allowed: give a number above 0.")
    if config.request_rows > config.queue_rows:
        raise ConfigError(
            f"serve.request_rows={config.request_rows} is more than serve.queue_rows={config.queue_rows}: such a "
            "request would never find room."
        )
