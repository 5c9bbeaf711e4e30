"""Training and evaluation of one cell, from its data to its record. Every rank calls `run_cell`."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmark.cell import Cell
from benchmark.data.dataset import SplitName
from benchmark.data.layout import StoredField
from benchmark.data.windows import Windows
from benchmark.evaluation import costs
from benchmark.evaluation.evaluate import example_rollouts, forecast_error, split_errors
from benchmark.evaluation.relaxation import Relaxation, share_of_relaxation
from benchmark.evaluation.rollouts import EXAMPLES, TEST_SPLITS
from benchmark.evaluation.trivial import trivial_forecast
from benchmark.kinds.kinds import KINDS
from benchmark.models.baseline import Baseline
from benchmark.models.model_digest import model_digest
from benchmark.training import environment
from benchmark.training.arrangement import physical
from benchmark.training.checkpoint import Progress
from benchmark.training.distributed import World
from benchmark.training.experiment import Experiment, stored_field
from benchmark.training.loop import DivergedError, Execution, TrainingData, TrainingOutput, fit
from benchmark.training.model_errors import check_forecast
from benchmark.training.randomness import deterministic
from benchmark.training.recorder import METRICS_VERSION, NOT_LEARNED, Recorder

SplitWindows = Mapping[SplitName, Windows]


def run_cell(
    cell: Cell,
    recorder: Recorder,
    data_folder: Path,
    execution: Execution,
    notes: Mapping[str, Any] = MappingProxyType({}),
    tuning: bool = False,
) -> None:
    """Train and evaluate `cell` and write its record. Continues from the checkpoint of an earlier attempt.

    `notes` are added to the provenance. With `tuning`, the record ends with the validation RMSE, and no frame of the
    test splits is in memory. Divergence is a result. Raises UserError and MachineError for causes that a person can
    fix, and StoppedError if `execution` stopped the training.
    """
    world = execution.world
    stored = stored_field(cell.dataset, data_folder)
    experiment = Experiment.of(cell)
    compared = {"data_checksum": stored.checksum, "model_digest": model_digest(cell.model)}
    provenance = {"data_file": stored.path.name, "metrics_version": METRICS_VERSION, **compared}
    recorder.environment({**environment.describe(world), **provenance, **notes})
    refusal = experiment.refusal()
    if refusal is not None:
        recorder.finish("n/a", {}, refusal)
        return
    environment.reset_peak_memory(world.device)
    windows = experiment.windows(stored.field, world.device, tuning)
    with deterministic(cell.seed):
        model = experiment.build().to(world.device)
        # Uses no random number of the training: each epoch is seeded on its own.
        check_forecast(cell.model.name, model, windows["train"].batch(torch.zeros(1, dtype=torch.long))[0])
        try:
            output = TrainingOutput(
                recorder.checkpoint_path, lambda history: recorder.progress(history, cell.train.epochs), compared
            )
            progress = _train(cell, model, windows, output, execution)
        except DivergedError as error:
            recorder.finish("diverged", _costs(cell, model, error.progress, windows, world), str(error))
            return
        measured = _costs(cell, model, progress, windows, world)
        if tuning:
            recorder.finish("done", {"rmse_validation": progress.best_rmse, **measured})
            return
        network, has_weights = model, model.trained
        model, seen = physical(model, windows, cell.dataset.layout)
        metrics = _evaluate(experiment, model, stored, seen, world) | measured
        metrics |= _data_errors(stored, cell.protocol.test_steps)
        trivial = None
        if has_weights:
            trivial = trivial_forecast(metrics["rmse_validation"], experiment.task, windows["validation"], world)
        if world.is_main:
            examples = [example_rollouts(model, seen[at], at, EXAMPLES, cell.train.precision) for at in TEST_SPLITS]
            layers = _relaxations(network, experiment)
            metrics |= {"relaxation": share_of_relaxation(layers)} if layers else {}
            recorder.rollouts(examples, cell.dataset.grid, layers)
    finite = {key: value for key, value in metrics.items() if _is_finite(value)}
    if len(finite) < len(metrics):
        recorder.finish("diverged", finite, f"not finite: {', '.join(sorted(metrics.keys() - finite.keys()))}")
    else:
        recorder.finish("done", metrics, f"{NOT_LEARNED} (RMSE of {trivial})" if trivial else "")


def _train(
    cell: Cell, model: Baseline, windows: SplitWindows, output: TrainingOutput, execution: Execution
) -> Progress:
    """Train `model` in place; a model without weights makes no progress."""
    if not model.trained:
        return Progress()
    data = TrainingData(windows["train"], windows["validation"])
    return fit(model, data, cell.train, cell.seed, output, execution)


def _evaluate(
    experiment: Experiment, model: Baseline, stored: StoredField, windows: SplitWindows, world: World
) -> dict[str, Any]:
    """Metrics of the trained model on validation and test windows."""
    dataset, precision, kind = experiment.dataset, experiment.cell.train.precision, KINDS[experiment.task.kind]
    metrics: dict[str, Any] = {}
    metrics["rmse_validation"] = forecast_error(model, windows["validation"], world, precision).rmse()
    for split in TEST_SPLITS:
        measures = kind.measures(stored, dataset, world.device)
        error = split_errors(model, windows[split], world, precision, kind.space, measures)
        metrics[f"rmse_{split}"] = error.rmse()
        metrics[f"rmse_{split}_by_step"] = error.rmse_by_step()
        metrics[f"rmse_{split}_by_run"] = error.rmse_by_run()
        metrics[f"vrmse_{split}"] = error.vrmse()
        metrics |= measures.metrics(split)
    symmetry = kind.symmetry_metrics(model, dataset, windows, world)
    metrics |= {name: value for name, value in symmetry.items() if value is not None}
    return metrics


def _relaxations(model: Baseline, experiment: Experiment) -> list[Relaxation]:
    """Relaxed layers of the best epoch, for a picture."""
    try:
        return KINDS[experiment.task.kind].relaxations(model, experiment.task)
    except Exception as error:  # noqa: BLE001 - a plug-in may give the names of our weights to others
        warnings.warn(f"no picture of the relaxed weights: {type(error).__name__}: {error}", stacklevel=2)
        return []


def _data_errors(stored: StoredField, test_steps: int) -> dict[str, float]:
    """Equivariance errors of the data, and strict floor of the roll-out, if they were measured in the simulation."""
    floor = stored.strict_floor
    errors = {
        "strict_floor": floor.over(test_steps, stored.grid) if floor else None,
        "data_equivariance_error": stored.mean_absolute_error,
        "data_equivariance_error_relative": stored.mean_relative_error,
    }
    return {name: error for name, error in errors.items() if error is not None}


def _costs(cell: Cell, model: Baseline, progress: Progress, windows: SplitWindows, world: World) -> dict[str, Any]:
    """Parameters, time, energy, peak memory in bytes and FLOPs.

    `samples_per_second` counts training windows only, but the time of validation, too.
    """
    epochs, seconds = len(progress.history), progress.seconds
    measured: dict[str, Any] = {"parameters": costs.parameters(model), "epochs": epochs, "training_seconds": seconds}
    peak = environment.peak_memory_bytes(world.device)
    if peak is not None:
        measured["peak_memory_bytes"] = int(world.maximum(peak))
    try:
        measured["flops"] = costs.flops(model, world.device)  # after the peak is read, which it would raise
    except Exception as error:  # noqa: BLE001 - such as a plug-in that refuses zeros; the training is still valid
        warnings.warn(f"the FLOPs cannot be counted: {type(error).__name__}: {error}", stacklevel=2)
    if epochs:
        batches = len(windows["train"]) // cell.train.batch_size
        measured["best_epoch"] = progress.best_epoch
        best = progress.history[progress.best_epoch - 1]
        pull = {"penalty_share": best.penalty_share, "penalty_gradient": best.penalty_gradient}
        measured |= {name: value for name, value in pull.items() if value is not None}
        joules = [epoch.joules for epoch in progress.history if epoch.joules is not None]
        measured |= {"training_joules": math.fsum(joules)} if len(joules) == epochs else {}
        measured["samples_per_second"] = epochs * batches * cell.train.batch_size / seconds
    return measured


def _is_finite(value: Any) -> bool:
    return all(map(math.isfinite, value)) if isinstance(value, list) else math.isfinite(value)
