"""What the last sync of a suite left in MLflow, and from what: a note in the store, which may be deleted any time."""

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
from benchmark.suite import Suite

from .mlflow_runs import VIEW_VERSION
from .record import Broken, Record
from .row import family_and_source
from .store import Store
from .studies import study_files

REVISION = "symbench.revision"
"""Tag of an experiment: changes with each sync that changes a run, from whichever store."""
RESULT_FILES = ("metrics.json", "environment.json", "cell.json")
FILES = ("status.json", "history.jsonl", *RESULT_FILES)
"""Files of a record that MLflow or the report shows; each is replaced as a whole where it changes."""


@dataclass(frozen=True)
class Found:
    """A run in MLflow: its id, the digest of what it shows, the id of the run above it."""

    run_id: str
    digest: str
    parent_id: str = ""


@dataclass(frozen=True)
class Index:
    """`inputs` is the digest of all that was shown, `board` of what the run LEADERBOARD was made from, `database` the
    state of the file after the sync."""

    inputs: str
    board: str
    experiment_id: str
    revision: str
    runs: Mapping[str, Found]
    broken: list[tuple[str, str]] = field(default_factory=list)
    database: tuple[int, int, int] | None = None

    @classmethod
    def load(cls, store: Store, uri: str, suite: str) -> Index | None:
        """None where there is none, or none that can be read."""
        try:
            return _INDEX.validate_json(_path(store, uri, suite).read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, store: Store, uri: str, suite: str) -> None:
        """Once MLflow holds it all."""
        write_json(_path(store, uri, suite), {**asdict(self), "database": _state(uri)})

    @staticmethod
    def forget(store: Store, uri: str, suite: str) -> None:
        """Before MLflow is changed."""
        _path(store, uri, suite).unlink(missing_ok=True)

    def is_database_untouched(self, uri: str) -> bool:
        """Whether nobody has written to the SQLite file since; False for a server, which must be asked."""
        return self.database is not None and self.database == _state(uri)


_INDEX = TypeAdapter(Index)


def inputs_digest(store: Store, suite: Suite, files: Sequence[str] = FILES) -> str:
    """Digest of what the view of a suite is made from, without reading a record: cells, `files`, and our own code."""
    digest = hashlib.sha256(json.dumps([VIEW_VERSION, suite.name, str(suite.path), _code()]).encode())
    for model in sorted({cell.model.name for cell in suite.cells}):
        digest.update(repr((model, family_and_source(model))).encode())
    for cell in suite.cells:
        folder = os.fspath(store.cell_folder(cell.id))
        digest.update(repr((cell.id, [_state_of(f"{folder}/{name}") for name in files])).encode())
    for path in study_files(suite, store):
        digest.update(repr((str(path), _state_of(str(path)))).encode())
    return digest.hexdigest()


def board_digest(results: str, records: Mapping[str, Record], broken: Sequence[Broken]) -> str:
    """Digest of what the board and its report are made from; the epochs of a running cell are not in them.

    `results` is `inputs_digest` of RESULT_FILES from before the records were read.
    """
    states = [(key, one.status.state, one.status.failure, one.status.message) for key, one in records.items()]
    reasons = [(str(one.folder), one.reason) for one in broken]
    return hashlib.sha256(json.dumps([results, states, reasons]).encode()).hexdigest()


def _code() -> str:
    """What makes the pages."""
    digest = hashlib.sha256()
    here = Path(results.__file__).parent
    for path in sorted([*here.rglob("*.py"), *(here / "templates").rglob("*.*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _state(uri: str) -> tuple[int, int, int] | None:
    return _state_of(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        told = os.stat(path)  # noqa: PTH116 - ten thousand records have fifty thousand files
    except OSError:
        return None
    return told.st_ino, told.st_size, told.st_mtime_ns


def _path(store: Store, uri: str, suite: str) -> Path:
    name = hashlib.sha256(json.dumps([uri, suite]).encode()).hexdigest()[:16]
    return store.root / "mlflow" / f"{name}.json"
