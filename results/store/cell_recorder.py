"""Recorder that writes the record of one cell into the store."""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py

from benchmark.cell import Cell
from benchmark.evaluation.relaxation import Relaxation, write_relaxations
from benchmark.files import replacing, write_errors, write_json, write_text
from benchmark.training.recorder import Epoch, Rollouts, State, Status
from results.store import lease
from results.store.record import FINISHED, PARTS, read_environment, read_status

CHECKPOINT = "checkpoint.pt"
RECORD_FILES = ("history.jsonl", "predictions.h5", CHECKPOINT, *(f"{part}.json" for part in PARTS), FINISHED)
"""Files of a record in the order of copying: a record is complete with status.json, or with the last one."""


class LeaseLostError(Exception):
    """Raised when another process has taken the cell over."""


class CellRecorder:
    """Recorder (see benchmark.training.recorder) of one cell, whose lease this process holds.

    Once another process holds the cell, every method raises LeaseLostError and writes nothing. `on_epoch` is
    called after each epoch, once the history is on disk. A finished cell has no checkpoint, unless `keeps_checkpoint`.
    """

    def __init__(self, cell: Cell, folder: Path, mine: lease.Lease) -> None:
        self.cell = cell
        self.folder = folder
        self.lease = mine
        self.on_epoch: Callable[[], object] = lambda: None
        self.keeps_checkpoint = False
        self.status = Status("running", attempt=_attempts(folder) + 1, host=mine.holder.host, pid=mine.holder.pid)

    def start(self) -> None:
        self._file(FINISHED).unlink(missing_ok=True)  # one that cannot be read
        write_json(self._file("cell.json"), self._cell_document())
        self._write_status()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / CHECKPOINT

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)
        write_text(self._file("history.jsonl"), lines)
        self.status = replace(self.status, epoch=len(history), epochs=epochs)
        self._write_status()
        if history:
            self.on_epoch()

    def environment(self, environment: Mapping[str, Any]) -> None:
        write_json(self._file("environment.json"), environment)

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str, relaxations: Sequence[Relaxation] = ()) -> None:
        buffer = io.BytesIO()  # HDF5 cannot close a file on a full disk
        with h5py.File(buffer, "w") as file:
            file.attrs["grid"] = grid
            for rollout in rollouts:
                group = file.create_group(rollout.split)
                components = " ".join(rollout.components)
                group.attrs.update(windows=rollout.windows, kind=rollout.kind, components=components)
                for name in ("input", "truth", "prediction"):
                    group.create_dataset(name, data=getattr(rollout, name))
            write_relaxations(file, relaxations)
        with replacing(self._file("predictions.h5")) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None:
        self.status = replace(self.status, state=state, message=message, heartbeat=time.time())
        environment = read_environment(self.folder)  # before the file that it is in goes
        parts = (self._cell_document(), environment, dict(metrics), _document(self.status))
        document = dict(zip(PARTS, parts, strict=True))
        write_json(self._file(FINISHED), document | {"keeps_checkpoint": self.keeps_checkpoint})
        tidy(self.folder, self.keeps_checkpoint)

    def fail(self, failure: str, message: str) -> None:
        self.status = replace(self.status, state="failed", failure=failure, message=message)
        self._write_status()

    def discard(self) -> None:
        """Remove the files of the record."""
        for name in reversed(RECORD_FILES):
            self._file(name).unlink(missing_ok=True)

    def _cell_document(self) -> dict[str, Any]:
        return {"id": self.cell.id, **self.cell.document}

    def _file(self, name: str) -> Path:
        if self.lease.lost:
            raise LeaseLostError(f"{self.folder}: was moved or removed, or another process has taken the cell over")
        return self.folder / name

    def _write_status(self) -> None:
        self.status = replace(self.status, heartbeat=time.time())
        write_status(self._file("status.json"), self.status)


def _attempts(folder: Path) -> int:
    try:
        known = read_status(folder)
    except (OSError, ValueError):  # damaged; this attempt writes it anew
        return 0
    return 0 if known is None else known[1].attempt


def write_status(path: Path, status: Status) -> None:
    """Write `status` as JSON."""
    write_json(path, _document(status))


def _document(status: Status) -> dict[str, Any]:
    message = status.message.encode("utf-8", "replace").decode()  # it may hold a file name that is not UTF-8
    return asdict(replace(status, message=message))


def tidy(folder: Path, keeps_checkpoint: bool) -> None:
    """Remove what a finished cell does not need: its parts, which are in record.json, its checkpoint, and what killed
    processes left half written."""
    names = [f"{part}.json" for part in PARTS] + ([] if keeps_checkpoint else [CHECKPOINT])
    with write_errors(folder):
        for path in (*(folder / name for name in names), *folder.glob(".*.tmp")):
            path.unlink(missing_ok=True)
