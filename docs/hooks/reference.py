"""MkDocs hook: reference pages made from the configuration's dataclasses and the verbs' own help, at every build."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from importlib import import_module
from inspect import getdoc
from types import NoneType
from typing import Any, cast, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from bioquant.cli import VERBS
from bioquant.config import RunConfig
from bioquant.endpoints import RegistryConfig, ServeConfig

KEY = re.compile(r"^(\w+(?:, \w+)*): ", re.MULTILINE)
"""What begins the meaning of a key, or of several, in a docstring; its further lines are indented."""

FILE = re.compile(r"^<!-- file: (\S+) -->\n```(\w*)$", re.MULTILINE)

INTRODUCTION = """# Every key

Made from the dataclasses of the package when this page is built. Override any key on the command line
(`bioquant run limit=20 quant.check=true`), in a YAML of your own (`--config-dir`), or in an experiment.
`bioquant run --cfg job` prints the values that a command would have.
"""

VERBS_INTRODUCTION = """# Every verb

What `bioquant VERB --help` prints, taken when this page is built. Exit codes: 0 done, 1 failed, 2 asked for wrongly,
130 interrupted, 141 nobody reads the output any more.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not written by hand."""
    files.append(File.generated(config, "reference/configuration.md", content=configuration()))
    files.append(File.generated(config, "reference/cli.md", content=verbs()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A block that is a file's content shows the file's name, which stands in a comment before it."""
    return FILE.sub(r'```\2 title="\1"', markdown)


def configuration() -> str:
    """The keys of a run, then those of registering and serving."""
    roots = [section("", RunConfig), section("registry", RegistryConfig), section("serve", ServeConfig)]
    return "\n".join([INTRODUCTION, *roots])


def section(path: str, schema: type[Any]) -> str:
    """A dataclass and, after it, those it holds. Raises PluginError for a key without a meaning."""
    duty, meanings = meaning_of_keys(schema)
    types = get_type_hints(schema)
    plain = [one for one in fields(schema) if not is_dataclass(types[one.name])]
    rows = [row(one, types[one.name], path, meanings) for one in plain if one.name != "name"]
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    heading = f"## `{path}`" if path else "## A run"
    nested = [section(f"{path}.{name}".lstrip("."), schema) for name, schema in inside(schema, types)]
    return "\n".join([heading, "", duty, "", *table, "", *nested])


def inside(schema: type[Any], types: dict[str, Any]) -> Iterator[tuple[str, type[Any]]]:
    """The dataclasses that a dataclass holds: itself, as an option, or as a list's items."""
    for one in fields(schema):
        for kind in (types[one.name], *get_args(types[one.name])):
            if is_dataclass(kind):
                suffix = "[]" if kind is not types[one.name] and NoneType not in get_args(types[one.name]) else ""
                yield one.name + suffix, cast(type[Any], kind)


def meaning_of_keys(schema: type[Any]) -> tuple[str, dict[str, str]]:
    """What a dataclass is for, and what each of its keys means, from its docstring."""
    duty, _, rest = (getdoc(schema) or "").partition("\n")
    parts = KEY.split(rest)
    named = zip(parts[1::2], parts[2::2], strict=True)
    meanings = {key: " ".join(text.split()) for keys, text in named for key in keys.split(", ")}
    unknown = meanings.keys() - {one.name for one in fields(schema)}
    if unknown:
        raise PluginError(f"{schema.__name__} says what {sorted(unknown)} mean and has no such keys")
    return " ".join([duty, *parts[0].split()]), meanings


def row(one: "Field[Any]", kind: Any, path: str, meanings: dict[str, str]) -> str:
    """A key's line of the table."""
    if one.name not in meanings:
        raise PluginError(f"{path}.{one.name} is not explained in its dataclass's docstring")
    key = f"{path}.{one.name}".lstrip(".")
    cells = [f"`{key}`", shown_type(kind), shown_default(one), meanings[one.name]]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def shown_type(kind: Any) -> str:
    """As a user writes it: the allowed words of an enum, else the type's name."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ", ".join(f"`{member}`" for member in kind)
    if is_dataclass(kind):
        return "keys of its own, below"
    inner = [shown_type(part) for part in get_args(kind) if part is not NoneType]
    if origin := get_origin(kind):
        return f"{origin.__name__} of {': '.join(inner)}" if origin in (list, dict) else " or ".join(inner)
    return {"Any": "any", "str": "text", "int": "whole number", "float": "number", "bool": "true or false"}[
        kind.__name__
    ]


def shown_default(one: "Field[Any]") -> str:
    """The dataclass's own; what an option in `conf/` sets is not known here."""
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if value == "???":
        return "set by the option"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, list):
        return f"`[{', '.join(str(item) for item in cast(list[object], value))}]`"
    return f"`{value}`"


def verbs() -> str:
    """Every verb's help, as it is printed at 80 columns."""
    os.environ["COLUMNS"] = "80"
    pages = [
        f"## bioquant {verb}\n\n{VERBS[verb]}\n\n```text\n{help_of(verb)}\n```\n" for verb in VERBS if verb != "run"
    ]
    run = f"## bioquant run\n\n{VERBS['run']}\n\nTakes `key=value` overrides of [every key](configuration.md), "
    run += "`-m` for a sweep over lists, `--config-dir FOLDER` for files of your own, `--cfg job` to print the "
    run += "configuration and stop, `--json` for JSON. `bioquant run --help` lists every option of every group, "
    run += "`bioquant run --hydra-help` what Hydra itself takes.\n"
    return "\n".join([VERBS_INTRODUCTION, run, *pages])


def help_of(verb: str) -> str:
    """What `bioquant VERB --help` prints."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            import_module(f"bioquant.verbs.{verb}").main(["--help"])
    except SystemExit as ended:
        if ended.code:
            raise PluginError(f"bioquant {verb} --help ends with exit code {ended.code}") from ended
    return printed.getvalue().rstrip()
