"""Load held and latency of `bioquant serve`, and of `mlflow models serve` beside it: `python benchmarks/serving.py`.

Evaluates and registers one cell in a store of its own, starts both servers on the version in turn, and asks single rows
of the task over and over from 1, 4 and 16 clients, each asking again as soon as it is answered. Prints requests a
second, the median and the 95th percentile of what a client waited, and how many were not answered.
"""

import argparse
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import requests

from bioquant import compose, datasets, run

BIN = Path(sys.executable).parent
CLIENTS = (1, 4, 16)
HEADINGS = "clients requests/s   p50 ms   p95 ms  answered not answered"


def command(root: Path, *arguments: str) -> str:
    done = subprocess.run([BIN / "bioquant", *arguments], cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


@contextmanager
def server(arguments: list[str], port: int) -> Iterator[str]:
    """A server in a process group of its own, once it answers."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, "the server ended before it answered"
            try:
                requests.get(f"{address}/ping", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def measure(address: str, bodies: list[dict[str, object]], clients: int, seconds: float) -> str:
    """One line of the table."""
    end = time.perf_counter() + seconds

    def client(number: int) -> list[tuple[float, int]]:
        found: list[tuple[float, int]] = []
        with requests.Session() as session:
            while time.perf_counter() < end:
                start = time.perf_counter()
                reply = session.post(f"{address}/invocations", json=bodies[(number + len(found)) % len(bodies)])
                found.append((time.perf_counter() - start, reply.status_code))
        return found

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        answered = [one for found in threads.map(client, range(clients)) for one in found]
    took = time.perf_counter() - started
    waits = sorted(1000 * wait for wait, status in answered if status == 200)
    p95 = quantiles(waits, n=20)[-1]
    bad = len(answered) - len(waits)
    return f"{clients:>7} {len(waits) / took:>10.2f} {median(waits):>8.0f} {p95:>8.0f} {len(waits):>9} {bad:>12}"


def port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", nargs="*", default=["model=smollm2_135m", "task=demo_qa", "prompt=five_shot"])
    parser.add_argument("--seconds", type=float, default=30, help="each line is measured for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {"BIOQUANT_ROOT": folder, "PATH": f"{BIN}:{os.environ['PATH']}"}
        cell = [*options.cell, "quant=none", "limit=8", "engine.batch=16", "measure.latency_examples=0"]
        command(root, "run", *cell)
        command(root, "recommend", "policy.max_quality_loss=null", "--output", str(root / "report"))
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
        from mlflow import MlflowClient

        [found] = MlflowClient().search_runs(["1"], "tags.`bioquant.kind` = 'recommendation'")
        command(root, "register", f"recommendation={found.info.run_id}", "registry.aliases=[bench]")
        config = compose.compose_one(cell)
        uri = f"models:/bioquant-{config.task.name}@bench"
        rows = datasets.sample(run.read(config).test, 32, 0)
        bodies = [{"dataframe_records": [dict(row.inputs)]} for row in rows]
        print(f"{' '.join(cell)}; {os.cpu_count()} cores, {platform.processor() or platform.machine()}")
        print(", ".join(f"{name} {version(name)}" for name in ("bioquant", "torch", "transformers", "mlflow")))
        for name, arguments in (
            ("bioquant serve", [str(BIN / "bioquant"), "serve", uri, "serve.port={}"]),
            (
                "mlflow models serve",
                [str(BIN / "mlflow"), "models", "serve", "-m", uri, "--env-manager", "local", "-p", "{}"],
            ),
        ):
            at = port()
            with server([part.replace("{}", str(at)) for part in arguments], at) as address:
                measure(address, bodies, 1, 3)  # warm
                print(f"\n{name}\n{HEADINGS}")
                for clients in CLIENTS:
                    print(measure(address, bodies, clients, options.seconds), flush=True)


if __name__ == "__main__":
    main()
