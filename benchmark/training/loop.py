"""The training loop: rolled-out loss, Adam, exponential schedule, early stopping, exact resume.

The model stays a single-device module; ranks, precision, compilation and filter caching are applied here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.cell import Training
from benchmark.data.windows import Windows
from benchmark.errors import UserError
from benchmark.evaluation.evaluate import forecast_error, roll_out
from benchmark.models.baseline import Baseline
from benchmark.training.checkpoint import Checkpoint, Position, Progress, share_of
from benchmark.training.distributed import World, single
from benchmark.training.environment import keep_freed_memory
from benchmark.training.recorder import Epoch

EARLY_STOP_WINDOW = 5


@dataclass(frozen=True)
class Execution:
    """How a training is executed: ranks, stops, memory. None of it changes the result, but for rounding.

    `should_stop` is asked before each step, on every rank; where one says yes, all save and stop. `may_save` is asked
    before each save: no where another process has taken the training over. `micro_batch` is the most windows that a
    rank takes at once; a larger share of the batch is summed up in parts. `timer` is entered around each part of an
    epoch: data, forward, backward, optimizer, validation, checkpoint.
    """

    world: World = field(default_factory=single)
    should_stop: Callable[[], bool] = lambda: False
    may_save: Callable[[], bool] = lambda: True
    micro_batch: int | None = None
    timer: Callable[[str], AbstractContextManager[None]] = lambda part: nullcontext()


@dataclass(frozen=True)
class TrainingData:
    """Windows to learn from, and windows that choose the best epoch."""

    train: Windows
    validation: Windows


@dataclass(frozen=True)
class TrainingOutput:
    """What a training leaves: its checkpoint, and a call of `on_epoch` on rank 0 with the history so far, before the
    first epoch and after each."""

    checkpoint: Path
    on_epoch: Callable[[Sequence[Epoch]], None] = lambda history: None


class DivergedError(Exception):
    """The loss is no longer finite after `progress`. That is a result, not a failure."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(f"the loss is not finite in epoch {len(progress.history) + 1}")
        self.progress = progress


class StoppedError(Exception):
    """Training was asked to stop and has saved where it is; the same call goes on from there."""


class RolledOutLoss(nn.Module):
    """Sum over rolled-out steps of the MSE, without teacher forcing, plus what the model adds to it.

    Windows (B, T, C, H, W), targets (B, S, C, H, W), draws (B,) -> the loss and, for the record, its first part.
    """

    def __init__(self, model: Baseline, settings: Training, device: torch.device, cache_filters: bool) -> None:
        super().__init__()
        self.model = model
        self.device_type = device.type
        self.bf16 = settings.precision == "bf16"
        self.cache_filters = cache_filters

    def forward(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BTCHW, y_BSCHW = self.model.augment(x_BTCHW, y_BSCHW, draws_B)
        # Filters are expanded once for the whole roll-out; a compiler removes the repetition by itself.
        with parametrize.cached() if self.cache_filters else nullcontext():
            prediction = roll_out(self.model, x_BTCHW, y_BSCHW.shape[1], self.device_type, self.bf16)
            error = (prediction - y_BSCHW).square().mean((0, 2, 3, 4)).sum()
            with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
                regularization = self.model.regularization(x_BTCHW, draws_B)
            added = self.model.penalty().to(error.device) + regularization.float().to(error.device)
            # Not detached here: a compiler may make one tensor of both where nothing is added.
            return error + added, error


def fit(
    model: Baseline,
    data: TrainingData,
    settings: Training,
    seed: int,
    output: TrainingOutput,
    execution: Execution = Execution(),
) -> Progress:
    """Train `model` in place and leave the best weights, by validation RMSE, in it.

    Goes on from the checkpoint where that exists, as if never interrupted; writes it after each epoch, and when it
    is stopped. Raises DivergedError, StoppedError, and UserError where the windows cannot fill a batch.
    """
    if len(data.train) < settings.batch_size:
        raise UserError(f"train.batch_size: {settings.batch_size} is more than the {len(data.train)} training windows")
    if settings.rollout_steps is not None:  # validation keeps the protocol's length
        data = replace(data, train=replace(data.train, steps=settings.rollout_steps))
    use_precision(settings.precision)
    keep_freed_memory()
    engine = _Engine.of(model, settings, seed, execution)
    is_main = execution.world.is_main
    with Checkpoint(output.checkpoint, model, engine.optimizer, engine.schedule) as saved:
        progress = saved.restore(execution.world)
        if is_main:
            output.on_epoch(progress.history)
        while not _is_over(progress.history, settings):
            try:
                _run_epoch(engine, data, progress)
            except StoppedError:
                if is_main and execution.may_save():
                    saved.save(progress)
                    saved.wait()
                raise
            if execution.world.any(not execution.may_save()):
                raise StoppedError  # whoever has taken over writes from now on
            if is_main:
                with execution.timer("checkpoint"):
                    saved.save(progress)
                    output.on_epoch(progress.history)
    model.load_state_dict(progress.best_model)
    return progress


@dataclass(frozen=True)
class _Engine:
    """A model with all that its epochs use; `loss` is wrapped for ranks and compiled as `settings` ask."""

    model: Baseline
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    settings: Training
    seed: int
    execution: Execution

    @classmethod
    def of(cls, model: Baseline, settings: Training, seed: int, execution: Execution) -> _Engine:
        world, device = execution.world, execution.world.device
        if settings.channels_last:
            for parameter in model.parameters():  # Module.to would refuse those with five axes
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        rolled_out = RolledOutLoss(model, settings, device, cache_filters=not settings.compile)
        loss = world.wrap(compiled(rolled_out, device) if settings.compile else rolled_out)
        one_kernel = settings.compile or device.type == "cuda"  # for all weights; there is none for complex ones
        optimizer = torch.optim.Adam(
            model.parameters(),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=one_kernel and not any(parameter.is_complex() for parameter in model.parameters()),
        )
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.learning_rate_decay)
        return cls(model, loss, optimizer, schedule, settings, seed, execution)


def compiled(loss: RolledOutLoss, device: torch.device) -> nn.Module:
    """The whole roll-out as one graph. On a CPU it is also called from C++: Python's calls are a part of a small
    network's time."""
    module: nn.Module = torch.compile(loss, options={"cpp_wrapper": True} if device.type == "cpu" else None)  # type: ignore[assignment]
    return module


def use_precision(precision: str) -> None:
    """Let matrix units round float32 to tf32, or not; bf16 is applied around the model."""
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def _run_epoch(engine: _Engine, data: TrainingData, progress: Progress) -> None:
    """Train for the rest of an epoch, validate, and add the epoch to `progress`.

    Raises DivergedError, and StoppedError with the position in `progress`.
    """
    started = time.perf_counter()
    learning_rate = engine.optimizer.param_groups[0]["lr"]
    engine.model.train()
    try:
        error = _train_epoch(engine, data.train, progress)
    except StoppedError:
        progress.position.seconds += time.perf_counter() - started
        raise
    engine.schedule.step()
    execution = engine.execution
    with execution.timer("validation"):
        validation = forecast_error(engine.model, data.validation, execution.world, engine.settings.precision)
        rmse = validation.rmse()
    if not (math.isfinite(error) and math.isfinite(rmse)):
        raise DivergedError(progress)
    epoch = len(progress.history) + 1
    seconds = progress.position.seconds + time.perf_counter() - started
    progress.history.append(Epoch(epoch, error, math.sqrt(error / data.train.steps), rmse, learning_rate, seconds))
    progress.position = Position()
    if rmse < progress.best_rmse:
        progress.best_rmse, progress.best_epoch = rmse, epoch
        progress.best_model = {key: value.detach().clone() for key, value in engine.model.state_dict().items()}


def _train_epoch(engine: _Engine, windows: Windows, progress: Progress) -> float:
    """Train for the rest of one pass over shuffled windows; mean forecast loss of the whole pass, nothing added.

    Each rank takes its slice of every global batch. A last batch that is not full is left for another epoch, since
    it would otherwise weigh as much as a full one. Raises StoppedError with the position in `progress`.
    """
    settings, execution, world = engine.settings, engine.execution, engine.execution.world
    epoch, first = len(progress.history), progress.position.step
    batches, draws = _shuffled(len(windows), settings.batch_size, step_seed(engine.seed, epoch, 0))
    share = settings.batch_size // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    summed = share_of(progress.position.error, world) if first else 0.0
    total = torch.tensor(summed, dtype=torch.float64, device=world.device)
    for step in range(first, len(batches)):
        if world.any(execution.should_stop()):
            progress.position.step, progress.position.error = step, world.gather(float(total))
            raise StoppedError
        seed_device(step_seed(engine.seed, epoch, step) + world.rank, world.device)
        engine.optimizer.zero_grad(set_to_none=True)
        at_once = execution.micro_batch or share
        parts = list(zip(batches[step, mine].split(at_once), draws[step, mine].split(at_once), strict=True))
        for number, (batch, draws_B) in enumerate(parts, start=1):
            with execution.timer("data"):
                x_BTCHW, y_BSCHW = windows.batch(batch.to(world.device))
                draws_B = draws_B.to(world.device)
            weight = len(batch) / share
            with world.keeping_gradients(engine.loss) if number < len(parts) else nullcontext():
                with execution.timer("forward"):
                    loss, error = engine.loss(x_BTCHW, y_BSCHW, draws_B)
                with execution.timer("backward"):
                    (weight * loss).backward()
            total += weight * error.detach().double()
        with execution.timer("optimizer"):
            engine.model.before_step((epoch + step / len(batches)) / settings.epochs)
            if settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(engine.model.parameters(), settings.gradient_clip)
            engine.optimizer.step()
    return float(world.sum(total)) / (len(batches) * world.size)


def _shuffled(windows: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the windows in full batches (batches, batch_size), and a random number in [0, 1) for each."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(windows, generator=generator)
    batches = order[: windows // batch_size * batch_size].view(-1, batch_size)
    return batches, torch.rand(batches.shape, generator=generator)


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Shuffling and noise of a step depend on nothing else, so that a resumed run sees the same."""
    return (seed * 1_000_003 + epoch * 1009 + step * 7_368_787) % 2**31


def seed_device(seed: int, device: torch.device) -> None:
    """As torch.manual_seed for the CPU and this GPU; where there is none, that formats a traceback each time."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _is_over(history: Sequence[Epoch], settings: Training) -> bool:
    done = len(history)
    if done >= settings.epochs:
        return True
    if settings.early_stop_after is None or done < max(settings.early_stop_after, 2 * EARLY_STOP_WINDOW):
        return False
    rmse = [epoch.validation_rmse for epoch in history]
    return sum(rmse[-EARLY_STOP_WINDOW:]) >= sum(rmse[-2 * EARLY_STOP_WINDOW : -EARLY_STOP_WINDOW])


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Same seed, same machine, same numbers: seeds torch and takes cuDNN's choice of algorithm away."""
    torch.manual_seed(seed)
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
