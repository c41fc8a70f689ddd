"""What the types of a configuration cannot say: ranges, and choices that contradict each other."""

from typing import cast

from bioquant.config import RunConfig
from bioquant.errors import ConfigError


def check(config: RunConfig) -> None:
    """Ranges the types cannot say. Raises ConfigError."""
    at_least_one = {
        "engine.batch_size": config.engine.batch_size,
        "engine.prefill_tokens": config.engine.prefill_tokens,
        "task.max_new_tokens": config.task.max_new_tokens,
        "prompt.num_samples": config.prompt.num_samples,
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
    }.items():
        if value < 0:
            raise ConfigError(f"{key}={value} is not allowed: give 0 or more.")
    check_devices(config.launcher.devices)
    if config.prompt.num_samples > 1 and config.prompt.temperature <= 0:
        raise ConfigError(
            f"prompt.num_samples={config.prompt.num_samples} needs prompt.temperature above 0: "
            "greedy decoding gives the same answer each time."
        )


def check_devices(devices: object) -> None:
    """Raises ConfigError for what is neither `auto` nor a list of devices, each named once."""
    listed = cast(list[object], devices) if isinstance(devices, list) else []
    names = [str(device) for device in listed if isinstance(device, int | str)]
    if devices != "auto" and (not names or len(set(names)) < len(listed)):
        raise ConfigError(f"launcher.devices={devices} is not allowed: give auto, or a list of GPU numbers as [0,1].")
