"""What tests of tracking share: a result without a model, a real server, a proxy that misbehaves on demand."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd

from bioquant import timeline, tracking
from bioquant.plan import plan
from bioquant.records import Footprint, QuantizationReport, RunResult, Score
from bioquant.timeline import Reading
from bioquant.tracking.content import metric_values
from bioquant.tracking.lifecycle import RESULT_FILES
from test_compose import composed
from test_plan import DATASET

PLAN = plan(composed(), DATASET, ())

RESULT = RunResult(
    scores=(Score(name="accuracy", value=0.625, ci_low=0.5, ci_high=0.75, num_examples=2),),
    headline="accuracy",
    num_examples=2,
    invalid_rate=0.0,
    empty_rate=0.0,
    truncated_input_rate=0.0,
    truncated_output_rate=0.0,
    footprint=Footprint(device="cpu", weights_mib=1.0 / 3, load_s=0.1),
    quantization=QuantizationReport(replaced={}, kept={}, bytes_before=1, bytes_after=1, backend=""),
    input_ids_sha256="a" * 64,
    trivial={"always yes": 0.5},
)

READINGS = [Reading(1_000_000 + second, {"system/cpu_utilization_percentage": float(second)}) for second in range(3)]

LOGGED = metric_values(RESULT) | READINGS[-1].values
"""The metrics of a cell's run: the result, and of the machine's course the last reading."""

ARTIFACTS = set(RESULT_FILES)


def write_files(folder: Path) -> None:
    """The files that a finished cell leaves in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RESULT_FILES:
        (folder / name).write_text(f"content of {name}", encoding="utf-8")
    timeline.write(folder, READINGS)
    row = {"example_id": "1", "prompt": "p", "output": "o", "answer": "yes", "target": "yes"}
    pd.DataFrame([row | {"correct": True, "invalid": False}]).to_parquet(folder / "predictions.parquet")


def start(store: tracking.Store, folder: Path, parent: str | None = None) -> str:
    """A cell's run."""
    return tracking.start_run(store, PLAN, folder, sweep_id="s", parent_run_id=parent)


def log(store: tracking.Store, run_id: str, folder: Path) -> None:
    """A cell's whole result, and its end."""
    write_files(folder)
    tracking.log_result(store, run_id, RESULT, folder)
    tracking.end_run(store, run_id, "FINISHED")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def serving(command: list[str], port: int, cwd: Path) -> Iterator[str]:
    """A real server, up and answering."""
    uri = f"http://127.0.0.1:{port}"
    log = (cwd / "server.log").open("a")
    environment = {**os.environ, "BIOQUANT_ROOT": str(cwd), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{uri}/health"):
            assert process.poll() is None, (cwd / "server.log").read_text()
            assert time.monotonic() < deadline, (cwd / "server.log").read_text()
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, 9)
        process.wait(timeout=30)
        log.close()


def server_command(folder: Path, port: int, workers: int = 1) -> list[str]:
    """A server on a SQLite file, with proxied artifacts."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/m.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    return [*command, "--workers", str(workers)]


@dataclass
class Proxy:
    """Stands between a client and a real server, and does to the requests what networks and servers do.

    lose: the answers to paths that contain this are lost once the server has done what was asked; `lost` counts them.
    broken: what such paths are answered instead (status, body). delay_s: before each request is passed on.
    """

    target: int
    port: int = field(default_factory=free_port)
    delay_s: float = 0.0
    lose: str | None = None
    broken: tuple[str, int, bytes] | None = None
    lost: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    _server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Answer from now on."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on."""
        assert self._server
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path = request.path.split("?")[0]
        self.calls["artifacts" if "mlflow-artifacts" in path else path.rsplit("/mlflow/", 1)[-1]] += 1
        request.close_connection = True
        time.sleep(self.delay_s)
        if self.broken and self.broken[0] in path:
            self._answer(request, self.broken[1], self.broken[2])
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        headers = {key: value for key, value in request.headers.items() if key not in ("Host", "Connection")}
        upstream.request(request.command, request.path, body, headers | {"Connection": "close"})
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if self.lose and self.lose in path:
            self.lost += 1
            return
        self._answer(request, response.status, content, response.headers.get("Content-Type", "text/plain"))

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes, kind: str = "application/json"
    ) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Connection", "close")
        request.end_headers()
        with contextlib.suppress(ConnectionError):  # the client did not wait for it
            request.wfile.write(content)
