"""Helpers for the tests of MLflow: runs of a board's experiment, and a report that takes no time."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from benchmark.training.recorder import Epoch
from results.tracking import sync as mlflow_sync
from results.tracking.client import connect, default_tracking_uri

IGNORED_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow and what it imports
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
REPORT = SimpleNamespace(html="<p>report</p>", svg_figures=[("a", '<svg viewBox="0 0 2 1"></svg>')])


def sync(board, uri=None, report=REPORT):
    if board.store.root.is_dir():
        make_database(uri or default_tracking_uri(board.store))
    return mlflow_sync.sync(board.store, board.suite, uri, report)


def make_database(uri):
    """A database of MLflow that has no runs, unless there is one."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        path.write_bytes(empty_database())


@cache
def empty_database():
    """Content of a new database, made once: MLflow takes longer for its tables than a sync does."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        with connect(f"sqlite:///{path}") as client:
            client.search_experiments()
        return path.read_bytes()


def client_of(board, uri=None):
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri or default_tracking_uri(board.store))


def runs(board, filter_string="", order_by=None, uri=None):
    client = client_of(board, uri)
    (experiment,) = [one for one in client.search_experiments() if "symbench.suite" in one.tags]
    return list(client.search_runs([experiment.experiment_id], filter_string, order_by=order_by))


def history_of(epochs):
    return [Epoch(e, 1.0 / e, 0.5 / e, 0.6 / e, 1e-3, 2.0) for e in range(1, epochs + 1)]


def counts(synced):
    return synced.created, synced.updated, synced.unchanged, synced.removed
