"""A cell resolved: dataset, baseline, Config and task that the names in it stand for, and the data that it learns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.cell import Cell, DatasetChoice, Protocol
from benchmark.data import dataset_registry
from benchmark.data.dataset import Dataset, Split, SplitName
from benchmark.data.layout import StoredField, field_path, load_field
from benchmark.data.windows import Windows
from benchmark.errors import MachineError
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.training.model_errors import author_errors

TUNING_SPLITS: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True)
class Experiment:
    """A cell with everything that its names stand for. Resolved once; nothing is built or read yet."""

    cell: Cell
    dataset: Dataset
    model_class: type[Baseline]
    config: Any
    task: Task

    @classmethod
    def of(cls, cell: Cell, shape_CHW: Sequence[int] | None = None) -> Experiment:
        """Resolve `cell`, on a field of that shape, by default the shape of its preset. UserError: unknown name."""
        model_class, config = model_registry.configured(cell.model)
        task = task_of(cell.dataset, cell.protocol, shape_CHW)
        return cls(cell, dataset_registry.dataset(cell.dataset.name), model_class, config, task)

    @property
    def splits(self) -> Mapping[SplitName, Split]:
        """Windows of each split. UserError where the frames do not hold the windows that the protocol asks for."""
        return self.dataset.splits(self.cell.protocol, self.cell.dataset.preset)

    def refusal(self) -> str | None:
        """Why the model cannot run on the task; None where it can. UserError: the author's code raises."""
        with author_errors(self.cell.model.name, self.model_class):
            return self.model_class.refusal(self.config, self.task)

    def build(self) -> Baseline:
        """The model on the CPU, with weights from torch's random state. UserError: the author's code raises."""
        with author_errors(self.cell.model.name, self.model_class):
            return self.model_class(self.config, self.task)

    def windows(self, field: Tensor, device: torch.device) -> dict[SplitName, Windows]:
        """Windows of all splits over `field` (run, time, C, H, W), which is moved to the device once."""
        return self._windows_of(field, self.splits, device)

    def tuning_windows(self, field: Tensor, device: torch.device) -> dict[SplitName, Windows]:
        """Windows of training and validation alone: frames of the test splits are not in memory."""
        splits = {name: self.splits[name] for name in TUNING_SPLITS}
        return self._windows_of(_without_other_frames(field, splits.values(), self.task.input_frames), splits, device)

    def _windows_of(
        self, field: Tensor, splits: Mapping[SplitName, Split], device: torch.device
    ) -> dict[SplitName, Windows]:
        field = field.to(device)
        return {name: Windows.of(field, split, self.task.input_frames) for name, split in splits.items()}


def is_trained(cell: Cell) -> bool:
    """Whether the model of `cell` has weights to train. UserError: unknown model."""
    return model_registry.model(cell.model.name).trained


def task_of(dataset: DatasetChoice, protocol: Protocol, shape_CHW: Sequence[int] | None = None) -> Task:
    """What a model has to fit; the shape is that of the preset where no data are there to give it."""
    declared = dataset_registry.dataset(dataset.name)
    if shape_CHW is None:
        preset = declared.presets[dataset.preset]
        shape_CHW = (declared.channels, preset.height, preset.width)
    channels, height, width = shape_CHW
    return Task(
        dataset.name,
        protocol.input_frames,
        channels,
        height,
        width,
        protocol.target,
        declared.periodic,
        dataset.grid,
    )


def stored_field(dataset: DatasetChoice, data_folder: Path) -> StoredField:
    """The field of `dataset`, on the grid that it asks for. MachineError: missing, or of another dataset."""
    stored = load_field(field_path(data_folder, dataset), dataset.grid)
    if (stored.dataset, stored.preset, stored.level) != (dataset.name, dataset.preset, dataset.level):
        raise MachineError(f"{stored.path}: holds {stored.dataset} ({stored.preset}) level {stored.level}; delete it")
    return stored


def _without_other_frames(field: Tensor, splits: Iterable[Split], input_frames: int) -> Tensor:
    """A copy in which the frames of no window are NaN, which would show in every number made of them."""
    shown = torch.full_like(field, math.nan)
    for split in splits:
        for run, start in itertools.product(split.runs, split.starts):
            frames = slice(start, start + input_frames + split.steps)
            shown[run, frames] = field[run, frames]
    return shown
