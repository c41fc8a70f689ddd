"""The command `bioquant`: a lazy table of verbs. Nothing heavy is imported before its verb is chosen."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bioquant import network
from bioquant.errors import BioquantError, did_you_mean
from bioquant.verbs import VERBS

COMPOSING = ("run", "plan")
"""Verbs that `offline=true` is a key of the configuration for; all others know it too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0 done, 1 failed, 2 asked for wrongly, 130 interrupted, 141 nobody reads the output any more (`| head`).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        print(f"bioquant {_version()}")
        return 0
    if not given or given[0] in ("-h", "--help"):
        _parser().parse_args(given or ["--help"])
        return 0
    verb, rest = given[0], given[1:]
    if verb not in VERBS:
        print(
            f"verb '{verb}' is not known{did_you_mean(verb, VERBS)} Choose from: {', '.join(VERBS)}.", file=sys.stderr
        )
        return 2
    try:
        network.start()
        import_module(f"bioquant.verbs.{verb}").main(_offline(verb, rest))
        sys.stdout.flush()
    except BioquantError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if _is_read():
            raise  # it was another pipe
        return 141
    return 0


def _offline(verb: str, arguments: Sequence[str]) -> list[str]:
    """Go offline where the arguments say so, before a library is imported; what the verb itself is to be given."""
    said = [argument for argument in arguments if argument.casefold() == "offline=true"]
    if said:
        network.forbid()
    return [argument for argument in arguments if argument not in said or verb in COMPOSING]


def _is_read() -> bool:
    """Whether our output still goes somewhere. Where not, Python must not complain of it again on its way out."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bioquant",
        description="Which language model, at which precision, prompted how, for biomedical text on the GPU you own.",
        epilog="bioquant VERB --help says more about a verb.",
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    # argparse makes the column of names as wide as this placeholder: it must not be shorter than a verb.
    verbs = parser.add_subparsers(title="verbs", metavar="VERB [arguments]")
    for verb, help_text in VERBS.items():
        verbs.add_parser(verb, help=help_text, add_help=False)
    return parser


def _version() -> str:
    from importlib.metadata import version

    return version("bioquant")
