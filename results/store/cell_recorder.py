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
from benchmark.files import replacing, write_json, write_text
from benchmark.training.recorder import Epoch, Rollouts, State, Status
from results.store import lease
from results.store.record import read_status

RECORD_FILES = (
    *("cell.json", "environment.json", "history.jsonl", "predictions.h5", "checkpoint.pt", "metrics.json"),
    "status.json",
)
"""Files of a record in the order of copying: without the last one there is no record."""


class LeaseLostError(Exception):
    """Raised when another process has taken the cell over."""


class CellRecorder:
    """Recorder (see benchmark.training.recorder) of one cell, whose lease this process holds.

    Once another process holds the cell, every method raises LeaseLostError and writes nothing. `on_epoch` is
    called after each epoch, once the history is on disk.
    """

    def __init__(self, cell: Cell, folder: Path, mine: lease.Lease) -> None:
        self.cell = cell
        self.folder = folder
        self.lease = mine
        self.on_epoch: Callable[[], object] = lambda: None
        self.status = Status("running", attempt=_attempts(folder) + 1, host=mine.holder.host, pid=mine.holder.pid)

    def start(self) -> None:
        write_json(self._file("cell.json"), {"id": self.cell.id, **self.cell.model_dump(mode="json")})
        self._write_status()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)
        write_text(self._file("history.jsonl"), lines)
        self.status = replace(self.status, epoch=len(history), epochs=epochs)
        self._write_status()
        if history:
            self.on_epoch()

    def environment(self, environment: Mapping[str, Any]) -> None:
        write_json(self._file("environment.json"), environment)

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str) -> None:
        buffer = io.BytesIO()  # HDF5 cannot close a file on a full disk
        with h5py.File(buffer, "w") as file:
            file.attrs["grid"] = grid
            for rollout in rollouts:
                group = file.create_group(rollout.split)
                group.attrs["windows"] = rollout.windows
                for name in ("input", "truth", "prediction"):
                    group.create_dataset(name, data=getattr(rollout, name))
        with replacing(self._file("predictions.h5")) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None:
        write_json(self._file("metrics.json"), dict(metrics))
        self.status = replace(self.status, state=state, message=message)
        self._write_status()

    def fail(self, failure: str, message: str) -> None:
        self.status = replace(self.status, state="failed", failure=failure, message=message)
        self._write_status()

    def discard(self) -> None:
        """Remove the files of the record."""
        for name in reversed(RECORD_FILES):
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if self.lease.lost:
            raise LeaseLostError(f"{self.folder}: was moved or removed, or another process has taken the cell over")
        return self.folder / name

    def _write_status(self) -> None:
        self.status = replace(self.status, heartbeat=time.time())
        write_status(self._file("status.json"), self.status)


def _attempts(folder: Path) -> int:
    try:
        status = read_status(folder)
    except (OSError, ValueError):  # damaged; this attempt writes it anew
        return 0
    return 0 if status is None else status.attempt


def write_status(path: Path, status: Status) -> None:
    """Write `status` as JSON."""
    message = status.message.encode("utf-8", "replace").decode()  # it may hold a file name that is not UTF-8
    write_json(path, asdict(replace(status, message=message)))
