"""The training loop: rolled-out loss, Adam, exponential schedule, early stopping, exact resume.

The model stays a single-device module; ranks, precision, compilation and filter caching are applied here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .baseline import Baseline
from .cell import Training
from .checkpoint import Checkpoint, Position, Progress, share_of
from .data.windows import Windows
from .distributed import World
from .environment import keep_freed_memory
from .errors import UserError
from .evaluation import forecast_error, roll_out
from .recorder import Epoch

EARLY_STOP_WINDOW = 5
OnEpoch = Callable[[Sequence[Epoch]], None]


@dataclass(frozen=True)
class Control:
    """How a training is run, none of which changes its result but for rounding.

    `stop` is asked before each step, on every rank; where one says yes, all save and stop. `is_ours` is asked before
    that save, which is not ours to make where another process has taken over. `micro_batch` is the most windows that a
    rank takes at once: a larger share of the batch is summed up in parts. `part` is told what is done within it (data,
    forward, backward, optimizer, validation, checkpoint), for those who measure.
    """

    stop: Callable[[], bool] = lambda: False
    is_ours: Callable[[], bool] = lambda: True
    micro_batch: int | None = None
    part: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()


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
    train: Windows,
    validation: Windows,
    settings: Training,
    seed: int,
    world: World,
    checkpoint: Path,
    on_epoch: OnEpoch,
    control: Control = Control(),
) -> Progress:
    """Train `model` in place and leave the best weights, by validation RMSE, in it.

    Goes on from `checkpoint` where that exists, as if never interrupted; writes it after each epoch, and where
    `control.stop` says so. Calls `on_epoch` with the history so far on rank 0, first before training. Raises
    DivergedError, StoppedError; UserError where the windows cannot fill a batch.
    """
    if len(train) < settings.batch_size:
        raise UserError(f"train.batch_size: {settings.batch_size} is more than the {len(train)} training windows")
    if settings.rollout_steps is not None:  # validation keeps the protocol's length
        train = replace(train, steps=settings.rollout_steps)
    use_precision(settings.precision)
    keep_freed_memory()
    if settings.channels_last:
        for parameter in model.parameters():  # Module.to would refuse those with five axes
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    rolled_out = RolledOutLoss(model, settings, world.device, cache_filters=not settings.compile)
    loss = world.wrap(compiled(rolled_out, world.device) if settings.compile else rolled_out)
    one_kernel = settings.compile or world.device.type == "cuda"  # for all weights; there is none for complex ones
    optimizer = torch.optim.Adam(
        model.parameters(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=one_kernel and not any(parameter.is_complex() for parameter in model.parameters()),
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.learning_rate_decay)
    with Checkpoint(checkpoint, model, optimizer, schedule) as saved:
        progress = saved.restore(world)
        if world.is_main:
            on_epoch(progress.history)
        while not _is_over(progress.history, settings):
            started = time.perf_counter()
            learning_rate = optimizer.param_groups[0]["lr"]
            model.train()
            error = _train_epoch(loss, model, train, optimizer, settings, seed, world, progress, control)
            if error is None:
                progress.position.seconds += time.perf_counter() - started
                if world.is_main and control.is_ours():
                    saved.save(progress)
                    saved.wait()
                raise StoppedError
            schedule.step()
            with control.part("validation"):
                rmse = forecast_error(model, validation, world, settings.precision).rmse()
            if not (math.isfinite(error) and math.isfinite(rmse)):
                raise DivergedError(progress)
            epoch = len(progress.history) + 1
            seconds = progress.position.seconds + time.perf_counter() - started
            progress.history.append(Epoch(epoch, error, math.sqrt(error / train.steps), rmse, learning_rate, seconds))
            progress.position = Position()
            if rmse < progress.best_rmse:
                progress.best_rmse, progress.best_epoch = rmse, epoch
                progress.best_model = {key: value.detach().clone() for key, value in model.state_dict().items()}
            if world.any(not control.is_ours()):
                raise StoppedError  # whoever has taken over writes from now on
            if world.is_main:
                with control.part("checkpoint"):
                    saved.save(progress)
                    on_epoch(progress.history)
    model.load_state_dict(progress.best_model)
    return progress


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


def _train_epoch(
    loss: nn.Module,
    model: Baseline,
    windows: Windows,
    optimizer: torch.optim.Optimizer,
    settings: Training,
    seed: int,
    world: World,
    progress: Progress,
    control: Control,
) -> float | None:
    """The rest of one pass over shuffled windows; the mean forecast loss of the whole pass, nothing added.

    Each rank takes its slice of every global batch. A last batch that is not full is left for another epoch, since
    it would otherwise weigh as much as a full one. No loss where it was stopped; `progress.position` then says where.
    """
    epoch, first = len(progress.history), progress.position.step
    generator = torch.Generator().manual_seed(step_seed(seed, epoch, 0))
    order = torch.randperm(len(windows), generator=generator)
    batches = order[: len(order) // settings.batch_size * settings.batch_size].view(-1, settings.batch_size)
    draws = torch.rand(batches.shape, generator=generator)
    share = settings.batch_size // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    summed = share_of(progress.position.error, world) if first else 0.0
    total = torch.tensor(summed, dtype=torch.float64, device=world.device)
    for step in range(first, len(batches)):
        if world.any(control.stop()):
            progress.position.step, progress.position.error = step, world.gather(float(total))
            return None
        seed_device(step_seed(seed, epoch, step) + world.rank, world.device)
        optimizer.zero_grad(set_to_none=True)
        parts = list(zip(*(t[step, mine].split(control.micro_batch or share) for t in (batches, draws)), strict=True))
        for number, (batch, drawn) in enumerate(parts, start=1):
            with control.part("data"):
                x, y = windows.batch(batch.to(world.device))
                drawn = drawn.to(world.device)
            with world.keeping_gradients(loss) if number < len(parts) else nullcontext():
                weight = len(batch) / share
                with control.part("forward"):
                    value, error = loss(x, y, drawn)
                with control.part("backward"):
                    (value if weight == 1.0 else value * weight).backward()
            total += weight * error.detach().double()
        with control.part("optimizer"):
            model.before_step((epoch + step / len(batches)) / settings.epochs)
            if settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            optimizer.step()
    return float(world.sum(total)) / (len(batches) * world.size)


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
