"""Helpers for the tests of MLflow: a server, runs of a board's experiment, and a report that takes no time."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from benchmark.training.recorder import Epoch
from results.tracking import sync as mlflow_sync
from results.tracking.client import ENVIRONMENT, connect, default_tracking_uri

IGNORED_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow and what it imports
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
REPORT = SimpleNamespace(html="<p>report</p>", svg_figures=[("a", '<svg viewBox="0 0 2 1"></svg>')])


class Server:
    """A server of MLflow to which a sync may write, as a group would run it; it can be killed and started again."""

    def __init__(self, folder):
        self.port = free_port()
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.process = None
        make_database(self.database)

    @property
    def database(self):
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def start(self):
        argv = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database, "--workers", "1"]
        argv += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            environment = {**os.environ, **ENVIRONMENT}
            self.process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the MLflow server did not come up")

    def kill(self, how=signal.SIGKILL):
        if self.process is not None:
            os.killpg(self.process.pid, how)
            self.process.wait(timeout=30)
            self.process = None


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


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
