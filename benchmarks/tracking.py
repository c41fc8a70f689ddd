"""Eight workers log hundreds of runs at once to a real server: none lost, none twice; the rate, and what a call costs.

    .venv/bin/python benchmarks/tracking.py [--runs 500] [--workers 8] [--uri http://…]

Without --uri a server on PostgreSQL is started by deploy/server.sh and stopped at the end. Each run has a cell's
params, some 60 metrics, 8 artifacts (predictions of 100 examples) and a dataset.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from mlflow import MlflowClient  # noqa: E402

from bioquant import tracking  # noqa: E402
from bioquant.config import TrackingConfig  # noqa: E402
from bioquant.records import RunResult, Score  # noqa: E402
from bioquant.tracking import connection, courier  # noqa: E402, F401 - imported once, before the workers are forked
from tracking_parts import ARTIFACTS, PLAN, RESULT, free_port, write_files  # noqa: E402

Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--uri", help="a server that is up; by default one is started")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bq"))
    folder.chmod(0o755)
    os.environ["BIOQUANT_ROOT"] = str(folder)
    port = free_port()
    server = [REPOSITORY / "deploy" / "server.sh"]
    environment = {**os.environ, "PORT": str(port)}
    try:
        if not options.uri:
            subprocess.run([*server, "start", folder / "server"], check=True, env=environment)
        measure(options.uri or f"http://127.0.0.1:{port}", options.runs, options.workers, folder)
    finally:
        if not options.uri:
            subprocess.run([*server, "stop", folder / "server"], check=True, env=environment)
        shutil.rmtree(folder)


def measure(uri: str, runs: int, workers: int, folder: Path) -> None:
    config = TrackingConfig(name="benchmark", uri=uri, experiment=f"benchmark_{int(time.time())}")
    store = tracking.open_store(config)
    began = time.perf_counter()
    times = in_workers(config, runs, workers, folder)
    spooled_s = max(times.pop("all"))
    delivered_s = time.perf_counter() - began
    print(f"{runs} runs, {workers} workers, {uri}")
    print(
        f"all logged after {spooled_s:.1f} s, all delivered after {delivered_s:.1f} s: {runs / delivered_s:.1f} runs/s"
    )
    for name, values in times.items():
        shown(name, values)
    check(store, runs)
    timed("finished(), the search of a resumed sweep", lambda: tracking.finished(store, [str(n) for n in range(runs)]))


def in_workers(config: TrackingConfig, runs: int, workers: int, folder: Path) -> Times:
    """All workers begin at once; each ends when all it logged is delivered."""
    context = get_context("fork")
    results, barrier = context.Queue(), context.Barrier(workers)
    shares = [range(first, runs, workers) for first in range(workers)]
    processes = [context.Process(target=worker, args=(config, share, folder, barrier, results)) for share in shares]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return {name: [value for times in found for value in times[name]] for name in found[0]}


def worker(config: TrackingConfig, numbers: range, folder: Path, barrier, results) -> None:
    store = tracking.open_store(config)
    times: Times = {"start_run": [], "log_result": [], "end_run": [], "all": []}
    barrier.wait()
    began = time.perf_counter()
    for number in numbers:
        log_cell(store, number, folder / str(number), times)
    times["all"].append(time.perf_counter() - began)
    left = tracking.flush(store)
    results.put(times)
    sys.exit(left.waiting + len(left.refused))


def log_cell(store: tracking.Store, number: int, cell: Path, times: Times) -> None:
    """One cell's life, each call clocked."""
    files(cell)
    plan = replace(PLAN, fingerprint=str(number))
    run_id = clocked(
        times["start_run"], lambda: tracking.start_run(store, plan, cell, sweep_id="s", parent_run_id=None)
    )
    clocked(times["log_result"], lambda: tracking.log_result(store, run_id, result(), cell))
    clocked(times["end_run"], lambda: tracking.end_run(store, run_id, "FINISHED"))


def files(cell: Path) -> None:
    """A cell's files, with predictions of the usual size."""
    write_files(cell)
    row = {"prompt": "p" * 1500, "output": "yes", "answer": "yes", "target": "yes", "correct": True, "invalid": False}
    pd.DataFrame([{"example_id": str(n)} | row for n in range(100)]).to_parquet(cell / "predictions.parquet")


def result() -> RunResult:
    """With some 60 metrics, as a cell has."""
    names = ["accuracy", *(f"score_{number}" for number in range(17))]
    scores = tuple(Score(name=name, value=0.625, ci_low=0.5, ci_high=0.75, num_examples=100) for name in names)
    return replace(RESULT, scores=scores)


def clocked(times: list[float], call: Callable[[], object]):
    began = time.perf_counter()
    found = call()
    times.append(time.perf_counter() - began)
    return found


def shown(name: str, values: list[float]) -> None:
    ms = [1000 * value for value in values]
    cuts = statistics.quantiles(ms, n=20)
    print(f"{name:<12} p50 {cuts[9]:7.1f} ms   p95 {cuts[18]:7.1f} ms   max {max(ms):7.1f} ms   n={len(ms)}")


def check(store: tracking.Store, runs: int) -> None:
    """Every run once, finished, with all its metrics and artifacts."""
    client: MlflowClient = store.client
    found = client.search_runs([store.experiment_id], max_results=10_000)
    metrics = tracking.metric_values(result())
    wrong = Counter(
        lost=runs - len({run.data.tags["fingerprint"] for run in found}),
        twice=len(found) - len({run.data.tags["fingerprint"] for run in found}),
        not_finished=sum(run.info.status != "FINISHED" for run in found),
        other_metrics=sum(run.data.metrics != metrics for run in found),
        other_artifacts=sum(
            {item.path for item in client.list_artifacts(run.info.run_id)} != ARTIFACTS for run in found
        ),
    )
    print(f"on the server: {len(found)} runs; wrong: {json.dumps(wrong)}")
    assert not wrong.total()


def timed(name: str, call: Callable[[], object]) -> None:
    times: list[float] = []
    found = clocked(times, call)
    print(f"{name}: {times[0]:.2f} s for {len(found)} cells")


if __name__ == "__main__":
    main()
