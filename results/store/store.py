"""Store of records: a folder `STORE/cells/<id>/` for each cell, in which every file is complete or absent.

Leaderboards, reports and MLflow are views of it. The recorder of a running cell alone writes there, under a lease of
the cell, so that no cell is trained twice at a time.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.files import data_folder, write_errors, write_text
from benchmark.training.recorder import FINAL_STATES, Status
from results.store import lease
from results.store.cell_recorder import CellRecorder, write_status
from results.store.provenance import Review
from results.store.record import (
    FINISHED,
    Broken,
    Record,
    read_environment,
    read_record,
    read_status,
    reason_of,
)

Part = TypeVar("Part")


class Store:
    """Folder that holds all that symbench writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def data_folder(self) -> Path:
        """Folder of the data files."""
        return data_folder(self.root)

    def cell_folder(self, cell_id: str) -> Path:
        """Folder of the record of a cell."""
        return self.root.joinpath("cells", cell_id)

    def make(self) -> None:
        """Create the store's folders. Raises MachineError if they cannot be written."""
        with write_errors(f"store {self.root}"):
            (self.root / "cells").mkdir(parents=True, exist_ok=True)
        if not self.is_writable:
            raise MachineError(f"store {self.root}: no permission to write; set SYMBENCH_STORE or --store")
        if not (path := self.root / "id").exists():
            write_text(path, secrets.token_hex(8) + "\n")

    @property
    def is_writable(self) -> bool:
        """Whether this user may write cells."""
        return os.access(self.root / "cells", os.W_OK)

    @property
    def identity(self) -> str:
        """Random name of the store, made with it; empty for one of an earlier version, until it is written to."""
        path = self.root / "id"
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""

    def read(self, cells: Sequence[Cell], history: bool = True) -> tuple[dict[str, Record], list[Broken]]:
        """Existing records of `cells`, by id, and the folders that cannot be read.

        Reading takes half the time without the `history` of the records, which is empty then.
        """

        def record_of(cell: Cell) -> tuple[str, Record] | None:
            record = read_record(self.cell_folder(cell.id), history, cell)
            return None if record is None else (record.cell.id, record)

        return self._read_parts(cells, record_of)

    def statuses(self, cells: Sequence[Cell]) -> tuple[dict[str, Status], list[Broken]]:
        """Statuses of `cells`, by id, and the folders that cannot be read; several times faster than `read`."""

        return self._read_parts(cells, lambda cell: read_status(self.cell_folder(cell.id)))

    def review(self, cells: Sequence[Cell], states: Mapping[str, str] | None = None) -> Review:
        """Provenance of the finished ones of `cells`, compared with that of today and with one another.

        `states` are those of the cells by id, if the caller has read them.
        """
        if states is None:
            states = {key: status.state for key, status in self.statuses(cells)[0].items()}
        finished = [cell for cell in cells if states.get(cell.id) in FINAL_STATES]
        environments = {}
        for cell in finished:
            with suppress(OSError, ValueError):
                environments[cell.id] = read_environment(self.cell_folder(cell.id))
        return Review.of(finished, environments, self.data_folder)

    def discard(self, cell: Cell) -> None:
        """Remove the record of a cell, so that it is trained again. Raises MachineError if a process runs the cell."""
        with self.recorder(cell) as recorder:
            if recorder is None:
                raise MachineError(f"{cell}: a process runs it; wait for it")
            recorder.discard()

    def _read_parts(
        self, cells: Sequence[Cell], read: Callable[[Cell], tuple[str, Part] | None]
    ) -> tuple[dict[str, Part], list[Broken]]:
        """Apply `read`, which returns the id and the part in the folder of a cell, to each cell."""
        parts, broken = {}, []
        for cell in cells:
            try:
                if (pair := read(cell)) is None:
                    continue
                if pair[0] != cell.id:
                    raise ValueError("it describes another cell")
                parts[cell.id] = pair[1]
            except (OSError, ValueError, TypeError) as error:
                broken.append(Broken(self.cell_folder(cell.id), reason_of(error)))
        return parts, broken

    def files_of(self, cell: Cell) -> tuple[int, int] | None:
        """Number and bytes of the files of a finished cell; None if its record is of an earlier version."""
        folder = self.cell_folder(cell.id)
        sizes = [path.stat().st_size for path in folder.iterdir()] if (folder / FINISHED).exists() else []
        return (len(sizes), sum(sizes)) if sizes else None

    def is_result(self, cell: Cell) -> bool:
        """Whether the cell is finished; a cell whose record cannot be read is not, and runs again."""
        records, _ = self.read([cell])
        return cell.id in records and records[cell.id].status.is_result

    def live_holder(self, cell: Cell) -> lease.Holder | None:
        """Live process that holds the cell, here or on another machine; None if there is none."""
        return lease.live_holder(self.cell_folder(cell.id))

    def being_run(self, cell: Cell) -> bool:
        """Whether a live process holds the cell."""
        return self.live_holder(cell) is not None

    def last_holder(self, cell: Cell) -> lease.Holder | None:
        """Last holder of the cell, dead or alive; None if there never was one."""
        return lease.current(self.cell_folder(cell.id))[1]

    def fail(self, record: Record, failure: str, message: str) -> None:
        """Mark a cell as failed whose process died, unless another process has taken it over."""
        with lease.held(record.folder) as mine:
            if mine is not None and not self.is_result(record.cell):
                status = replace(record.status, state="failed", failure=failure, message=message)
                write_status(record.folder / "status.json", status)

    @contextmanager
    def recorder(self, cell: Cell, patience_seconds: float = 0.0) -> Iterator[CellRecorder | None]:
        """Recorder of `cell`, whose lease is held during the block; None if another process keeps it (see `acquire`).

        Raises MachineError if the cell's folder cannot be written.
        """
        folder = self.cell_folder(cell.id)
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with lease.held(folder, patience_seconds) as mine:
            yield None if mine is None else CellRecorder(cell, folder, mine)
            if mine is not None:
                mine.is_last = (folder / FINISHED).exists()

    @contextmanager
    def alone(self, task: str, patience_seconds: float = 0.0) -> Iterator[None]:
        """Hold the store for `task`. Raises MachineError if another process does so for `patience_seconds`."""
        folder = self.root / "leases" / task
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with lease.held(folder, patience_seconds) as mine:
            if mine is None:
                holder = lease.current(folder)[1]
                raise MachineError(
                    f"store {self.root}: another `symbench {task}` is at work here ({holder}); wait for it"
                )
            yield
