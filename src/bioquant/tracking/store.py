"""Opening a tracking store: with the server up, with it away, and by many processes at once.

MLflow is imported only where a server is spoken to: a sweep's workers write to the spool and start without it.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bioquant import network, places, shown
from bioquant.config import TrackingConfig
from bioquant.errors import TrackingError
from bioquant.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from bioquant.tracking.courier import Courier


@dataclass(frozen=True, slots=True)
class Store:
    """An open tracking store: the experiment is known, writes go to the spool.

    courier: delivers what is spooled; None in a worker, whose parent delivers.
    away: why the server did not answer when the store was opened; empty where it did.
    """

    uri: str
    experiment_id: str
    spool: Spool
    courier: "Courier | None"
    away: str = ""

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client, for reading. What is written past the spool is lost where the server is away."""
        from bioquant.tracking.calls import client_of

        return client_of(self.uri)


def open_store(config: TrackingConfig, *, to_read: bool = False) -> Store:
    """Connect, make the experiment where it is missing. Safe under a parallel first use.

    Where the server is away, a store that this project has used before opens all the same: what is logged is
    spooled and delivered later. Raises TrackingError, within seconds, where it was never used or cannot be; also, where
    it is wanted to be read, while it is away.
    """
    from bioquant.tracking import connection
    from bioquant.tracking.carrier import Carrier
    from bioquant.tracking.courier import Courier

    uri = places.tracking_uri(config.uri)
    network.allow(uri)
    spool = Spool(spool_folder(uri, config.experiment))
    known, away = spool.address(), ""
    try:
        experiment_id = connection.connect(uri, config.experiment)
        spool.remember(uri=shown.without_password(uri), experiment=config.experiment, experiment_id=experiment_id)
    except connection.StoreAwayError as error:
        if known is None or to_read:
            raise
        print(
            f"warning: tracking store '{shown.without_password(uri)}': {error.reason}. What is logged waits on "
            "disk and is delivered once it answers, or with: bioquant sync",
            file=sys.stderr,
        )
        experiment_id, away = known["experiment_id"], error.reason
    return Store(uri, experiment_id, spool, Courier(Carrier(spool, uri, experiment_id)), away)


def open_spool(config: TrackingConfig) -> Store:
    """A worker's view of a store that its parent has opened: what it logs is spooled, and the parent delivers it.

    Imports no mlflow and opens no connection. Raises TrackingError where no parent has opened the store.
    """
    uri = places.tracking_uri(config.uri)
    spool = Spool(spool_folder(uri, config.experiment))
    address = spool.address()
    if address is None:
        named = shown.without_password(uri)
        raise TrackingError(f"tracking store '{named}' was not opened in this project: open_store comes first.")
    return Store(uri, address["experiment_id"], spool, None)


def spool_folder(uri: str, experiment: str) -> Path:
    """Where the spool of a store and experiment is."""
    name = hashlib.sha256(f"{uri}\n{experiment}".encode()).hexdigest()[:16]
    return places.spool_root() / name
