"""A training loop as one writes it first: what `benchmark.bench.epoch` compares with, and what `fit` has to equal.

A DataLoader cuts out each window and stacks them, filters are expanded at every rolled-out step, the optimiser takes
weight after weight, and the checkpoint is written before training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, Dataset

from benchmark.cell import Training
from benchmark.data.windows import Windows
from benchmark.models.baseline import Baseline
from benchmark.training.randomness import seed_device, step_seed


class WindowDataset(Dataset[tuple[Tensor, Tensor]]):
    """The windows of one split, each cut out when it is asked for."""

    def __init__(self, windows: Windows) -> None:
        self.field, self.pairs = windows.field, windows.index.tolist()
        self.input_frames, self.steps = windows.input_frames, windows.steps

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        run, start = self.pairs[number]
        middle = start + self.input_frames
        return self.field[run, start:middle], self.field[run, middle : middle + self.steps]


def plain_fit(
    model: Baseline,
    train: Windows,
    validation: Windows,
    settings: Training,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    workers: int = 0,
    cache_filters: bool = False,
    on_epoch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train `model` in place for all epochs, fp32 and without a compiler; the validation RMSE after each.

    The order of the windows and the seed of each step are those of `fit`. With `cache_filters` the filters are
    expanded once for each step, as there, and the weights then are the same bit for bit. The fields of `train` and
    `validation` lie on the CPU.
    """
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.learning_rate_decay)
    shared: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": device.type == "cuda",
    }
    order: list[list[int]] = []
    train_loader = DataLoader(WindowDataset(train), batch_sampler=order, **shared)
    validation_loader = DataLoader(WindowDataset(validation), settings.batch_size, **shared)
    rmse = []
    for epoch in range(settings.epochs):
        generator = torch.Generator().manual_seed(step_seed(seed, epoch, 0))
        shuffled = torch.randperm(len(train), generator=generator).tolist()
        starts = range(0, len(train) - settings.batch_size + 1, settings.batch_size)
        order[:] = [shuffled[start : start + settings.batch_size] for start in starts]
        draws = torch.rand(len(order), settings.batch_size, generator=generator)
        model.train()
        for step, (x, y) in enumerate(train_loader):
            seed_device(step_seed(seed, epoch, step), device)
            x, y, drawn = x.to(device), y.to(device), draws[step].to(device)
            optimizer.zero_grad()
            x, y = model.augment(x, y, drawn)
            with parametrize.cached() if cache_filters else nullcontext():
                errors = _squared_errors(model, x, y)
                loss = sum(error.mean() for error in errors) + model.regularization(x, drawn) + model.penalty()
            loss.backward()
            model.before_step((epoch + step / len(order)) / settings.epochs)
            optimizer.step()
        schedule.step()
        model.eval()
        squared, count = 0.0, 0
        with torch.no_grad():
            for x, y in validation_loader:
                for error in _squared_errors(model, x.to(device), y.to(device)):
                    squared, count = squared + float(error.sum()), count + error.numel()
        rmse.append(math.sqrt(squared / count))
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
        on_epoch()
    return rmse


def _squared_errors(model: Baseline, x_BTCHW: Tensor, y_BSCHW: Tensor) -> Sequence[Tensor]:
    """(B, C, H, W) for each rolled-out step."""
    errors = []
    for truth in y_BSCHW.unbind(1):
        prediction = model.next_frame(x_BTCHW)
        errors.append((prediction - truth).square())
        x_BTCHW = torch.cat((x_BTCHW[:, 1:], prediction[:, None]), dim=1)
    return errors
