"""The training loop of one cell: rolled-out loss, Adam, exponential schedule, early stopping, exact resume.

The model is a single-device module. Ranks, precision, compilation and filter caching are applied here, from outside.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.cell import RELAXATION_RATE, Training
from benchmark.data.windows import Windows
from benchmark.errors import UserError
from benchmark.evaluation.energy import EnergyMeter
from benchmark.evaluation.evaluate import forecast_error
from benchmark.models.baseline import Baseline
from benchmark.models.layers.norm import BatchNorm
from benchmark.training.checkpoint import Checkpoint, Position, Progress
from benchmark.training.distributed import World
from benchmark.training.environment import keep_freed_memory
from benchmark.training.loss import RolledOutLoss, compiled
from benchmark.training.pull import Pull, measure
from benchmark.training.randomness import seed_device, shuffled_batches, step_seed
from benchmark.training.recorder import Epoch

TF32_CAPABILITY = (8, 0)
"""First compute capability with tf32 (Ampere); torch would compute in float32 on an older one, without a word."""
EARLY_STOP_WINDOW = 5
"""Early stopping compares the last 5 epochs with the 5 before them."""


@dataclass(frozen=True)
class Execution:
    """How a training is executed. Nothing here changes the result beyond rounding.

    `should_stop` is called before each step on every rank; if any returns True, the training is saved and stopped.
    `may_save` is called before each save; False means that another process has taken over the training.
    `micro_batch` is the largest number of windows that a rank processes at once; gradients of the parts are summed.
    """

    world: World = field(default_factory=World)
    should_stop: Callable[[], bool] = lambda: False
    may_save: Callable[[], bool] = lambda: True
    micro_batch: int | None = None


@dataclass(frozen=True)
class TrainingData:
    """Windows to learn from, and windows that choose the best epoch."""

    train: Windows
    validation: Windows


@dataclass(frozen=True)
class TrainingOutput:
    """Path of the checkpoint, and a callback: rank 0 passes the history to it before the first and after each epoch.

    `provenance` is written into the checkpoint; one with another provenance is refused.
    """

    checkpoint: Path
    on_epoch: Callable[[Sequence[Epoch]], None] = lambda history: None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class DivergedError(Exception):
    """The loss is no longer finite after `progress`. This is a result, not a failure."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(f"the loss is not finite in epoch {len(progress.history) + 1}")
        self.progress = progress


class StoppedError(Exception):
    """The training was stopped; the same call continues from the checkpoint."""


def fit(
    model: Baseline,
    data: TrainingData,
    settings: Training,
    seed: int,
    output: TrainingOutput,
    execution: Execution = Execution(),
) -> Progress:
    """Train `model` in place and load the weights of its best epoch, by validation RMSE.

    Continues from the checkpoint if it exists, as if never interrupted; one of other data or code is refused. Saves
    after each epoch and when stopped.
    Raises DivergedError, StoppedError, and UserError if the windows do not fill a batch or the GPU has no tf32.
    """
    if len(data.train) < settings.batch_size:
        raise UserError(f"train.batch_size: {settings.batch_size} is more than the {len(data.train)} training windows")
    _require_whole_batches(model, settings, execution)
    if settings.rollout_steps is not None:  # validation keeps the protocol's length
        data = replace(data, train=replace(data.train, steps=settings.rollout_steps))
    tf32 = settings.precision == "tf32"  # bf16 is applied around the model
    device = execution.world.device
    if tf32 and device.type == "cuda" and torch.cuda.get_device_capability(device) < TF32_CAPABILITY:
        raise UserError(f"train.precision: tf32: {torch.cuda.get_device_name(device)} has none; use fp32")
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    keep_freed_memory()
    trainer = _Trainer(model, data, settings, seed, execution)
    world, may_save = execution.world, execution.may_save
    with Checkpoint(output.checkpoint, model, trainer.optimizer, trainer.schedule, output.provenance) as checkpoint:
        trainer.progress = progress = checkpoint.restore(world)
        if world.is_main:
            output.on_epoch(progress.history)
        while not _is_over(progress.history, settings):
            try:
                trainer.run_epoch()
            except StoppedError:
                if world.is_main and may_save():
                    checkpoint.save(progress)
                    checkpoint.wait()
                raise
            if world.any(not may_save()):
                raise StoppedError  # another process has taken over
            if world.is_main:
                checkpoint.save(progress)
                output.on_epoch(progress.history)
    model.load_state_dict(progress.best_model)
    return progress


def parameter_groups(model: Baseline, settings: Training) -> list[dict[str, Any]]:
    """Groups of the optimiser: deviations from the symmetry learn at `relaxation_rate` times the learning rate.

    A model without deviations has one group. Weight decay shrinks a deviation, and thereby acts towards the symmetry.
    """
    deviations = list(model.deviations())
    apart = {id(parameter) for parameter in deviations}
    others = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    if not deviations:
        return [{"params": others}]
    rate = RELAXATION_RATE if settings.relaxation_rate is None else settings.relaxation_rate
    return [{"params": others}, {"params": deviations, "lr": rate * settings.learning_rate}]


def _require_whole_batches(model: Baseline, settings: Training, execution: Execution) -> None:
    share = settings.batch_size // execution.world.size
    if execution.micro_batch is None or execution.micro_batch >= share:
        return
    if any(isinstance(module, BatchNorm) for module in model.modules()):
        raise UserError(
            f"model.norm: batch: its statistics are those of the whole batch, which a rank must hold at once; {share}"
            f" windows do not fit, {execution.micro_batch} were asked for: more ranks, or a smaller train.batch_size"
        )


def _is_over(history: Sequence[Epoch], settings: Training) -> bool:
    done = len(history)
    if done >= settings.epochs:
        return True
    if settings.early_stop_after is None or done < max(settings.early_stop_after, 2 * EARLY_STOP_WINDOW):
        return False
    rmse = [epoch.validation_rmse for epoch in history]
    return sum(rmse[-EARLY_STOP_WINDOW:]) >= sum(rmse[-2 * EARLY_STOP_WINDOW : -EARLY_STOP_WINDOW])


class _Trainer:
    """A model in training: its loss as executed here, its optimiser, and its progress."""

    def __init__(
        self, model: Baseline, data: TrainingData, settings: Training, seed: int, execution: Execution
    ) -> None:
        self.model, self.data, self.settings, self.seed, self.execution = model, data, settings, seed, execution
        self.world, self.device = execution.world, execution.world.device
        self.progress, self.energy = Progress(), EnergyMeter(self.world)
        if settings.channels_last:
            for parameter in model.parameters():  # Module.to would refuse weights with five axes
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        loss = RolledOutLoss(model, settings, self.device, cache_filters=not settings.compile)
        self.loss = self.world.wrap(compiled(loss, self.device) if settings.compile else loss)
        one_kernel = settings.compile or self.device.type == "cuda"  # for all weights; none exists for complex ones
        self.optimizer = torch.optim.Adam(
            parameter_groups(model, settings),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=one_kernel and not any(parameter.is_complex() for parameter in model.parameters()),
        )
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, settings.learning_rate_decay)

    def run_epoch(self) -> None:
        """Train for the rest of the present epoch, validate, and add the epoch to `progress`.

        Raises DivergedError, and StoppedError with the position in `progress`.
        """
        progress, started = self.progress, time.perf_counter()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.model.train()
        try:
            error, pull = self._train()
        except StoppedError:
            progress.position.seconds += time.perf_counter() - started
            progress.position.joules += self.energy.lap()
            raise
        self.schedule.step()
        rmse = forecast_error(self.model, self.data.validation, self.world, self.settings.precision).rmse()
        if not (math.isfinite(error) and math.isfinite(rmse)):
            raise DivergedError(progress)
        epoch, train_rmse = len(progress.history) + 1, math.sqrt(error / self.data.train.steps)
        seconds = progress.position.seconds + time.perf_counter() - started
        joules = progress.position.joules + self.energy.lap()
        rates = learning_rate, seconds, pull.share, pull.gradient, joules if math.isfinite(joules) else None
        progress.history.append(Epoch(epoch, error, train_rmse, rmse, *rates))
        progress.position = Position()
        if rmse < progress.best_rmse:
            progress.best_rmse, progress.best_epoch = rmse, epoch
            progress.best_model = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def _train(self) -> tuple[float, Pull]:
        """Pass over the shuffled windows, from the saved position on; returns the mean forecast loss of all steps.

        Also returns the pull of the penalty at the last step. Each rank takes its slice of every global batch.
        """
        world, batch_size, position = self.world, self.settings.batch_size, self.progress.position
        epoch = len(self.progress.history)
        batches, draws = shuffled_batches(len(self.data.train), batch_size, step_seed(self.seed, epoch, 0))
        share = batch_size // world.size
        mine = slice(world.rank * share, (world.rank + 1) * share)
        # Copied to the device once an epoch: in each step the CPU would wait for the copy.
        batches, draws = batches[:, mine].to(self.data.train.index.device), draws[:, mine].to(self.device)
        total = torch.full((), position.error_on(world), dtype=torch.float64, device=self.device)
        pull = Pull()
        for step in range(position.step, len(batches)):
            if world.any(self.execution.should_stop()):
                position.step, position.error = step, world.gather(float(total))
                raise StoppedError
            self.energy.update()
            seed_device(step_seed(self.seed, epoch, step) + world.rank, self.device)
            self._accumulate_gradients(batches[step], draws[step], total)
            if step == len(batches) - 1:
                pull = measure(self.model, float(total) / len(batches))
            self.model.before_step((epoch + step / len(batches)) / self.settings.epochs)
            if self.settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
            self.optimizer.step()
        return float(world.sum(total)) / (len(batches) * world.size), pull

    def _accumulate_gradients(self, batch: Tensor, draws: Tensor, total: Tensor) -> None:
        """Forward and backward over the windows `batch` (share,), in parts. Adds the forecast loss to `total`."""
        share = len(batch)
        size = self.execution.micro_batch or share
        parts = list(zip(batch.split(size), draws.split(size), strict=True))
        self.optimizer.zero_grad(set_to_none=True)
        for number, (part, draws_B) in enumerate(parts, start=1):
            x_BTCHW, y_BSCHW = self.data.train.batch(part)
            weight = len(part) / share
            # Ranks average their gradients once, after the last part.
            with nullcontext() if number == len(parts) else self.world.keeping_gradients(self.loss):
                loss, error = self.loss(x_BTCHW, y_BSCHW, draws_B)
                (weight * loss).backward()
            total += weight * error.detach().double()
