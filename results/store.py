"""The store: one folder of files for each cell, `STORE/cells/<id>/`, each file complete or absent.

It is the only truth; leaderboards, the report and MLflow are views of it. Only the recorder of a running cell
writes there, under a lease on that cell, so that no cell is trained twice at once.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.files import data_folder, replacing, write_json, write_text
from benchmark.recorder import Epoch, State, Status
from benchmark.rollouts import Rollouts

from . import lease

_STATUS = TypeAdapter(Status)
MOST_SECONDS = 1e11
"""Of a time that is no mistake: the year 5138."""
MOST_EPOCHS = 10**9


@dataclass(frozen=True)
class Record:
    """What is known of one cell; `metrics` is empty until it is a result."""

    cell: Cell
    status: Status
    metrics: Mapping[str, Any]
    history: Sequence[Epoch]
    environment: Mapping[str, Any]
    folder: Path

    @property
    def predictions_path(self) -> Path:
        return self.folder / "predictions.h5"


@dataclass(frozen=True)
class Broken:
    """A folder in the store that does not hold a readable record, and why."""

    folder: Path
    reason: str


class LeaseLostError(Exception):
    """This process no longer holds the cell."""


class Store:
    """All that symbench writes, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def data_folder(self) -> Path:
        return data_folder(self.root)

    def cell_folder(self, cell_id: str) -> Path:
        return self.root / "cells" / cell_id

    def make(self) -> None:
        """Create the store's folders. MachineError where that is not allowed."""
        try:
            (self.root / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"store {self.root}: cannot be written: {error.strerror or error}") from error
        if not os.access(self.root / "cells", os.W_OK):
            raise MachineError(f"store {self.root}: no permission to write; set SYMBENCH_STORE or --store")

    def read(self, cells: Sequence[Cell], history: bool = True) -> tuple[dict[str, Record], list[Broken]]:
        """The records of `cells` that exist, by id, and the folders that could not be read.

        Without their `history`, which is empty then, a board of thousands of records is there in half the time.
        """
        records, broken = {}, []
        for cell in cells:
            folder = self.cell_folder(cell.id)
            try:
                record = read_record(folder, history)
            except (OSError, ValueError, TypeError) as error:
                broken.append(Broken(folder, reason_of(error)))
                continue
            if record is None:
                continue
            if record.cell.id == cell.id:
                records[cell.id] = record
            else:
                broken.append(Broken(folder, "cell.json describes another cell"))
        return records, broken

    def statuses(self, cells: Sequence[Cell]) -> tuple[dict[str, Status], list[Broken]]:
        """How far `cells` are, by id, and the folders that say nothing readable; several times quicker than `read`."""
        found, broken = {}, []
        for cell in cells:
            folder = self.cell_folder(cell.id)
            try:
                status = _read_status(folder)
                if status is not None and _cell_document(folder).get("id") != cell.id:
                    raise ValueError("cell.json describes another cell")
            except (OSError, ValueError, TypeError) as error:
                broken.append(Broken(folder, reason_of(error)))
                continue
            if status is not None:
                found[cell.id] = status
        return found, broken

    def is_result(self, cell: Cell) -> bool:
        """Whether the cell is finished for good; an unreadable record is not, and is made again."""
        records, _ = self.read([cell])
        return cell.id in records and records[cell.id].status.is_result

    @contextmanager
    def only_run(self) -> Iterator[None]:
        """Hold the store for one `symbench run`. MachineError where another holds it."""
        with locked(self.root / "run.lock") as holder:
            if holder is not None:
                raise MachineError(f"store {self.root}: another `symbench run` is at work here ({holder}); wait for it")
            yield

    def being_run(self, cell: Cell) -> bool:
        """Whether a live worker holds the cell, here or on another machine."""
        return lease.live_holder(self.cell_folder(cell.id)) is not None

    def last_holder(self, cell: Cell) -> lease.Holder | None:
        """Who held the cell last, dead or alive; None where nobody ever did."""
        return lease.current(self.cell_folder(cell.id))[1]

    def fail(self, record: Record, failure: str, message: str) -> None:
        """Record that the process of `record` died without a word of its own, unless somebody has taken the cell up."""
        with self.recorder(record.cell) as recorder:
            if recorder is not None and not self.is_result(record.cell):
                _write_status(record.folder, replace(record.status, state="failed", failure=failure, message=message))

    @contextmanager
    def recorder(self, cell: Cell) -> Iterator[CellRecorder | None]:
        """The recorder of `cell`, held by this process alone; None where another process holds it."""
        folder = self.cell_folder(cell.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"{folder}: cannot be written: {error.strerror}") from error
        mine = lease.acquire(folder)
        if mine is None:
            yield None
            return
        with mine.kept():
            yield CellRecorder(cell, folder, mine)


class CellRecorder:
    """Writes the record of one cell (benchmark.recorder.Recorder) while it holds the cell's lease.

    LeaseLostError where another has taken over, after this process was given up for dead: then nothing is written.
    """

    def __init__(self, cell: Cell, folder: Path, mine: lease.Lease) -> None:
        self.cell = cell
        self.folder = folder
        self.lease = mine
        self.status = Status("running", attempt=mine.number, host=mine.holder.host, pid=mine.holder.pid)

    def start(self) -> None:
        self._require_lease()
        write_json(self.folder / "cell.json", {"id": self.cell.id, **self.cell.model_dump(mode="json")})
        self._write_status()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        self._require_lease()
        lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)
        write_text(self.folder / "history.jsonl", lines)
        self.status = replace(self.status, epoch=len(history), epochs=epochs)
        self._write_status()

    def environment(self, environment: Mapping[str, Any]) -> None:
        self._require_lease()
        write_json(self.folder / "environment.json", environment)

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str) -> None:
        self._require_lease()
        buffer = io.BytesIO()  # in memory: HDF5 itself cannot close a file on a full disk
        with h5py.File(buffer, "w") as file:
            file.attrs["grid"] = grid
            for rollout in rollouts:
                group = file.create_group(rollout.split)
                group.attrs["windows"] = rollout.windows
                for name in ("input", "truth", "prediction"):
                    group.create_dataset(name, data=getattr(rollout, name))
        with replacing(self.folder / "predictions.h5") as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None:
        self._require_lease()
        write_json(self.folder / "metrics.json", dict(metrics))
        self.status = replace(self.status, state=state, message=message)
        self._write_status()

    def fail(self, failure: str, message: str) -> None:
        self.status = replace(self.status, state="failed", failure=failure, message=message)
        self._write_status()

    def _require_lease(self) -> None:
        if self.lease.lost:
            raise LeaseLostError(f"{self.folder}: another process has taken the cell over")

    def _write_status(self) -> None:
        self._require_lease()
        self.status = replace(self.status, heartbeat=time.time())
        _write_status(self.folder, self.status)


def _write_status(folder: Path, status: Status) -> None:
    message = status.message.encode("utf-8", "replace").decode()  # an error may name a file whose name is no text
    write_json(folder / "status.json", replace(status, message=message).to_json())


def read_record(folder: Path, history: bool = True) -> Record | None:
    """The record in `folder`; None where there is none. OSError or ValueError where it cannot be read."""
    status = _read_status(folder)
    if status is None:
        return None
    cell = _cell_document(folder)
    cell.pop("id", None)
    return Record(
        cell=Cell.model_validate(cell),
        status=status,
        metrics=_read_json(folder / "metrics.json") or {},
        history=_read_history(folder / "history.jsonl") if history else [],
        environment=_read_json(folder / "environment.json") or {},
        folder=folder,
    )


def _read_status(folder: Path) -> Status | None:
    document = _read_json(folder / "status.json")
    if document is None:
        return None
    status = _STATUS.validate_python(document)
    if not _is_time(status.heartbeat):
        raise ValueError(f"status.json: heartbeat {status.heartbeat} is no time")
    if status.is_result and not (folder / "metrics.json").exists():
        raise ValueError(f"status.json says {status.state}, but there is no metrics.json")
    return status


def _cell_document(folder: Path) -> dict[str, Any]:
    document = _read_json(folder / "cell.json")
    if document is None:
        raise ValueError("there is no cell.json")
    return document


def _read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file. A board reads forty thousand: pydantic's parser takes a third of the time."""
    try:
        document = from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return document


def _read_history(path: Path) -> list[Epoch]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    history = [Epoch(**line) for line in from_json(b"[" + b",".join(lines) + b"]")]  # all at once
    for epoch in history:
        if type(epoch.epoch) is not int or not 0 <= epoch.epoch <= MOST_EPOCHS:
            raise ValueError(f"{path.name}: epoch {epoch.epoch!r} is no number of an epoch")
        if not _is_time(epoch.seconds):
            raise ValueError(f"{path.name}: seconds {epoch.seconds!r} is no time")
    return history


def _is_time(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and 0 <= seconds <= MOST_SECONDS


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in one line: the first problem of a ValidationError, or the error itself."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{error.title}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


@contextmanager
def locked(path: Path, patience_seconds: float = 0.0) -> Iterator[str | None]:
    """Hold an exclusive lock on `path`, which the system lets go when the process dies.

    Yields None once it is held, or who holds it.
    """
    deadline = time.monotonic() + patience_seconds
    try:
        file = path.open("a+")
    except OSError as error:
        raise MachineError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    yield file.read().strip() or "unknown process"
                    return
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield None
