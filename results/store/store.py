"""The store: one folder of files for each cell, `STORE/cells/<id>/`, each file complete or absent.

It is the only truth; leaderboards, the report and MLflow are views of it. Only the recorder of a running cell
writes there, under a lease on that cell, so that no cell is trained twice at once.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.files import data_folder
from benchmark.training.recorder import Status
from results.store import lease
from results.store.cell_recorder import CellRecorder, write_status
from results.store.record import Broken, Record, read_cell_document, read_record, read_status, reason_of


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
                status = read_status(folder)
                if status is not None and read_cell_document(folder).get("id") != cell.id:
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
                write_status(record.folder, replace(record.status, state="failed", failure=failure, message=message))

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
