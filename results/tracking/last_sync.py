"""Note in the store: what the last sync of a suite left in MLflow, and from which files. It may be deleted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import results
from benchmark.files import write_json
from benchmark.suite.suite import Suite
from results.board.row import family_and_source
from results.store.record import FINISHED, Broken, Record
from results.store.store import Store
from results.store.studies import study_files
from results.tracking.runs import VIEW_VERSION

RESULT_FILES = (FINISHED, "metrics.json", "environment.json", "cell.json")
FILES = ("status.json", "history.jsonl", *RESULT_FILES)
"""Files of a record that MLflow or the report shows; each is replaced as a whole when it changes."""


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow: its id, the digest of what it shows, the id of the run above it."""

    run_id: str
    digest: str
    parent_id: str = ""


@dataclass(frozen=True)
class LastSync:
    """State of MLflow after a sync: runs by key, and records that could not be read as (folder, reason).

    `inputs` and `board` are `inputs_digest` and `board_digest` of what it showed; `database` is the state of the SQLite
    file afterwards; `suite_file` is the file of the suite, empty for a copy in the store.
    """

    inputs: str
    board: str
    experiment_id: str
    revision: str
    runs: Mapping[str, TrackedRun]
    broken: list[tuple[str, str]] = field(default_factory=list)
    database: tuple[int, int, int] | None = None
    suite_file: str = ""

    @classmethod
    def load(cls, store: Store, uri: str, suite: str) -> LastSync | None:
        """None if there is no note, or none that can be read."""
        try:
            return _LAST_SYNC.validate_json(_path(store, uri, suite).read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, store: Store, uri: str, suite: str) -> None:
        """Write the note, once MLflow holds everything; a reader of the store cannot, and syncs in full each time."""
        if not store.is_writable:
            return
        write_json(_path(store, uri, suite), {**asdict(self), "database": _database_state(uri)})

    @staticmethod
    def forget(store: Store, uri: str, suite: str) -> None:
        """Delete the note, before MLflow is changed."""
        _path(store, uri, suite).unlink(missing_ok=True)

    def is_database_untouched(self, uri: str) -> bool:
        """Whether nobody has written to the SQLite file since; False for a server, which has to be asked."""
        return self.database is not None and self.database == _database_state(uri)


_LAST_SYNC = TypeAdapter(LastSync)


def inputs_digest(store: Store, suite: Suite, files: Sequence[str] = FILES) -> str:
    """Digest of what MLflow shows of a suite, without reading a record: cells, states of `files`, and our own code."""
    digest = hashlib.sha256(json.dumps([VIEW_VERSION, suite.name, str(suite.path), _code_digest()]).encode())
    for model in sorted({cell.model.name for cell in suite.cells}):
        digest.update(repr((model, family_and_source(model))).encode())
    for cell in suite.cells:
        folder = os.fspath(store.cell_folder(cell.id))
        digest.update(repr((cell.id, [_file_state(f"{folder}/{name}") for name in files])).encode())
    for path in study_files(suite, store):
        digest.update(repr((str(path), _file_state(str(path)))).encode())
    return digest.hexdigest()


def board_digest(results_digest: str, records: Mapping[str, Record], broken: Sequence[Broken]) -> str:
    """Digest of what the board and its report are made from; the epochs of a running cell are not in them.

    `results_digest` is `inputs_digest` of RESULT_FILES from before the records were read.
    """
    states = [(key, one.status.state, one.status.failure, one.status.message) for key, one in records.items()]
    reasons = [(str(one.folder), one.reason) for one in broken]
    return hashlib.sha256(json.dumps([results_digest, states, reasons]).encode()).hexdigest()


def _code_digest() -> str:
    """Digest of the code and templates that make the report and the runs."""
    digest = hashlib.sha256()
    package = Path(results.__file__).parent
    for path in sorted([*package.rglob("*.py"), *(package / "report" / "templates").rglob("*.*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _database_state(uri: str) -> tuple[int, int, int] | None:
    return _file_state(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _file_state(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 - ten thousand records have fifty thousand files
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _path(store: Store, uri: str, suite: str) -> Path:
    name = hashlib.sha256(json.dumps([uri, suite]).encode()).hexdigest()[:16]
    return store.root / "mlflow" / f"{name}.json"
