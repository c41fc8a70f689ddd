"""`bioquant sync`: deliver what was logged while the tracking server was away."""

import argparse
from collections.abc import Sequence

from bioquant import places, shown, tracking
from bioquant.config import TrackingConfig
from bioquant.errors import TrackingError


def main(arguments: Sequence[str]) -> None:
    """Deliver every spool of the project; raises TrackingError for what a server does not take."""
    parser = argparse.ArgumentParser(prog="bioquant sync", description=__doc__)
    parser.add_argument(
        "--uri", help="one tracking store; by default every one of this project that something waits for"
    )
    options = parser.parse_args(arguments)
    spooled = [found for found in tracking.spooled() if options.uri in (None, found.uri)]
    if not spooled:
        print("Nothing waits for delivery.")
    problems = [problem for found in spooled if (problem := deliver(found))]
    if problems:
        raise TrackingError("\n".join(problems))


def deliver(found: tracking.Spooled) -> str:
    """One spool; returns what went wrong."""
    try:
        store = tracking.open_store(TrackingConfig(name="sync", uri=address(found), experiment=found.experiment))
        number = tracking.sync(store)
    except TrackingError as error:
        return str(error)
    print(f"{number} run{'' if number == 1 else 's'} delivered to {found.uri}, experiment {found.experiment}.")
    return ""


def address(found: tracking.Spooled) -> str:
    """The store's address, whose password is not kept on disk: it is taken from where runs take it."""
    current = places.tracking_uri(None)
    return current if shown.without_password(current) == found.uri else found.uri
