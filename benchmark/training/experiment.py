"""Experiment: a cell whose names are resolved to a dataset, a baseline, a Config and a task."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.cell import Cell, DatasetChoice, Protocol
from benchmark.data import dataset_registry
from benchmark.data.check import require_sound
from benchmark.data.dataset import Dataset, Split, SplitName
from benchmark.data.layout import StoredField, on_grid, read
from benchmark.data.paths import field_path
from benchmark.data.windows import Windows
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline
from benchmark.models.task import AnyTask, task_on
from benchmark.training import gpu
from benchmark.training.arrangement import in_layout
from benchmark.training.model_errors import author_errors

TUNING_SPLITS: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True)
class Experiment:
    """A resolved cell. No model is built and no data are read yet."""

    cell: Cell
    dataset: Dataset
    model_class: type[Baseline]
    config: Any
    task: AnyTask

    @classmethod
    def of(cls, cell: Cell) -> Experiment:
        """Resolve `cell`. UserError: unknown name."""
        model_class, config = model_registry.configured(cell.model)
        task = task_of(cell.dataset, cell.protocol)
        return cls(cell, dataset_registry.dataset(cell.dataset.name), model_class, config, task)

    @property
    def splits(self) -> Mapping[SplitName, Split]:
        """Windows of each split. Raises UserError if the preset has too few frames for the protocol."""
        return self.dataset.splits(self.cell.protocol, self.cell.dataset.preset)

    def refusal(self) -> str | None:
        """Reason why the model cannot run on the task, or None. Raises UserError if the author's code fails."""
        with author_errors(self.cell.model.name, self.model_class):
            return self.model_class.cannot_run(self.config, self.task)

    def build(self) -> Baseline:
        """Model on the CPU, initialised from torch's random state. Raises UserError if the author's code fails."""
        with author_errors(self.cell.model.name, self.model_class):
            return self.model_class(self.config, self.task)

    def windows(self, field: Tensor, device: torch.device, tuning: bool = False) -> dict[SplitName, Windows]:
        """Windows of all splits over `field` (run, time, ...), as stored, in the layout that the model sees.

        The field is copied to the device once if it has room. With `tuning`, training and validation only; frames that
        only the test splits use are NaN in the copy.
        """
        splits, frames = self.splits, self.task.input_frames
        field = in_layout(field, self.cell.dataset.layout).contiguous()
        if tuning:
            splits = {name: splits[name] for name in TUNING_SPLITS}
            visible = torch.full_like(field, math.nan)
            for split in splits.values():
                for run, start in itertools.product(split.runs, split.starts):
                    window = slice(start, start + frames + split.steps)
                    visible[run, window] = field[run, window]
            field = visible
        if device.type != "cuda" or gpu.has_room(field.nbytes, torch.cuda.mem_get_info(device)[0]):
            field = field.to(device)
        else:
            warnings.warn(
                f"the field, {field.nbytes / 1e9:.1f} GB, stays on the host: the GPU lacks room", stacklevel=2
            )
        return {name: Windows.of(field, split, frames, device) for name, split in splits.items()}


def task_of(dataset: DatasetChoice, protocol: Protocol) -> AnyTask:
    """Task of a dataset under a protocol, on the preset. UserError: as in `task_on`."""
    return task_on(dataset, protocol, dataset_registry.dataset(dataset.name).size(dataset.preset))


def stored_field(dataset: DatasetChoice, data_folder: Path) -> StoredField:
    """Field of `dataset` on its grid. Raises MachineError if the file is missing, or not as it should be."""
    stored = read(field_path(data_folder, dataset))
    require_sound(stored, dataset)
    return on_grid(stored, dataset.grid)
