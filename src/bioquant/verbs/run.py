"""`bioquant run`: the Hydra application. One cell in this process, or with -m a sweep."""

import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bioquant import grid, privacy
from bioquant.compose import hydra_app, to_run_config
from bioquant.config import RunConfig
from bioquant.engine import offers
from bioquant.errors import BioquantError
from bioquant.shown import masked


class Application:
    """What Hydra runs: called for one cell; the launcher `grouped` calls `sweep` for many. Keeps the table's rows.

    The stages are imported only once the configuration is checked: a mistake in it is told before torch is loaded.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.rows: list[Mapping[str, object]] = []
        self.errors: list[BioquantError] = []
        self.as_json = as_json

    def __call__(self, composed: DictConfig) -> None:
        """One cell in this process.

        An error is kept, since Hydra would print lines of its own around it; but where a launcher may have taken this
        object to another process, which keeps nothing, it has to travel back by itself.
        """
        try:
            self._single(to_run_config(composed))
        except BioquantError as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            self.errors.append(error)

    def _single(self, config: RunConfig) -> None:
        privacy.enter(config)
        offers.check(config)
        from bioquant import run, tables

        with privacy.wordless():
            cell, outcome = run.run_single(config, Path(HydraConfig.get().runtime.output_dir))
        self.rows.append(tables.row(cell, outcome))

    def sweep(
        self, one: Callable[[list[str]], DictConfig], jobs: Sequence[Sequence[str]], folder: Path, *, on_ray: bool
    ) -> None:
        """A sweep's cells, grouped into workers. Raises CellsFailedError after all have ended.

        one: composes the configuration of a job, which is a list of overrides.
        """
        configs = grid.compose(lambda overrides: to_run_config(one(overrides)), jobs)
        privacy.enter(*configs)
        commands = [masked(shlex.join(["bioquant", "run", *overrides])) for overrides in jobs]
        from bioquant.sweep.launch import run_sweep, show_plan
        from bioquant.sweep.ray_site import RayCluster
        from bioquant.sweep.site import ThisMachine

        site = (RayCluster if on_ray else ThisMachine)(configs[0].launcher)
        if configs[0].sweep.dry_run:
            from bioquant.expected import estimator  # torch, and all the prompts: seconds that a start need not wait

            show_plan(configs, commands, folder.resolve(), site, estimator(site.gpus), as_json=self.as_json)
        else:
            run_sweep(configs, commands, folder.resolve(), site, self.rows)


def main(arguments: Sequence[str]) -> None:
    """Compose and run; what finished is shown whatever happened to the rest, with `--json` as JSON."""
    signal.signal(signal.SIGTERM, _interrupt)
    as_json = "--json" in arguments
    application = Application(as_json=as_json)
    try:
        hydra_app([argument for argument in arguments if argument != "--json"], application)
    finally:
        if application.rows:
            _show(application.rows, as_json=as_json)
    if application.errors:
        raise application.errors[0]


def _interrupt(_: int, __: FrameType | None) -> None:
    """SIGTERM ends a run like Ctrl-C: marked KILLED, not left RUNNING."""
    raise KeyboardInterrupt


def _show(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    from bioquant import tables

    tables.show_cells(rows, as_json=as_json)
    print("\nCompare the runs in the MLflow UI: bioquant ui", file=sys.stderr)
