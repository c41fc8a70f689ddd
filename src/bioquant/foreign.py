"""Configuration that somebody else may have written: values only. Nothing in it may name code to run, fill the memory,
or be a password that would be kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from bioquant.errors import ConfigError
from bioquant.shown import without_password

MOST_VALUES = 100_000
"""Values of one file, with every alias written out: a few lines of aliases of aliases come to more than any memory."""

CODE_KEYS = ("_target_", "_partial_")
"""Keys by which Hydra calls what they name; a launcher of ours is chosen by its name."""


def refuse(argument: str) -> None:
    """Raise ConfigError for what a command line may not say."""
    if argument.startswith("--experimental-rerun"):
        raise ConfigError(
            f"{argument} is not allowed: it reads a pickle, which can run anything. Repeat the overrides."
        )
    if "_target_" in argument:
        raise ConfigError(f"override '{argument}' is not allowed: no setting of ours names code to run (_target_).")
    key, _, value = argument.lstrip("+").partition("=")
    if key == "tracking.uri" and value != without_password(value):
        raise ConfigError(
            "tracking.uri holds a password, which the command's history, and what Hydra keeps of it, would show: "
            "set the variable MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )


def check(folders: Iterable[Path]) -> None:
    """Look at every YAML file of these folders. Raises ConfigError for the first that is more than values."""
    for folder in folders:
        for path in _files(folder, set()):
            _check_file(path)


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The YAML files in a folder and below it, also behind links, which Hydra follows; each folder once."""
    if not folder.is_dir() or folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path, seen)
        elif path.suffix == ".yaml":
            yield path


def folders(arguments: Sequence[str]) -> Iterator[Path]:
    """Where Hydra is told to look for files beside ours: --config-dir, --config-path, hydra.searchpath."""
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd", "--config-path", "-cp"):
            yield Path(value if equals else next(iter(arguments[place + 1 :]), ""))
        elif option.lstrip("+") == "hydra.searchpath":
            yield from (Path(entry.strip(" \"'").removeprefix("file://")) for entry in value.strip("[]").split(","))


def _check_file(path: Path) -> None:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem}; this is not valid YAML.") from error
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {type(error).__name__}; this is not valid YAML.") from error
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: it holds no settings: write key: value, one a line.")
    if node is not None and _size(node, {}, path) > MOST_VALUES:
        raise ConfigError(f"{path}: its aliases come to more than {MOST_VALUES:,} values: write them out, or fewer.")


def _size(node: yaml.Node, known: dict[int, int], path: Path) -> int:
    """Values in a node with its aliases written out; one that holds itself has more than any number."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # while it is counted: whoever comes here again is inside it
        known[id(node)] = 1 + sum(_size(part, known, path) for part in _parts(node, path))
    return known[id(node)]


def _parts(node: yaml.Node, path: Path) -> list[yaml.Node]:
    """What a node holds. Raises ConfigError for a key that names code, and for a tag that makes an object."""
    if node.tag.startswith(("tag:yaml.org,2002:python/", "!")):
        raise ConfigError(
            f"{path}, line {node.start_mark.line + 1}: {node.tag} is not allowed: files hold values only."
        )
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    for key, _ in node.value:
        if key.value in CODE_KEYS:
            line = key.start_mark.line + 1
            raise ConfigError(
                f"{path}, line {line}: the key '{key.value}' is not allowed: files hold values only, and a "
                "launcher is chosen by its name (hydra/launcher=…)."
            )
    return [part for pair in node.value for part in pair]
