"""Record of a cell, read from the files in its folder.

A running cell has a file for each part: cell.json, environment.json, status.json. A finished one has all parts in
record.json, which stands above the others. Finished cells of older stores have the files, and metrics.json.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from benchmark.cell import Cell
from benchmark.training.recorder import Epoch, Status

FINISHED = "record.json"
PARTS = ("cell", "environment", "metrics", "status")
_STATUS = TypeAdapter(Status)
MOST_SECONDS = 1e11
"""Largest plausible time in seconds since 1970: the year 5138."""
MOST_EPOCHS = 10**9
COSTS = ("training_seconds", "training_joules", "samples_per_second", "peak_memory_bytes")
"""Metrics in which two equal trainings may differ."""
VECTORS = ("learned_field", "true_field")
"""Metrics that are vectors, whose components may be negative."""


@dataclass(frozen=True)
class Record:
    """Record of one cell; `metrics` is empty until the cell is a result."""

    cell: Cell
    status: Status
    metrics: Mapping[str, Any]
    history: Sequence[Epoch]
    environment: Mapping[str, Any]
    folder: Path

    @property
    def outcome(self) -> dict[str, Any]:
        """Metrics that a second training of the cell must reproduce."""
        return {key: value for key, value in self.metrics.items() if key not in COSTS}

    @property
    def predictions_path(self) -> Path:
        return self.folder / "predictions.h5"


@dataclass(frozen=True)
class Broken:
    """Folder in the store whose record cannot be read, and the reason."""

    folder: Path
    reason: str


def read_record(folder: Path, history: bool = True, expected: Cell | None = None) -> Record | None:
    """Record in `folder`, or None if there is none. Raises OSError or ValueError if it cannot be read.

    The cell in it is validated, unless it is the `expected` one.
    """
    parts = read_parts(folder, *reversed(PARTS))
    status = _status(parts)
    if status is None:
        return None
    cell = _cell_document(parts)
    cell.pop("id", None)
    return Record(
        cell=expected if expected and expected.document == cell else Cell.model_validate(cell),
        status=status,
        metrics=_checked_metrics(parts["metrics"] or {}),
        history=_read_history(folder / "history.jsonl") if history else [],
        environment=parts["environment"] or {},
        folder=folder,
    )


def read_status(folder: Path) -> tuple[str, Status] | None:
    """Id of the cell and status in `folder`, or None without a status. Raises OSError or ValueError as above."""
    parts = read_parts(folder, "status", "metrics", "cell")
    status = _status(parts)
    return None if status is None else (_cell_document(parts).get("id", ""), status)


def read_environment(folder: Path) -> dict[str, Any]:
    """Provenance of the record, empty without one. Raises OSError or ValueError if it cannot be read."""
    return read_parts(folder, "environment")["environment"] or {}


def read_parts(folder: Path, *names: str) -> dict[str, dict[str, Any] | None]:
    """Parts of a record as JSON, None without a file. Raises OSError or ValueError if they cannot be read."""
    record = _read_json(folder / FINISHED)
    if record is None:
        parts = {name: _read_json(folder / f"{name}.json") for name in names}
        record = _read_json(folder / FINISHED) if None in parts.values() else None  # the cell may just have finished
        if record is None:
            return parts
    for name in names:
        if not isinstance(record.get(name), dict):
            raise ValueError(f"{FINISHED}: {name} is not a JSON object")
    return {name: record[name] for name in names}


def _status(parts: Mapping[str, dict[str, Any] | None]) -> Status | None:
    if (document := parts["status"]) is None:
        return None
    status = _STATUS.validate_python(document)
    if not _is_time(status.heartbeat):
        raise ValueError(f"status.json: heartbeat {status.heartbeat} is not a time")
    if status.is_result and parts["metrics"] is None:
        raise ValueError(f"status.json says {status.state}, but metrics.json is missing")
    return status


def _cell_document(parts: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    if (document := parts["cell"]) is None:
        raise ValueError("cell.json is missing")
    return document


def _read_json(path: Path) -> dict[str, Any] | None:
    """JSON object in `path`, or None without a file. A board reads 40,000: pydantic's parser is three times faster."""
    try:
        document = from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return document


def _checked_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a record: finite numbers, none of which is below 0 but in VECTORS. Raises ValueError otherwise."""
    for name, value in metrics.items():
        for number in value if isinstance(value, list) else (value,):
            try:
                # a board of 10,000 records checks a million
                is_sound = 0 <= number < math.inf or (name in VECTORS and -math.inf < number < 0)
            except TypeError:
                is_sound = False
            if not is_sound:
                least = "" if name in VECTORS else " from 0 on"
                raise ValueError(f"metrics: {name} is {number!r}, expected a number{least}")
    return metrics


def _read_history(path: Path) -> list[Epoch]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    history = [Epoch(**line) for line in from_json(b"[" + b",".join(lines) + b"]")]
    for epoch in history:
        if type(epoch.epoch) is not int or not 0 <= epoch.epoch <= MOST_EPOCHS:
            raise ValueError(f"{path.name}: epoch {epoch.epoch!r} is not a number of an epoch")
        if not _is_time(epoch.seconds):
            raise ValueError(f"{path.name}: seconds {epoch.seconds!r} is not a time")
    return history


def _is_time(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and 0 <= seconds <= MOST_SECONDS


def reason_of(error: Exception) -> str:
    """Reason why a file cannot be read, in one line: the first problem of a ValidationError, or the error itself."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, (error.title, ".".join(map(str, first["loc"])), first["msg"])))
    return str(error)
