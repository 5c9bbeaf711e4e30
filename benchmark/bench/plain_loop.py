"""A plain training loop: the reference for the speed of `benchmark.bench.epoch` and for the weights of `fit`.

A DataLoader cuts out and stacks the windows, filters are expanded at every rolled-out step, the optimiser updates one
weight after another, and training waits until the checkpoint is written.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, Dataset

from benchmark.cell import Training
from benchmark.data.windows import Windows
from benchmark.models.baseline import Baseline
from benchmark.training.loop import TrainingData, parameter_groups
from benchmark.training.randomness import seed_device, shuffled_batches, step_seed


class WindowDataset(Dataset[tuple[Tensor, Tensor]]):
    """Windows of one split, each cut out on access."""

    def __init__(self, windows: Windows) -> None:
        self.windows, self.pairs = windows, windows.index.tolist()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        run, start = self.pairs[number]
        middle = start + self.windows.input_frames
        return self.windows.field[run, start:middle], self.windows.field[run, middle : middle + self.windows.steps]


@dataclass(frozen=True)
class PlainLoop:
    """Training of `model` in fp32 without a compiler, on the model's device.

    With `cache_filters`, filters are expanded once for each step, as in `fit`; the weights are then equal bit for bit.
    """

    model: Baseline
    settings: Training
    workers: int = 0
    cache_filters: bool = False

    def epochs(self, data: TrainingData, seed: int, checkpoint: Path) -> Iterator[float]:
        """Train on `data`, which lie on the CPU, and yield the validation RMSE after each epoch.

        The order of the windows and the seed of each step are those of `fit`.
        """
        model, settings = self.model, self.settings
        device = next(model.parameters()).device
        optimizer = torch.optim.Adam(
            parameter_groups(model, settings), settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.learning_rate_decay)
        loading: dict[str, Any] = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        loading["pin_memory"] = device.type == "cuda"
        order: list[list[int]] = []
        train_loader = DataLoader(WindowDataset(data.train), batch_sampler=order, **loading)
        validation_loader = DataLoader(WindowDataset(data.validation), settings.batch_size, **loading)
        for epoch in range(settings.epochs):
            batches, draws = shuffled_batches(len(data.train), settings.batch_size, step_seed(seed, epoch, 0))
            order[:] = batches.tolist()
            model.train()
            for step, (x, y) in enumerate(train_loader):
                seed_device(step_seed(seed, epoch, step), device)
                draws_B = draws[step].to(device)
                optimizer.zero_grad()
                x, y = model.augment(x.to(device), y.to(device), draws_B)
                with parametrize.cached() if self.cache_filters else nullcontext():
                    errors = self._squared_errors(x, y)
                    loss = sum(error.mean() for error in errors) + model.regularization(x, draws_B) + model.penalty()
                loss.backward()
                model.before_step((epoch + step / len(order)) / settings.epochs)
                optimizer.step()
            schedule.step()
            model.eval()
            squared, count = 0.0, 0
            with torch.no_grad():
                for x, y in validation_loader:
                    for error in self._squared_errors(x.to(device), y.to(device)):
                        squared, count = squared + float(error.sum()), count + error.numel()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
            yield math.sqrt(squared / count)

    def _squared_errors(self, x_BTCHW: Tensor, y_BSCHW: Tensor) -> list[Tensor]:
        """Squared errors (B, C, H, W) of each rolled-out step."""
        errors = []
        for truth in y_BSCHW.unbind(1):
            prediction = self.model.next_frame(x_BTCHW)
            errors.append((prediction - truth).square())
            x_BTCHW = torch.cat((x_BTCHW[:, 1:], prediction[:, None]), dim=1)
        return errors
