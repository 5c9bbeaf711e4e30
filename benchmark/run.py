"""One cell from data to record; every rank runs this."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from . import costs, environment, registry
from .baseline import Baseline
from .cell import Cell
from .checkpoint import Progress
from .data.dataset import Split, SplitName
from .data.layout import StoredField, data_path, load_field
from .data.windows import Windows
from .distributed import World
from .errors import MachineError
from .evaluation import (
    equivariance_error,
    example_rollouts,
    forecast_error,
    rollout_equivariance_error,
    split_errors,
)
from .flow import Box
from .groups import elements
from .model_errors import author_errors, check_forecast
from .recorder import Recorder
from .training import Control, DivergedError, deterministic, fit

EXAMPLES = 2
"""Rolled-out windows kept of each test split, for pictures."""
TEST_SPLITS: tuple[SplitName, ...] = ("future", "domain")
TUNING_SPLITS: tuple[SplitName, ...] = ("train", "validation")


def run_cell(
    cell: Cell,
    recorder: Recorder,
    world: World,
    data_folder: Path,
    control: Control,
    notes: Mapping[str, Any] = MappingProxyType({}),
    tuning: bool = False,
) -> None:
    """Train and evaluate `cell`, and leave its record; goes on where an earlier attempt stopped.

    `notes` join the provenance. While `tuning`, the test splits do not exist: their frames are not in memory, and the
    record ends with the validation RMSE. Raises UserError and MachineError for what a person can mend, StoppedError
    where `control` stopped the training; divergence is a result.
    """
    stored = cell_data(cell, data_folder)
    model_class, config = registry.configured(cell.model)
    task = costs.task_of(cell.dataset, cell.protocol, stored.field.shape[2:])
    provenance = {
        "model_file_sha256": environment.source_digest(model_class),
        "data_file": stored.path.name,
        "data_checksum": stored.checksum,
    }
    recorder.environment({**environment.describe(world), **provenance, **notes})
    with author_errors(cell.model.name, model_class):
        reason = model_class.refusal(config, task)
    if reason is not None:
        recorder.finish("n/a", {}, reason)
        return
    environment.reset_peak_memory(world.device)
    windows = cell_windows(cell, stored, world.device, TUNING_SPLITS if tuning else None)
    with deterministic(cell.seed):
        with author_errors(cell.model.name, model_class):
            model = model_class(config, task)
        model = model.to(world.device)
        # Before training, and without a random number of it: the epochs seed themselves.
        check_forecast(cell.model.name, model, windows["train"].batch(torch.zeros(1, dtype=torch.long))[0])
        trained = Progress()
        try:
            if model.trained:
                trained = fit(
                    model,
                    windows["train"],
                    windows["validation"],
                    cell.train,
                    cell.seed,
                    world,
                    recorder.checkpoint_path,
                    lambda history: recorder.progress(history, cell.train.epochs),
                    control,
                )
        except DivergedError as error:
            recorder.finish("diverged", _costs(cell, model, error.progress, windows, world), str(error))
            return
        spent = _costs(cell, model, trained, windows, world)
        if tuning:
            recorder.finish("done", {"rmse_validation": trained.best_rmse, **spent})
            return
        metrics = _evaluate(cell, model, stored, windows, world) | spent
        for name, value in (("", stored.mean_absolute_error), ("_relative", stored.mean_relative_error)):
            if value is not None:
                metrics[f"data_equivariance_error{name}"] = value
        if world.is_main:
            examples = [
                example_rollouts(model, windows[split], split, EXAMPLES, cell.train.precision) for split in TEST_SPLITS
            ]
            recorder.rollouts(examples, cell.dataset.grid)
    finite = {key: value for key, value in metrics.items() if _is_finite(value)}
    if len(finite) < len(metrics):
        recorder.finish("diverged", finite, f"not finite: {', '.join(sorted(metrics.keys() - finite.keys()))}")
    else:
        recorder.finish("done", metrics)


def cell_data(cell: Cell, data_folder: Path) -> StoredField:
    """The field that the cell learns, on the grid that it asks for. MachineError: missing, or of something else."""
    dataset = cell.dataset
    stored = load_field(data_path(data_folder, dataset.name, dataset.preset, dataset.level), dataset.grid)
    if (stored.dataset, stored.preset, stored.level) != (dataset.name, dataset.preset, dataset.level):
        raise MachineError(f"{stored.path}: holds {stored.dataset} ({stored.preset}) level {stored.level}; delete it")
    return stored


def cell_windows(
    cell: Cell, stored: StoredField, device: torch.device, only: Collection[SplitName] | None = None
) -> Mapping[SplitName, Windows]:
    """All splits over one field, which is moved to the device once; `only` these, and then no frame of another one."""
    splits = registry.dataset(cell.dataset.name).splits(cell.protocol, cell.dataset.preset)
    field = stored.field
    if only is not None:
        splits = {name: split for name, split in splits.items() if name in only}
        field = _without_other_frames(field, splits.values(), cell.protocol.input_frames)
    field = field.to(device)
    return {name: Windows.of(field, split, cell.protocol.input_frames) for name, split in splits.items()}


def _without_other_frames(field: torch.Tensor, splits: Iterable[Split], input_frames: int) -> torch.Tensor:
    """A copy in which the frames of no window are NaN, which would show in every number made of them."""
    shown = torch.full_like(field, math.nan)
    for split in splits:
        for run, start in itertools.product(split.runs, split.starts):
            frames = slice(start, start + input_frames + split.steps)
            shown[run, frames] = field[run, frames]
    return shown


def _evaluate(
    cell: Cell, model: Baseline, stored: StoredField, windows: Mapping[SplitName, Windows], world: World
) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    dataset = registry.dataset(cell.dataset.name)
    box = Box(cell.dataset.grid, stored.spacing, dataset.periodic)
    precision = cell.train.precision
    metrics["rmse_validation"] = forecast_error(model, windows["validation"], world, precision).rmse()
    for split in TEST_SPLITS:
        error, flow = split_errors(model, windows[split], world, precision, box)
        metrics[f"rmse_{split}"] = error.rmse()
        metrics[f"rmse_{split}_by_step"] = error.rmse_by_step()
        metrics[f"rmse_{split}_by_run"] = error.rmse_by_run()
        metrics[f"vrmse_{split}"] = error.vrmse()
        metrics[f"spectrum_{split}"], metrics[f"spectrum_truth_{split}"] = flow.spectra()
        metrics[f"spectrum_error_{split}"] = flow.spectrum_error()
        metrics[f"divergence_{split}"], metrics[f"divergence_truth_{split}"] = flow.divergences()
    group = elements(dataset.group, cell.dataset.grid, dataset.periodic, *windows["validation"].field.shape[-2:])
    symmetry = equivariance_error(model, windows["validation"], group, world)
    metrics["model_equivariance_error"] = symmetry.absolute()
    metrics["model_equivariance_error_relative"] = symmetry.relative()
    symmetry = rollout_equivariance_error(model, windows["future"], group, world)
    metrics["rollout_equivariance_error"] = symmetry.absolute()
    metrics["rollout_equivariance_error_relative"] = symmetry.relative()
    return metrics


def _costs(
    cell: Cell,
    model: Baseline,
    trained: Progress,
    windows: Mapping[SplitName, Windows],
    world: World,
) -> dict[str, Any]:
    """What the result cost; `samples_per_second` counts training windows, validation included in the time."""
    epochs = len(trained.history)
    spent: dict[str, Any] = {
        "parameters": costs.parameters(model),
        "epochs": epochs,
        "training_seconds": trained.seconds,
    }
    peak = environment.peak_memory_bytes(world.device)
    if peak is not None:
        spent["peak_memory_bytes"] = int(world.maximum(peak))
    try:
        spent["flops"] = costs.flops(model, world.device)  # after the peak was read: it is none of the training's
    except Exception as error:  # noqa: BLE001 - of a plug-in that takes no zeros, say; the training stands
        warnings.warn(f"the FLOPs cannot be counted: {type(error).__name__}: {error}", stacklevel=2)
    if epochs:
        spent["best_epoch"] = trained.best_epoch
        batches = len(windows["train"]) // cell.train.batch_size
        spent["samples_per_second"] = epochs * batches * cell.train.batch_size / trained.seconds
    return spent


def _is_finite(value: Any) -> bool:
    return all(map(math.isfinite, value)) if isinstance(value, list) else math.isfinite(value)
