"""New runs of seeds straight into the MLflow database of the store, many at a time, all of them or none.

MLflow's client takes dozens of statements for each run, and ten thousand runs took four minutes. The tables are made
by the MLflow that is installed, and a test compares each run that is inserted with one that the client made.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from .mlflow_index import Found
from .mlflow_runs import Import, Point
from .mlflow_write import DIGEST, tags_of_run

if TYPE_CHECKING:
    from mlflow.entities import Experiment

AT_ONCE = 500
"""Runs in one transaction."""
COLUMNS = {
    "runs": (
        *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time"),
        *("end_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
    ),
    "tags": ("run_uuid", "key", "value"),
    "params": ("run_uuid", "key", "value"),
    "metrics": ("run_uuid", "key", "value", "timestamp", "step", "is_nan"),
    "latest_metrics": ("run_uuid", "key", "value", "timestamp", "step", "is_nan"),
}
"""Table -> what we write; in the order in which one refers to another."""


def insert(database: Path, experiment: Experiment, wanted: Sequence[tuple[Import, str]]) -> list[Found]:
    """A run for each (what it shows, id of the run above it), without inputs and artifacts. sqlite3.Error."""
    found = []
    lines: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for one, parent_id in wanted:
        run_id = uuid4().hex
        where = f"{experiment.artifact_location}/{run_id}/artifacts"
        told = (one.status, one.start, one.end, "", "active", where, int(experiment.experiment_id))
        lines["runs"].append((run_id, one.name, "UNKNOWN", "", "", "unknown", *told))
        tags = {"mlflow.runName": one.name, **tags_of_run(one, parent_id), DIGEST: one.digest}
        lines["tags"] += ((run_id, key, value) for key, value in tags.items())
        lines["params"] += ((run_id, key, value) for key, value in one.params.items())
        latest: dict[str, Point] = {}
        for point in sorted(set(one.metrics), key=lambda point: (point[3], point[2], point[1])):
            latest[point[0]] = point
            lines["metrics"].append(_line(run_id, point))
        lines["latest_metrics"] += (_line(run_id, point) for point in latest.values())
        found.append(Found(run_id, one.digest, parent_id))
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # as in mlflow_client
        with connection:
            for table, columns in COLUMNS.items():
                marks = ", ".join("?" * len(columns))
                connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", lines[table])
    return found


def _line(run_id: str, point: Point) -> tuple[Any, ...]:
    name, value, time, step = point
    return run_id, name, value, time, step, 0
