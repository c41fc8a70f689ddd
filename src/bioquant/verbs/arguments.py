"""What the verbs over logged runs are given: which runs, from which store, under which policy."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bioquant import compose, selection
from bioquant.compare import Compared, compare
from bioquant.config import PolicyConfig
from bioquant.errors import ConfigError, did_you_mean, unknown

if TYPE_CHECKING:
    from bioquant.tracking import Store


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    """The options that all of them have."""
    made = argparse.ArgumentParser(
        prog=f"bioquant {verb}",
        description=description,
        epilog=f"Runs are chosen by {', '.join(f'{key}=a,b' for key in selection.FILTERS)}; the policy by "
        "policy=NAME and policy.KEY=VALUE, the experiment by tracking.experiment=NAME.",
    )
    made.add_argument("arguments", nargs="*", metavar="key=value", help="which runs, and settings")
    made.add_argument("--uri", help="the tracking store; by default the one runs are logged to")
    made.add_argument("--config-dir", help="a folder of configuration files of your own")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def take(options: argparse.Namespace, key: str, allowed: Sequence[str]) -> str:
    """The value of an argument that is the verb's own, out of the list; empty where it is not given."""
    own = [argument for argument in options.arguments if argument.startswith(f"{key}=")]
    options.arguments = [argument for argument in options.arguments if argument not in own]
    named = own[-1].partition("=")[2] if own else ""
    if own and named not in allowed:
        raise ConfigError(unknown(key, named, allowed))
    return named


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """All runs that were asked for, compared."""

    store: "Store"
    policy: PolicyConfig
    compared: Compared


def gather(options: argparse.Namespace) -> Gathered:
    """Read the runs that were asked for and compare them. Mistakes in arguments are told before MLflow is loaded."""
    chosen = selection.parse(options.arguments)
    config = compose.compose_one(chosen.overrides, options.config_dir)
    policy = config.policy
    if any(override.startswith("policy.") for override in chosen.overrides):
        policy = replace(policy, name=f"{policy.name}, adjusted")
    from bioquant import runs

    store = runs.open_existing(replace(config.tracking, uri=options.uri or config.tracking.uri))
    wanted = selection.select(runs.read(store), chosen.filters)
    sets, refusals = runs.evidence(store, wanted)
    compared = compare(sets, policy)
    compared = replace(compared, refusals=(*refusals, *compared.refusals))
    return Gathered(store=store, policy=policy, compared=compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A verb's `key=value` arguments: its own by key, and those of the configuration by group, as overrides."""

    own: Mapping[str, str]
    overrides: Mapping[str, Sequence[str]]

    def of(self, *groups: str) -> list[str]:
        """The overrides of these groups."""
        return [override for group in groups for override in self.overrides[group]]


def settings(arguments: Sequence[str], keys: Sequence[str], groups: Sequence[str]) -> Settings:
    """Split what a verb is given. Raises ConfigError for an argument that is neither."""
    own: dict[str, str] = {}
    overrides: dict[str, list[str]] = {group: [] for group in groups}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        group = key.partition(".")[0]
        if key in keys and value:
            own[key] = value
        elif equals and group in groups:
            overrides[group].append(argument)
        elif not equals or key in keys:
            raise ConfigError(f"'{argument}' cannot be read: write key=value.")
        else:
            known = ", ".join([*(f"{own}=…" for own in keys), *(f"{group}=… and {group}.KEY=…" for group in groups)])
            raise ConfigError(f"key '{key}' is not known{did_you_mean(key, (*keys, *groups))} There are: {known}.")
    return Settings(own=own, overrides=overrides)
