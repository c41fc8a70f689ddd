"""`bioquant ui`: the MLflow UI on the store the runs are logged to."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bioquant import places
from bioquant.errors import TrackingError
from bioquant.shown import without_password


def main(arguments: Sequence[str]) -> None:
    """Start the server in place of this process; a store that is already a server is only named."""
    parser = argparse.ArgumentParser(prog="bioquant ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; the default is this machine alone"
    )
    parser.add_argument("--uri", help="the tracking store; by default the one runs are logged to")
    options = parser.parse_args(arguments)
    uri = places.tracking_uri(options.uri)
    if uri.startswith(("http://", "https://")):
        print(f"The runs are on the server {without_password(uri)}: open that address.")
        return
    path = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:///") and not Path(path).exists():
        raise TrackingError(
            f"tracking store '{path}' does not exist yet: log a run first, for example: bioquant run limit=4"
        )
    print(
        f"MLflow UI on http://{options.host}:{options.port} (store {without_password(uri)}); Ctrl-C ends it.",
        flush=True,
    )
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # and not on the command line, which everybody on the machine sees
    command = [sys.executable, "-m", "mlflow", "server", "--host", options.host]
    os.execv(sys.executable, [*command, "--port", str(options.port), "--workers", "1"])
