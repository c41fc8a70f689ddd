"""Hydra's side of a run: the schema, the command's overrides, and its errors in one line each."""

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from bioquant import foreign, network
from bioquant.config import RunConfig, conf_dir
from bioquant.errors import ConfigError, did_you_mean, unknown
from bioquant.places import project_root
from bioquant.validation import check

GROUPS = ("model", "quant", "task", "prompt", "engine", "measure", "tracking", "policy", "experiment")

TYPE_NAMES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
"""OmegaConf's names of types, in words."""


def register() -> None:
    """Make the schema and the resolvers known to Hydra."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    OmegaConf.register_new_resolver("bioquant_root", lambda: str(project_root()), replace=True)
    OmegaConf.register_new_resolver("bioquant_offline", network.is_offline, replace=True)


def to_run_config(composed: DictConfig) -> RunConfig:
    """The composed configuration as the dataclass, checked. Raises ConfigError."""
    try:
        config = cast(RunConfig, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        raise _explain(error) from error
    check(config)
    return config


def from_mapping(values: dict[str, Any]) -> RunConfig:
    """A configuration that crossed a process boundary as plain JSON."""
    return to_run_config(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunConfig), values)))


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """The opposite of `from_mapping`."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True))


def hydra_app(arguments: Sequence[str], job: Callable[[DictConfig], object]) -> None:
    """Run Hydra's application with these command-line arguments.

    Raises ConfigError for whatever in them does not compose; what `job` raises passes through.
    """
    register()
    _check_overrides(arguments)
    foreign.check(foreign.folders(arguments))
    # Hydra prints its own report and exits with 1 unless it is told to let exceptions through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["bioquant run", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, MarkedYAMLError) as error:
        raise _explain(error) from error


def compose_one(overrides: Sequence[str], config_dir: str | None = None) -> RunConfig:
    """One configuration, composed without running anything. Raises ConfigError."""
    _check_overrides(overrides)
    with _composing(config_dir) as extra:
        return to_run_config(hydra.compose("config", [*overrides, *extra]))


def compose_all(overrides: Sequence[str], config_dir: str | None = None) -> list[RunConfig]:
    """The cells of a sweep in the order in which Hydra's sweeper runs them, without running anything.

    Hydra takes a tenth of a second for a configuration. What is named in different parts of it (`model`, `task`, …) is
    composed once a choice and put together, unless an option of one part changes another. Raises ConfigError.
    """
    _check_overrides(overrides)
    with _composing(config_dir) as extra:

        def one(job: Sequence[str]) -> RunConfig:
            return to_run_config(hydra.compose("config", [*job, *extra]))

        jobs = _jobs(overrides, extra)
        return _from_parts(one, jobs) or [one(job) for job in jobs]


class _Completion(DefaultCompletionPlugin):
    """Hydra's completion, without a shell around it."""

    def ways_on(self, line: str) -> list[str]:
        return self._query("config", line)


def complete(before: Sequence[str], typed: str) -> list[str]:
    """What Hydra knows that the override being typed can become, beside those before it."""
    with _composing(None):
        return _Completion(GlobalHydra.instance().config_loader()).ways_on(" ".join([*before, typed]))


def _jobs(overrides: Sequence[str], extra: Sequence[str]) -> list[list[str]]:
    """The overrides of every cell: the product of what is swept, on the command line and by an experiment."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    given = parser.parse_overrides(list(overrides))
    fixed = [override.input_line or "" for override in given if not override.is_sweep_override()]
    whole = hydra.compose("config", [*fixed, *extra], return_hydra_config=True)
    swept = parser.parse_overrides([f"{key}={value}" for key, value in (whole.hydra.sweeper.params or {}).items()])
    axes = {override.get_key_element(): _choices(override) for override in [*swept, *given]}
    return [list(job) for job in product(*axes.values())]


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: only a list can be swept: {key}=a,b or choice(…), range(…), glob(…)."
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _from_parts(one: Callable[[Sequence[str]], RunConfig], jobs: Sequence[Sequence[str]]) -> list[RunConfig] | None:
    """The cells put together from each part's choices, composed beside the first cell's others.

    None where a choice in one part (an experiment, an interpolation) changes another part too.
    """
    split = [_by_part(job) for job in jobs]
    first, base = split[0], one(jobs[0])
    known: dict[tuple[str, tuple[str, ...]], Any] = {}
    for part, chosen in dict.fromkeys(
        choice for cell in split for choice in cell.items() if choice not in first.items()
    ):
        other = one([*chain.from_iterable({**first, part: chosen}.values())])
        if part not in _PARTS or replace(other, **{part: getattr(base, part)}) != base:
            return None
        known[part, chosen] = getattr(other, part)
    cells = [
        replace(base, **{choice[0]: known[choice] for choice in cell.items() if choice in known}) for cell in split
    ]
    for cell in cells:
        check(cell)
    return cells


_PARTS = frozenset(part.name for part in fields(RunConfig))


def _by_part(job: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """A cell's overrides by what they are part of: `model=x` and `model.dtype=y` are one choice."""
    found: dict[str, tuple[str, ...]] = {}
    for override in job:
        part = override.partition("=")[0].lstrip("+~").partition(".")[0]
        found[part] = (*found.get(part, ()), override)
    return found


@contextmanager
def _composing(config_dir: str | None) -> Generator[list[str]]:
    """Hydra made ready to compose; gives the overrides that make it look into a folder of the user's own too."""
    register()
    if config_dir and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir} is not a folder: name the one that holds model/, task/, …")
    foreign.check([Path(config_dir)] if config_dir else [])
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    except (HydraException, OmegaConfBaseException, MarkedYAMLError) as error:
        raise _explain(error) from error


def _check_overrides(arguments: Sequence[str]) -> None:
    """A misspelled key on the command line, named with its nearest neighbour: Hydra's own message has no such hint."""
    known = set(known_keys()) | set(GROUPS)
    for text in arguments:
        foreign.refuse(text)
        match = re.fullmatch(r"[+]{0,2}(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", text, flags=re.DOTALL)
        key = match["key"] if match else ""
        if match and key in GROUPS[:-1] and match["value"] in ("", "null"):
            raise ConfigError(f"{text} is not allowed: choose from {', '.join(names(key))}.")
        if not key or key.split(".")[0] == "hydra" or key in known:
            continue
        if not any(key.startswith(f"{free}.") for free in _free_keys()):
            raise ConfigError(
                f"key '{key}' is not known{did_you_mean(key, known)} See all keys with: bioquant run --cfg job"
            )


def known_keys() -> Iterator[str]:
    """Every dotted key of the configuration: `limit`, `model.dtype`, …"""
    return _keys(RunConfig, "")


def _keys(schema: type, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(schema).items():
        yield prefix + name
        for part in (hint, *get_args(hint)):
            if is_dataclass(part) and not str(hint).startswith("list"):
                yield from _keys(cast(type, part), f"{prefix}{name}.")


def _free_keys() -> list[str]:
    """Keys whose values are mappings or lists of the user's own making."""
    hints = {f"{group.name}.{inner.name}": inner.type for group in fields(RunConfig) for inner in _inner(group.type)}
    return [key for key, hint in hints.items() if str(hint).startswith(("dict", "list"))]


def _inner(schema: Any) -> tuple[Any, ...]:
    return fields(schema) if is_dataclass(schema) else ()


def _explain(error: Exception) -> ConfigError:
    """One line for what Hydra, OmegaConf or the YAML reader raised."""
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"override '{error.override}' cannot be read: write key=value; quote values with special signs."
        )
    if isinstance(error, MarkedYAMLError):
        return _bad_yaml(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause if str(error).startswith("Error merging override") else error)
    in_file = re.match(r"In '(?P<file>[^']+)': \w+ raised while composing config:\n(?P<rest>.*)", text, flags=re.DOTALL)
    where = f"{in_file['file']}.yaml: " if in_file else ""
    return ConfigError(where + _reason(in_file["rest"] if in_file else text, cause))


def _missing_choice(error: MissingConfigException) -> ConfigError:
    """An option that no YAML file offers."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = [str(option) for option in error.options or ()]
    return ConfigError(unknown(group.lstrip("/") or "config", name, options))


def _bad_yaml(error: MarkedYAMLError) -> ConfigError:
    """A file that is not YAML."""
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "a YAML file"
    return ConfigError(f"{where}: {error.problem}; this is not valid YAML.")


def _reason(text: str, error: Exception) -> str:
    """What is wrong with which key: the schema holds no such key, or the value has the wrong type."""
    first = text.split("\n")[0].strip()
    found = re.search(r"full_key: (\S+)", text)
    key = found[1] if found else str(getattr(error, "full_key", "") or "")
    if ("Key" in first and "not in" in first) or "Could not override" in first:
        if any(key.startswith(f"{free}.") for free in _free_keys()):
            return f"key '{key}' is one of your own: add it with ++{key}=VALUE."
        return f"key '{key}' is not known{did_you_mean(key, known_keys())} See all keys with: bioquant run --cfg job"
    if "missing mandatory value" in first.lower():
        return f"key '{key}' has no value: give one in the YAML or on the command line."
    wrong = re.search(r"[Vv]alue '(?P<value>.*?)'.*?(converted to|not a valid) (?P<type>\w+)", text)
    if wrong and wrong["type"] in TYPE_NAMES:
        return f"{key}='{wrong['value']}' is not {TYPE_NAMES[wrong['type']]}."
    choice = re.search(r"Invalid value '(?P<value>.*?)', expected one of \[(?P<allowed>.*)\]", text)
    if choice:
        return unknown(key, choice["value"], choice["allowed"].split(", "))
    return f"key '{key}': {first}." if key else first


def names(group: str) -> list[str]:
    """The options of a configuration group, sorted."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def options(group: str, schema: type) -> dict[str, Any]:
    """Every option of a group as its dataclass, by name."""
    return {name: load_option(conf_dir() / group / f"{name}.yaml", schema) for name in names(group)}


def load_option(path: Path, schema: type) -> Any:
    """One YAML of a group, held against its schema. Raises ConfigError that names the file."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path.name}: {_reason(str(error), error)}") from error


def part(group: str, schema: type, overrides: Sequence[str], config_dir: str | None = None) -> Any:
    """A group that no run depends on (`registry`, `serve`): `GROUP=OPTION`, else its default, and `GROUP.KEY=VALUE`.

    Raises ConfigError.
    """
    chosen = [override.partition("=")[2] for override in overrides if override.startswith(f"{group}=")]
    found = {path.stem: path for folder in _folders(group, config_dir) for path in sorted(folder.glob("*.yaml"))}
    option = chosen[-1] if chosen else "default"
    foreign.check([Path(config_dir)] if config_dir else [])
    if option not in found:
        raise ConfigError(unknown(group, option, found))
    known = [f"{group}.{key.name}" for key in fields(schema) if key.name != "name"]
    given = [override for override in overrides if not override.startswith(f"{group}=")]
    for override in given:
        key = override.partition("=")[0]
        if key not in known:
            raise ConfigError(f"key '{key}' is not known{did_you_mean(key, known)} There are: {', '.join(known)}.")
    try:
        values = OmegaConf.from_dotlist([override.removeprefix(f"{group}.") for override in given])
        base = OmegaConf.structured(load_option(found[option], schema))
        return OmegaConf.to_object(OmegaConf.merge(base, values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}.{_reason(str(error), error)}") from error
    except MarkedYAMLError as error:
        raise ConfigError(
            f"{' '.join(given)} cannot be read: {error.problem}; quote values with special signs."
        ) from error


def _folders(group: str, config_dir: str | None) -> list[Path]:
    """Where a group's options are; those of the user's own folder come last, and win."""
    return [folder / group for folder in (conf_dir(), *([Path(config_dir)] if config_dir else []))]
