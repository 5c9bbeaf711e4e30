"""Record of a cell, read from the files in its folder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from benchmark.cell import Cell
from benchmark.training.recorder import Epoch, Status

_STATUS = TypeAdapter(Status)
MOST_SECONDS = 1e11
"""Largest plausible time in seconds since 1970: the year 5138."""
MOST_EPOCHS = 10**9
COSTS = ("training_seconds", "samples_per_second", "peak_memory_bytes")
"""Metrics in which two equal trainings may differ."""


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


def read_record(folder: Path, history: bool = True) -> Record | None:
    """Record in `folder`, or None if there is none. Raises OSError or ValueError if it cannot be read."""
    status = read_status(folder)
    if status is None:
        return None
    cell = read_cell_document(folder)
    cell.pop("id", None)
    return Record(
        cell=Cell.model_validate(cell),
        status=status,
        metrics=_read_metrics(folder / "metrics.json"),
        history=_read_history(folder / "history.jsonl") if history else [],
        environment=read_environment(folder),
        folder=folder,
    )


def read_status(folder: Path) -> Status | None:
    """Status in `folder`, or None if there is none. Raises OSError or ValueError if it cannot be read."""
    document = _read_json(folder / "status.json")
    if document is None:
        return None
    status = _STATUS.validate_python(document)
    if not _is_time(status.heartbeat):
        raise ValueError(f"status.json: heartbeat {status.heartbeat} is not a time")
    if status.is_result and _read_json(folder / "metrics.json") is None:
        raise ValueError(f"status.json says {status.state}, but metrics.json is missing")
    return status


def read_environment(folder: Path) -> dict[str, Any]:
    """Content of environment.json, empty without the file. Raises OSError or ValueError if it cannot be read."""
    return _read_json(folder / "environment.json") or {}


def read_cell_document(folder: Path) -> dict[str, Any]:
    """Content of cell.json. Raises OSError or ValueError if it cannot be read."""
    document = _read_json(folder / "cell.json")
    if document is None:
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


def _read_metrics(path: Path) -> dict[str, Any]:
    """Metrics in `path`, empty without the file: errors, spectra, counts and times, none of which is below 0."""
    metrics = _read_json(path) or {}
    for name, value in metrics.items():
        for number in value if isinstance(value, list) else (value,):
            if not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise ValueError(f"{path.name}: {name} is {number!r}, expected a number from 0 on")
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
