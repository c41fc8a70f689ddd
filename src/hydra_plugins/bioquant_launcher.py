"""The launcher `grouped` and the sweeper before it. Hydra accepts plugins only from this namespace; the work is done in
`bioquant.sweep`.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bioquant.shown import masked


class GroupedLauncher(Launcher):
    """Runs a sweep's cells grouped by (model, quant), each group in a worker of its own, here or on a Ray cluster."""

    def __init__(self, *, on_ray: bool = False) -> None:
        self._on_ray = on_ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs to compose the cells."""
        self.config = config
        self.task_function = task_function
        self.hydra_context = hydra_context

    def launch(
        self,
        job_overrides: Sequence[Sequence[str]],
        initial_job_idx: int,  # noqa: ARG002 - Hydra's signature; a sweep is one batch
    ) -> Sequence[JobReturn]:
        """Hand the sweep over. Raises what the sweep raises."""
        from bioquant.verbs.run import Application

        assert isinstance(self.task_function, Application)
        folder = Path(str(self.config.hydra.sweep.dir))
        self.task_function.sweep(self._compose, job_overrides, folder, on_ray=self._on_ray)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]

    def _compose(self, overrides: list[str]) -> DictConfig:
        cell = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(cell):
            del cell["hydra"]
        return cell


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, but that it leaves checking the cells to a launcher that composes them all before the first.

    Hydra's check composes every cell, a tenth of a second each, and throws the result away.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep for `multirun.yaml`, which the sweeper writes, the configuration without a password."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert config.hydra.sweep.dir  # resolved before it is copied: both must have the same
        self.config = deepcopy(config)
        uri = cast(dict[str, Any], OmegaConf.to_container(config.tracking))["uri"]
        OmegaConf.update(self.config, "tracking.uri", uri and masked(uri), force_add=True)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Where other launchers run, as Hydra does."""
        if not isinstance(self.launcher, GroupedLauncher):
            super().validate_batch_is_legal(batch)
