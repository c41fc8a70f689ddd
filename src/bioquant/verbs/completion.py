"""`bioquant completion bash|zsh|fish`: the script that makes a shell complete verbs, options and overrides."""

import argparse
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.resources import files

from bioquant.verbs import VERBS

SHELLS = ("bash", "zsh", "fish")

WORDS = "words"
"""What the scripts ask: the ways on from the words after `bioquant`, of which the last is being typed."""

SUBJECTS = {"tasks": ("check",), "completion": SHELLS}
"""Words, not settings, that come after a verb."""

GROUPS: dict[str, tuple[str, ...]] = {
    "run": (),
    "plan": (),
    "tasks": ("model", "prompt", "data"),
    "compare": ("model", "quant", "task", "prompt", "policy", "tracking"),
    "recommend": ("model", "quant", "task", "prompt", "policy", "tracking"),
    "register": ("policy", "tracking"),
    "serve": ("tracking",),
    "ui": ("tracking",),
}
"""The parts of a run's configuration that a verb takes overrides of; of none named, all."""


def main(arguments: Sequence[str]) -> None:
    """Print the shell's script, or, asked by it, a line for each way on."""
    if arguments[:1] == [WORDS]:
        print("\n".join(candidates(arguments[1:])))
        return
    parser = argparse.ArgumentParser(
        prog="bioquant completion",
        description=__doc__,
        epilog='bash: eval "$(bioquant completion bash)" in ~/.bashrc; zsh: eval "$(bioquant completion zsh)" in '
        "~/.zshrc after compinit; fish: bioquant completion fish > ~/.config/fish/completions/bioquant.fish",
    )
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(arguments).shell
    print((files("bioquant.verbs") / f"completion.{shell}").read_text(encoding="utf-8"), end="")


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words after `bioquant` can become."""
    if len(words) < 2:
        return _starting((*VERBS, "--help", "--version"), *words)
    verb, typed = words[0], words[-1]
    if verb not in VERBS:
        return []
    if typed.startswith("-"):
        return _starting(_options(verb), typed)
    subjects = SUBJECTS.get(verb, ()) if len(words) == 2 else ()
    return [*_starting(subjects, typed), *(_overrides(words[1:-1], typed, GROUPS[verb]) if verb in GROUPS else ())]


def _starting(known: Sequence[str], typed: str = "") -> list[str]:
    return [word for word in known if word.startswith(typed)]


def _options(verb: str) -> list[str]:
    """The options that the verb's own help names."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        import_module(f"bioquant.verbs.{verb}").main(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", told.getvalue())))


def _overrides(before: Sequence[str], typed: str, groups: Sequence[str]) -> Iterator[str]:
    """The ways on that Hydra knows; of a list (`quant=none,bnb_`) those of its last element."""
    from bioquant.compose import complete

    key, equals, value = typed.partition("=")
    _, comma, last = value.rpartition(",")
    asked = f"{key}{equals}{last}"
    for found in complete(before, asked):
        if not groups or re.split(r"[.=/]", found)[0] in groups:
            yield typed[: len(typed) - len(last)] + found.removeprefix(f"{key}=") if comma else found
