"""Tracking: what runs log to MLflow, on disk first and delivered from there.

content    what a run holds, by MLflow name            lifecycle  a run's start, log, end
events     one call each, as the spool keeps it        search     finished cells; runs whose owner is gone
spool      the files                                   delivering wait for the delivery, or deliver by hand
owner      who owns a run, and is it alive             store      opening a store
courier    the thread that delivers                    carrier    one run, in order
calls      the calls to MLflow                         connection first use of a database

MLflow is imported by carrier, calls, connection and courier only, and these by what speaks to a server.
"""

from bioquant.tracking.content import metric_values, outcome, run_params, run_tags
from bioquant.tracking.delivering import Delivery, Spooled, flush, pending, spooled, sync
from bioquant.tracking.events import Status
from bioquant.tracking.lifecycle import (
    beat,
    closing,
    end_run,
    log_failure,
    log_result,
    log_sweep_table,
    reattach,
    run_of,
    start_run,
    start_sweep,
)
from bioquant.tracking.search import Reaped, finished, reap
from bioquant.tracking.store import Store, open_spool, open_store

__all__ = [
    "Delivery",
    "Reaped",
    "Spooled",
    "Status",
    "Store",
    "beat",
    "closing",
    "end_run",
    "finished",
    "flush",
    "log_failure",
    "log_result",
    "log_sweep_table",
    "metric_values",
    "open_spool",
    "open_store",
    "outcome",
    "pending",
    "reap",
    "reattach",
    "run_of",
    "run_params",
    "run_tags",
    "spooled",
    "start_run",
    "start_sweep",
    "sync",
]
