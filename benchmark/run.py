"""One cell from data to record; every rank runs this."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import environment, registry
from .baseline import Baseline, Task
from .cell import Cell
from .checkpoint import Progress
from .data.dataset import SplitName
from .data.layout import StoredField, data_path, load_field
from .data.windows import Windows
from .distributed import World
from .errors import MachineError
from .evaluation import equivariance_error, example_rollouts, forecast_error
from .groups import elements
from .recorder import Recorder
from .training import Control, DivergedError, deterministic, fit

EXAMPLES = 2
"""Rolled-out windows kept of each test split, for pictures."""
TEST_SPLITS: tuple[SplitName, ...] = ("future", "domain")


def run_cell(cell: Cell, recorder: Recorder, world: World, data_folder: Path, control: Control) -> None:
    """Train and evaluate `cell`, and leave its record; goes on where an earlier attempt stopped.

    Raises UserError and MachineError for what a person can mend, StoppedError where `control` stopped the training;
    divergence is a result.
    """
    stored = cell_data(cell, data_folder)
    model_class, config = registry.configured(cell.model)
    task = task_of(cell, stored)
    provenance = {
        "model_file_sha256": environment.source_digest(model_class),
        "data_file": stored.path.name,
        "data_checksum": stored.checksum,
    }
    recorder.environment({**environment.describe(world), **provenance})
    reason = model_class.refusal(config, task)
    if reason is not None:
        recorder.finish("n/a", {}, reason)
        return
    environment.reset_peak_memory(world.device)
    windows = cell_windows(cell, stored, world.device)
    with deterministic(cell.seed):
        model = model_class(config, task).to(world.device)
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
        costs = _costs(cell, model, trained, windows, world)
        metrics = _evaluate(cell, model, windows, world) | costs
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


def task_of(cell: Cell, stored: StoredField) -> Task:
    """What the model has to fit."""
    _, _, channels, height, width = stored.field.shape
    return Task(
        cell.dataset.name,
        cell.protocol.input_frames,
        channels,
        height,
        width,
        cell.protocol.target,
        registry.dataset(cell.dataset.name).periodic,
        cell.dataset.grid,
    )


def cell_windows(cell: Cell, stored: StoredField, device: torch.device) -> Mapping[SplitName, Windows]:
    """All splits over one field, which is moved to the device once."""
    splits = registry.dataset(cell.dataset.name).splits(cell.protocol, cell.dataset.preset)
    field = stored.field.to(device)
    return {name: Windows.of(field, split, cell.protocol.input_frames) for name, split in splits.items()}


def _evaluate(cell: Cell, model: Baseline, windows: Mapping[SplitName, Windows], world: World) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    precision = cell.train.precision
    metrics["rmse_validation"] = forecast_error(model, windows["validation"], world, precision).rmse()
    for split in TEST_SPLITS:
        error = forecast_error(model, windows[split], world, precision)
        metrics[f"rmse_{split}"] = error.rmse()
        metrics[f"rmse_{split}_by_step"] = error.rmse_by_step()
        metrics[f"vrmse_{split}"] = error.vrmse()
    dataset = registry.dataset(cell.dataset.name)
    group = elements(dataset.group, cell.dataset.grid, dataset.periodic, *windows["validation"].field.shape[-2:])
    symmetry = equivariance_error(model, windows["validation"], group, world)
    metrics["model_equivariance_error"] = symmetry.absolute()
    metrics["model_equivariance_error_relative"] = symmetry.relative()
    return metrics


def _costs(
    cell: Cell, model: Baseline, trained: Progress, windows: Mapping[SplitName, Windows], world: World
) -> dict[str, Any]:
    """What the result cost; `samples_per_second` counts training windows, validation included in the time."""
    epochs = len(trained.history)
    costs: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": epochs,
        "training_seconds": trained.seconds,
    }
    peak = environment.peak_memory_bytes(world.device)
    if peak is not None:
        costs["peak_memory_bytes"] = int(world.maximum(peak))
    if epochs:
        costs["best_epoch"] = trained.best_epoch
        batches = len(windows["train"]) // cell.train.batch_size
        costs["samples_per_second"] = epochs * batches * cell.train.batch_size / trained.seconds
    return costs


def _is_finite(value: Any) -> bool:
    return all(map(math.isfinite, value)) if isinstance(value, list) else math.isfinite(value)
