"""Writes the record of one cell."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py

from benchmark.cell import Cell
from benchmark.files import replacing, write_json, write_text
from benchmark.training.recorder import Epoch, Rollouts, State, Status
from results.store import lease


class LeaseLostError(Exception):
    """This process no longer holds the cell."""


class CellRecorder:
    """Writes the record of one cell (benchmark.training.recorder.Recorder) while it holds the cell's lease.

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
        write_status(self.folder, self.status)


def write_status(folder: Path, status: Status) -> None:
    message = status.message.encode("utf-8", "replace").decode()  # an error may name a file whose name is no text
    write_json(folder / "status.json", asdict(replace(status, message=message)))
