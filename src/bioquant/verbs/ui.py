"""`bioquant ui`: the MLflow UI on the store the runs are logged to."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from bioquant import compose
from bioquant.config import TrackingConfig
from bioquant.shown import without_password
from bioquant.tracking import views
from bioquant.verbs import arguments as given


def main(arguments: Sequence[str]) -> None:
    """Start the server in place of this process, and name the page to open; of a store that is a server only the page.

    Raises TrackingError where the store is not there.
    """
    options = _options(arguments)
    tracking = _tracking(options)
    from bioquant import runs

    store = runs.open_existing(tracking)
    uri, served = store.uri, store.uri.startswith(("http://", "https://"))
    page = without_password(uri).rstrip("/") if served else f"http://{options.host}:{options.port}"
    print(f"Open {page}/{views.path(store.experiment_id)}", flush=True)
    if served:
        return
    print(f"MLflow UI on the store {without_password(uri)}; ready in seconds, Ctrl-C ends it.", flush=True)
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # and not on the command line, which everybody on the machine sees
    command = [sys.executable, "-m", "mlflow", "server", "--host", options.host]
    os.execv(sys.executable, [*command, "--port", str(options.port), "--workers", "1"])


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bioquant ui", description=__doc__)
    parser.add_argument("arguments", nargs="*", metavar="key=value", help="the experiment: tracking.experiment=NAME")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; the default is this machine alone"
    )
    parser.add_argument("--uri", help="the tracking store; by default the one runs are logged to")
    return parser.parse_intermixed_args(arguments)


def _tracking(options: argparse.Namespace) -> TrackingConfig:
    """Which store and experiment. Raises ConfigError."""
    settings = given.settings(options.arguments, (), ("tracking",))
    config = compose.compose_one(settings.of("tracking")).tracking
    return replace(config, uri=options.uri or config.uri)
