"""What the types of a configuration cannot say: ranges, and choices that contradict each other."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import cast

from bioquant.config import PolicyConfig, RunConfig
from bioquant.errors import ConfigError
from bioquant.shown import secrets

NAME = re.compile(r"[^\W_][\w .+()-]{0,199}")
"""No slash, no quote, no control character, no leading dot or dash."""

LONG_SECRET = 8
"""Characters: a configuration may well hold what is shorter by chance."""


def check_policy(policy: PolicyConfig) -> None:
    """Ranges the types cannot say. Raises ConfigError."""
    loss = policy.max_quality_loss
    if loss is not None and not 0 < loss < 1:
        raise ConfigError(
            f"policy.max_quality_loss={loss} is not allowed: give a loss between 0 and 1, such as 0.01 for a point (no "
            "number of examples proves a loss of nothing), or null to tolerate any."
        )
    if not 0.5 <= policy.confidence < 1:
        raise ConfigError(f"policy.confidence={policy.confidence} is not allowed: give 0.5 or more and less than 1.")
    above_zero = {
        "gpu_memory_gib": policy.gpu_memory_gib,
        "latency_p95_ms": policy.latency_p95_ms,
        "joules_per_example": policy.joules_per_example,
    } | {f"tasks.{task}": weight for task, weight in policy.tasks.items()}
    for key, value in above_zero.items():
        if value is not None and value <= 0:
            raise ConfigError(f"policy.{key}={value} is not allowed: give a number above 0.")


def check_name(key: str, name: str) -> None:
    """A name that stands in paths, in messages and in filters. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{key}='{name}' is not allowed: a name has letters, digits, blanks and . _ + ( ) -, and begins with a "
            "letter or a digit."
        )


def check_no_secrets(config: RunConfig) -> None:
    """Whatever is configured is logged: none of it may be a secret of the environment. Raises ConfigError."""
    known = {name: secret for name, secret in secrets().items() if len(secret) >= LONG_SECRET}
    for key, value in _texts("", asdict(config)) if known else ():
        for name, secret in known.items():
            if secret in value and key != "tracking.uri":  # which is logged without its password
                raise ConfigError(f"{key} holds the value of ${name}, which would be logged with it: leave it out.")


def _texts(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text of a configuration, by its dotted key."""
    if isinstance(value, dict):
        for name, inner in cast(dict[str, object], value).items():
            yield from _texts(f"{key}.{name}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in cast(list[object], value):
            yield from _texts(key, inner)
    elif isinstance(value, str):
        yield key, value


def check(config: RunConfig) -> None:
    """Ranges the types cannot say, names that are safe everywhere, no secrets. Raises ConfigError."""
    named = {"model": config.model, "quant": config.quant, "task": config.task, "prompt": config.prompt}
    for part, of in {**named, "engine": config.engine, "policy": config.policy}.items():
        check_name(f"{part}.name", of.name)
    for part in config.tracking.experiment.split("/"):
        check_name("tracking.experiment", part)
    check_no_secrets(config)
    check_policy(config.policy)
    at_least_one = {
        "engine.prefill_tokens": config.engine.prefill_tokens,
        "task.max_new_tokens": config.task.max_new_tokens,
        "prompt.num_samples": config.prompt.num_samples,
        "quant.calibration.num_samples": config.quant.calibration.num_samples,
        "launcher.gpus_per_worker": config.launcher.gpus_per_worker,
        "launcher.cpu_workers": config.launcher.cpu_workers,
        "launcher.cpus_per_worker": config.launcher.cpus_per_worker,
    }
    for key, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"{key}={value} is not allowed: give a whole number of at least 1.")
    if config.limit is not None and config.limit < 1:
        raise ConfigError(
            f"limit={config.limit} is not allowed: give a whole number of at least 1, or leave it out to take all."
        )
    for key, value in {
        "prompt.num_shots": config.prompt.num_shots,
        "measure.latency_examples": config.measure.latency_examples,
        "measure.latency_batch_size": config.measure.latency_batch_size,
        "engine.audit": config.engine.audit,
    }.items():
        if value < 0:
            raise ConfigError(f"{key}={value} is not allowed: give 0 or more.")
    check_devices(config.launcher.devices)
    check_batch(config.engine.batch)
    if config.prompt.num_samples > 1 and config.prompt.temperature <= 0:
        raise ConfigError(
            f"prompt.num_samples={config.prompt.num_samples} needs prompt.temperature above 0: "
            "greedy decoding gives the same answer each time."
        )


def check_batch(batch: int | str) -> None:
    """Raises ConfigError for what is neither `auto` nor a number of rows."""
    if batch != "auto" and (isinstance(batch, str) or batch < 1):
        raise ConfigError(f"engine.batch={batch} is not allowed: give auto, or a whole number of at least 1.")


def check_devices(devices: object) -> None:
    """Raises ConfigError for what is neither `auto` nor a list of devices, each named once."""
    listed = cast(list[object], devices) if isinstance(devices, list) else []
    names = [str(device) for device in listed if isinstance(device, int | str)]
    if devices != "auto" and (not names or len(set(names)) < len(listed)):
        raise ConfigError(f"launcher.devices={devices} is not allowed: give auto, or a list of GPU numbers as [0,1].")
