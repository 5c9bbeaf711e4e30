"""MLflow as a view of the store: it can be deleted and rebuilt, and syncing twice changes nothing.

A suite is an experiment and a cell a run, known by its tag `symbench.cell`. Parameters of a run cannot be changed,
so a record that changed is imported anew and its old run deleted; the digest of the record, set last, tells which.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import logging
import math
import os
import sqlite3
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import MachineError, UserError
from benchmark.suite import Suite

from .leaderboard import aggregate
from .mlflow_runs import LONGEST_TAG, NOTE, VIEW_COLUMNS, Import, board_run, cell_run
from .store import Record, Store, locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

VIEW_KEY = "leaderboard"
BATCH = 1000
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""For our processes and for the server: nothing is sent home, and a server that refuses is told at once."""


@dataclass(frozen=True)
class Synced:
    """How many runs a sync touched; `removed` are those whose cell left the suite or the store."""

    experiment_id: str
    created: int
    updated: int
    unchanged: int
    removed: int


def default_tracking_uri(store: Store) -> str:
    return f"sqlite:///{(store.root / 'mlflow.db').resolve()}"


def artifact_folder(store: Store) -> Path:
    return (store.root / "mlartifacts").resolve()


def sync(
    store: Store, suite: Suite, records: Mapping[str, Record], tracking_uri: str | None, report_html: str
) -> Synced:
    """Make the experiment of the (whole) suite show `records`. MachineError where MLflow does not let us."""
    uri = tracking_uri or default_tracking_uri(store)
    wanted = [cell_run(record) for record in records.values()]
    if records:
        wanted.append(board_run(aggregate(suite.cells, records), records, report_html))
    store.make()
    # One sync of a store at a time: two that create the database at once leave it broken.
    with locked(store.root / "mlflow.lock", math.inf), _client(uri) as client:
        experiment_id = _experiment(client, suite, store, local=uri.startswith("sqlite:"))
        return _import_all(client, experiment_id, wanted)


def boards(tracking_uri: str) -> dict[str, str]:
    """Suite name -> experiment id, of all that was synced there. MachineError as for `sync`."""
    with _client(tracking_uri) as client:
        return {
            experiment.tags["symbench.suite"]: experiment.experiment_id
            for experiment in client.search_experiments()
            if "symbench.suite" in experiment.tags
        }


def board_url(base_url: str, experiment_id: str, key: str = VIEW_KEY) -> str:
    """The page of an experiment that opens with our columns, filter and order."""
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={key}"


def ui_command(tracking_uri: str, artifacts: Path, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """argv of a server on this machine alone, to be run with ENVIRONMENT. UserError: a public address."""
    if host != "localhost" and not _is_loopback(host):
        raise UserError(f"--host {host}: the page has no password; only a loopback address such as 127.0.0.1 is served")
    names = sorted({host, "localhost", "127.0.0.1"})
    allowed = ",".join([*names, *(f"{name}:{port}" for name in names)])
    return [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri),
        *("--artifacts-destination", artifacts.as_uri(), "--host", host, "--port", str(port)),
        *("--workers", "1", "--allowed-hosts", allowed),
    ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _import_all(client: MlflowClient, experiment_id: str, wanted: list[Import]) -> Synced:
    present: dict[str, list[Any]] = defaultdict(list)
    for run in _runs(client, experiment_id):
        present[run.data.tags["symbench.cell"]].append(run)
    created = updated = unchanged = removed = 0
    for run_import in wanted:
        old = present.pop(run_import.key, [])
        same = [run for run in old if run.data.tags.get("symbench.digest") == run_import.digest]
        if same:
            unchanged += 1
        else:
            _write(client, experiment_id, run_import)
            updated, created = updated + bool(old), created + (not old)
        for run in old:
            if run not in same[:1]:
                client.delete_run(run.info.run_id)
    for run in (run for runs in present.values() for run in runs):
        client.delete_run(run.info.run_id)
        removed += 1
    return Synced(experiment_id, created, updated, unchanged, removed)


def _runs(client: MlflowClient, experiment_id: str) -> Iterator[Any]:
    """All our runs of the experiment, page by page; runs that others put there are not touched."""
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], "tags.`symbench.cell` != ''", page_token=token or None)
        yield from page
        token = page.token or None


def _write(client: MlflowClient, experiment_id: str, run_import: Import) -> None:
    from mlflow.entities import Metric, Param, RunTag  # mlflow takes a second to import

    tags = {"symbench.cell": run_import.key, **run_import.tags}
    run = client.create_run(experiment_id, run_import.start, tags, run_import.name)
    run_id = run.info.run_id
    client.log_batch(run_id, params=[Param(key, value) for key, value in run_import.params.items()][:100])
    metrics = [Metric(name, value, time, step) for name, value, time, step in run_import.metrics]
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + BATCH])
    for name, text in run_import.artifacts.items():
        client.log_text(run_id, text, name)
    if run_import.end is not None:
        client.set_terminated(run_id, run_import.status, run_import.end)
    client.log_batch(run_id, tags=[RunTag("symbench.digest", run_import.digest)])


def _experiment(client: MlflowClient, suite: Suite, store: Store, local: bool) -> str:
    """The suite's experiment, made or brought back where it is missing, with its note and its ready view."""
    name = f"symbench/{suite.name}"[:500]
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = artifact_folder(store) / hashlib.sha256(name.encode()).hexdigest()[:12]
        experiment = client.get_experiment(client.create_experiment(name, folder.as_uri() if local else None))
    elif experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    tags = {
        "symbench.suite": suite.name[:LONGEST_TAG],
        "mlflow.note.content": NOTE,
        f"mlflow.sharedViewState.{VIEW_KEY}": _view_state(),
    }
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _view_state() -> str:
    state = {
        "orderByKey": "metrics.`rmse_future`",
        "orderByAsc": True,
        "searchFilter": "tags.`symbench.kind` = 'cell'",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "startTime": "ALL",
        "selectedColumns": [
            *("attributes.`Duration`", "params.`dataset`", "params.`level`", "params.`model`", "params.`seed`"),
            *(f"metrics.`{name}`" for name in VIEW_COLUMNS),
        ],
        "viewMaximized": True,
        "runListHidden": False,
    }
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()


@contextmanager
def _client(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client, whose errors are one sentence. MachineError: no database of MLflow, or a server that refuses."""
    _refuse_foreign(tracking_uri)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException  # takes a second, and only sync and ui need it
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield MlflowClient(tracking_uri=tracking_uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise MachineError(f"MLflow at {tracking_uri}: {reason}") from error


def _refuse_foreign(tracking_uri: str) -> None:
    """MLflow would add its tables to any SQLite database; ours may be deleted, another's must not be touched."""
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///") or not path.exists() or path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        raise MachineError(
            f"MLflow at {tracking_uri}: not a readable database ({error}); delete it and sync"
        ) from error
    if tables and not {"experiments", "runs", "alembic_version"} <= tables:
        raise MachineError(f"MLflow at {tracking_uri}: the database belongs to something else; name another file")
