"""What each cell of a sweep is expected to take, for the plan that is shown before any runs. Nothing is loaded."""

from collections.abc import Sequence
from dataclasses import replace

from bioquant import costs, forecast, hardware
from bioquant.config import Device, RunConfig
from bioquant.costs import History
from bioquant.errors import ConfigError, ModelError, TrackingError
from bioquant.forecast import Target
from bioquant.hardware import Gpu
from bioquant.lengths import Reader
from bioquant.plan import RunPlan
from bioquant.sweep.preview import Estimate, Estimator

MIB = 2**20


def estimator(gpus: Sequence[Gpu]) -> Estimator:
    """Estimates as `bioquant plan` makes them, for what a sweep's workers run on where there are these GPUs."""
    reader, logged = Reader(), dict[Device, History]()

    def estimate(plan: RunPlan) -> Estimate:
        aim = target(plan.config, gpus)
        if aim.device not in logged:
            logged[aim.device] = _history(plan.config, aim.device)
        try:
            found = forecast.cell(plan.config, reader.lengths(plan.config), aim, logged[aim.device])
        except (ConfigError, ModelError):  # an architecture that is not known before loading
            return Estimate()
        return Estimate(
            seconds=found.seconds,
            load_s=found.load_s,
            memory_mib=found.memory.peak_device / MIB,
            disk_mib=found.download / MIB,
            device=aim.name,
            fits=found.largest_batch > 0,
        )

    return estimate


def target(config: RunConfig, gpus: Sequence[Gpu]) -> Target:
    """The card of the policy, else the smallest GPU here; where there is none, the largest that plans know."""
    if hardware.device_of(config, gpus) is Device.cpu:
        return forecast.target(replace(config.policy, gpu_memory_gib=None), Device.cpu)
    here = min((gpu.memory_gib or hardware.UNKNOWN_GIB for gpu in gpus), default=max(forecast.CARDS_GIB))
    number = config.launcher.gpus_per_worker
    size = (config.policy.gpu_memory_gib or here) * number
    return Target(Device.cuda, int(size * hardware.GIB), f"{size:g} GiB of GPU memory")


def _history(config: RunConfig, device: Device) -> History:
    """A plan is worth having without the tracking server too."""
    try:
        return costs.history(config.tracking, device)
    except TrackingError:
        return {}
