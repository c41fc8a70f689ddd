"""`bioquant register`: what was chosen becomes a version in MLflow's model registry, with its card and aliases."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from bioquant import compose
from bioquant.config import PolicyConfig, RunConfig
from bioquant.endpoints import RegistryConfig
from bioquant.errors import ConfigError
from bioquant.verbs import arguments as given

if TYPE_CHECKING:
    from bioquant.registry import Order, Registered
    from bioquant.tracking import Store

KEYS = ("run", "recommendation", "task")
GROUPS = ("registry", "policy", "tracking", "data")


def main(arguments: Sequence[str]) -> None:
    """Register every cell that was asked for, and say how each is loaded and served."""
    options = _options(arguments)
    settings = given.settings(options.arguments, KEYS, GROUPS)
    registry: RegistryConfig = compose.part("registry", RegistryConfig, settings.of("registry"), options.config_dir)
    config = compose.compose_one(settings.of("policy", "tracking", "data"), options.config_dir)
    _check(settings)
    from bioquant import runs
    from bioquant.registry import register

    store = runs.open_existing(replace(config.tracking, uri=options.uri or config.tracking.uri))
    orders = _orders(store, settings, registry, config, force=options.force)
    if registry.registered_model and len(orders) > 1:
        raise ConfigError(
            f"registry.registered_model={registry.registered_model} is one name for {len(orders)} tasks: choose one "
            "with task=, or leave the name out to have one of each task's own."
        )
    made = [register(store, order, registry) for order in orders]
    if options.json:
        print(json.dumps([{**asdict(one), "uri": one.uri} for one in made], indent=2))
    else:
        _show(made)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bioquant register",
        description="Make a recommendation's choices, or one run, versions in MLflow's model registry.",
        epilog="Settings: registry.registered_model=NAME, registry.aliases=[a,b], registry.save_weights=true, "
        "registry.choice=overall; of a run also policy=NAME, under which it is compared with its baseline.",
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="key=value", help="recommendation=ID, of one task with task=NAME; or run=ID"
    )
    parser.add_argument("--force", action="store_true", help="without a comparison with the baseline; the card says so")
    parser.add_argument("--uri", help="the tracking store; by default the one runs are logged to")
    parser.add_argument("--config-dir", help="a folder of configuration files of your own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_intermixed_args(arguments)


def _check(settings: given.Settings) -> None:
    """What does not go together. Raises ConfigError."""
    own = settings.own
    if "run" in own and "recommendation" in own:
        raise ConfigError("run= and recommendation= name two things to register: leave one out.")
    if "run" in own and "task" in own:
        raise ConfigError("task= chooses among a recommendation's tasks; a run has one: leave it out.")
    if "recommendation" in own and settings.of("policy"):
        raise ConfigError(
            f"{settings.of('policy')[0]} is not allowed with recommendation=: that has its policy. Make another with "
            "bioquant recommend."
        )


def _orders(
    store: "Store", settings: given.Settings, registry: RegistryConfig, config: RunConfig, *, force: bool
) -> list["Order"]:
    from bioquant.registry import Order, recommended

    own, root = settings.own, config.data.root
    if "run" in own:
        policy = _named(config.policy, settings.of("policy"))
        return [Order(run_id=own["run"], policy=policy, force=force, data_root=root)]
    if "recommendation" not in own:
        raise ConfigError(f"say what to register: recommendation=ID or run=ID.{recommended.hint(store)}")
    found = recommended.read(store, own["recommendation"], registry.choice, own.get("task"))
    return [
        Order(
            run_id=run_id,
            policy=found.policy,
            aliases=(found.alias,),
            recommendation=own["recommendation"],
            force=force,
            data_root=root,
        )
        for run_id in found.cells.values()
    ]


def _named(policy: PolicyConfig, overrides: Sequence[str]) -> PolicyConfig:
    """A policy that the command line changed is not the one of that name."""
    changed = any(override.startswith("policy.") for override in overrides)
    return replace(policy, name=f"{policy.name}, adjusted") if changed else policy


def _show(made: Sequence["Registered"]) -> None:
    for one in made:
        state = (
            "new" if one.is_new else "the same recipe as before: no new version, its card and aliases are up to date"
        )
        print(f"{one.name} version {one.version} ({state})\n  {one.label}\n  {one.uri}")
    first = made[0].uri
    print(f'\nLoad: mlflow.pyfunc.load_model("{first}").predict(frame)\nServe: bioquant serve {first}', file=sys.stderr)
