"""Syncing again and again while a suite runs, so that MLflow shows the epochs of running cells.

Only the machine that watches speaks to MLflow: workers write to the store, and each round reads what they wrote.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.errors import MachineError
from benchmark.suite.suite import Suite
from results.store.store import Store
from results.tracking import sync as mlflow_sync
from results.tracking.sync import Synced

WATCH_SECONDS = 10.0
"""Between the end of a round and the next one."""


@dataclass(frozen=True)
class Round:
    """One sync of a watch: what it changed, or None and the error if MLflow or the store could not be reached.

    `final` counts the cells that were done, diverged or n/a when the round began.
    """

    synced: Synced | None
    final: int
    error: str = ""


def watch(
    store: Store, suite: Suite, tracking_uri: str | None = None, seconds: float = WATCH_SECONDS
) -> Iterator[Round]:
    """Sync until every cell of the suite is final. A failed cell is not, since it may be retried.

    An error does not end it: a server may come back, and the next round tries again.
    """
    while True:
        statuses, _ = store.statuses(suite.cells)  # before the sync, which then shows all that these say
        final = sum(status.is_result for status in statuses.values())
        try:
            synced, error = mlflow_sync.sync(store, suite, tracking_uri), ""
        except MachineError as problem:
            synced, error = None, str(problem)
        yield Round(synced, final, error)
        if synced is not None and final == len(suite.cells):
            return
        time.sleep(seconds)
