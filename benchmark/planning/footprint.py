"""Files and bytes that a suite leaves in the store when all of its cells are finished, without logs of jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from benchmark.cell import Cell, DatasetChoice
from benchmark.data.paths import field_path
from benchmark.evaluation.rollouts import EXAMPLES, TEST_SPLITS
from benchmark.planning.plan import CostKind
from benchmark.suite import facts
from benchmark.suite.suite import Suite
from benchmark.terminal import size

FLOAT_BYTES = 4
RECORD_BYTES, EPOCH_BYTES, HDF5_BYTES = 6_000, 240, 10_000
"""Measured: record.json, a line of history.jsonl, and predictions.h5 without its fields."""
STATES = 4
"""Tensors of a checkpoint for each weight: the weight, that of the best epoch, and two moments of the optimiser."""


@dataclass(frozen=True)
class Footprint:
    """Files and bytes of records and of data; `measured` is the number of cells whose kind has a finished one."""

    files: int
    record_bytes: int
    data_bytes: int
    cells: int
    measured: int

    @property
    def counts(self) -> dict[str, int]:
        """Fields for JSON."""
        return {"files": self.files, "bytes": self.record_bytes + self.data_bytes}

    def __str__(self) -> str:
        sources = {self.cells: "measured", 0: "estimated"}
        source = sources.get(self.measured, f"measured on the kinds of {self.measured} of {self.cells} cells")
        return (
            f"{self.files} files and {size(self.record_bytes + self.data_bytes)} in the store when all are finished:"
            f" records {size(self.record_bytes)} ({source}), data {size(self.data_bytes)}"
        )


def footprint(suite: Suite, finished: Mapping[str, tuple[int, int]], data_folder: Path) -> Footprint:
    """Footprint of `suite`; `finished` has the files and bytes of finished cells by id, one of each kind or more."""
    kind_of = CostKind()
    measured = {kind_of(cell): finished[cell.id] for cell in suite.cells if cell.id in finished}
    known = dict(measured)
    for cell in suite.cells:
        kind = kind_of(cell)
        if kind not in known:
            known[kind] = _estimated(cell, suite.keeps_checkpoints)
    sizes = [known[kind_of(cell)] for cell in suite.cells]
    data = {field_path(data_folder, cell.dataset): cell.dataset for cell in suite.cells}
    return Footprint(
        files=sum(files for files, _ in sizes) + len(data),
        record_bytes=sum(number for _, number in sizes),
        data_bytes=sum(_data_bytes(path, dataset) for path, dataset in data.items()),
        cells=len(suite.cells),
        measured=sum(kind_of(cell) in measured for cell in suite.cells),
    )


def _estimated(cell: Cell, keeps_checkpoint: bool) -> tuple[int, int]:
    task, protocol = facts.task_of(cell.dataset, cell.protocol), cell.protocol
    frames = protocol.input_frames + 2 * protocol.test_steps  # the truth and the forecast
    fields = len(TEST_SPLITS) * EXAMPLES * frames * prod(task.shape)
    number = RECORD_BYTES + HDF5_BYTES + FLOAT_BYTES * fields
    if not facts.is_trained(cell):
        return 2, number
    number += EPOCH_BYTES * cell.train.epochs
    if not keeps_checkpoint:
        return 3, number
    return 4, number + STATES * FLOAT_BYTES * (facts.parameters(cell.model, task) or 0)


def _data_bytes(path: Path, dataset: DatasetChoice) -> int:
    """Bytes of a data file, or of the field that it will hold."""
    if path.exists():
        return path.stat().st_size
    size = facts.dataset_facts(dataset.name).presets[dataset.preset]
    return FLOAT_BYTES * facts.runs(dataset.name) * int(size["frames"]) * prod(size["shape"])
