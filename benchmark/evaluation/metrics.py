"""Forecasting and symmetry metrics, as sums that add up exactly over batches and ranks.

Shape letters are those of baseline.py: B windows, S rolled-out steps; then come the axes of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmark.data.dataset import SplitName
from benchmark.groups import Element

VRMSE_EPSILON = 1e-7
"""Added to the variance (Ohana et al. 2024, The Well, appendix)."""


class Measures(Protocol):
    """Metrics of roll-outs besides the RMSE, as sums over windows that add up exactly over batches and ranks."""

    def add(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of roll-outs (B, S, ...)."""

    def sums(self) -> Sequence[Tensor]:
        """Sums, which are added over ranks in place."""

    def metrics(self, split: SplitName) -> dict[str, Any]:
        """Metrics of the test split, by their names in a record."""


@dataclass
class ComponentErrors:
    """Sums over windows for each named component of a field (B, S, C, H, W), in float64.

    `sizes` has the numbers of each component, `squared` (K,) sums the squared errors, `count` the cells.
    """

    sizes: Mapping[str, int]
    squared: Tensor
    count: Tensor

    @classmethod
    def zero(cls, sizes: Mapping[str, int], device: torch.device) -> ComponentErrors:
        options: Any = {"dtype": torch.float64, "device": device}
        return cls(sizes, torch.zeros(len(sizes), **options), torch.zeros((), **options))

    def add(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of roll-outs."""
        by_channel = (prediction.double() - truth.double()).square().sum((0, 1, 3, 4))
        self.squared += torch.stack([part.sum() for part in by_channel.split(list(self.sizes.values()))])
        self.count += truth[:, :, 0].numel()

    def sums(self) -> tuple[Tensor, ...]:
        """Sums over windows, which are added over ranks in place."""
        return self.squared, self.count

    def metrics(self, split: SplitName) -> dict[str, float]:
        """RMSE of each component, in its own stored unit."""
        errors = zip(self.sizes.items(), self.squared.tolist(), strict=True)
        return {
            f"rmse_{split}_of_{name}": (error / (size * float(self.count))) ** 0.5 for (name, size), error in errors
        }


@dataclass(frozen=True)
class Together:
    """Several measures of the same roll-outs."""

    measures: Sequence[Measures]

    def add(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of roll-outs to each."""
        for one in self.measures:
            one.add(prediction, truth)

    def sums(self) -> tuple[Tensor, ...]:
        """Sums of all."""
        return tuple(total for one in self.measures for total in one.sums())

    def metrics(self, split: SplitName) -> dict[str, Any]:
        """Metrics of all."""
        return {name: value for one in self.measures for name, value in one.metrics(split).items()}


@dataclass
class ForecastError:
    """Sums over windows for each of R runs and S rolled-out steps, in float64; R is 1 if runs are not distinguished.

    `squared` (R, S) sums the squared errors, `variance` (R, S) the squared deviations of the truth from its
    mean over the axes `space`, and `count` (R, S) counts the values of both sums.
    """

    squared: Tensor
    variance: Tensor
    count: Tensor
    space: tuple[int, ...]

    @classmethod
    def zero(cls, steps: int, device: torch.device, runs: int = 1, space: tuple[int, ...] = (-2, -1)) -> ForecastError:
        squared, variance, count = torch.zeros(3, runs, steps, dtype=torch.float64, device=device)
        return cls(squared, variance, count, space)

    def add(self, prediction: Tensor, truth: Tensor, run_B: Tensor | None = None) -> None:
        """Add a batch of roll-outs. `run_B` is the row of each window (default: row 0)."""
        truth = truth.double()
        state = tuple(range(2, truth.ndim))
        run = torch.zeros(len(truth), dtype=torch.long, device=truth.device) if run_B is None else run_B
        of_run = (run == torch.arange(len(self.count), device=truth.device)[:, None]).double()
        self.squared += of_run @ (prediction.double() - truth).square().sum(state)
        self.variance += of_run @ (truth - truth.mean(self.space, keepdim=True)).square().sum(state)
        self.count += of_run.sum(1, keepdim=True) * truth[0, 0].numel()

    def rmse(self) -> float:
        """Root of the mean squared error over windows, steps and components, in units of the data."""
        return float((self.squared.sum() / self.count.sum()).sqrt())

    def rmse_by_step(self) -> list[float]:
        """RMSE of each rolled-out step."""
        return [float(value) for value in (self.squared.sum(0) / self.count.sum(0)).sqrt()]

    def rmse_by_run(self) -> list[float]:
        """RMSE of each run, in the order of the rows."""
        return [float(value) for value in (self.squared.sum(1) / self.count.sum(1)).sqrt()]

    def vrmse(self) -> float:
        """sqrt(MSE / (variance + 1e-7)), both averaged over all snapshots; 1 is the error of each snapshot's mean."""
        total = self.count.sum()
        variance = self.variance.sum() / total
        return float((self.squared.sum() / total / (variance + VRMSE_EPSILON)).sqrt())


@dataclass
class ChangeError:
    """Equivariance error over what the model adds: |f(g x) - g f(x)| / |g f(x) - g x_last|.

    A forecast of the next frame and one of its change have the same error. `regions` (E, R, ...) has masks for E
    elements and R regions of the last two axes of a state; `difference` and `change` (E, R) are sums over windows,
    steps and components, in float64.
    """

    regions: Tensor
    difference: Tensor
    change: Tensor

    @classmethod
    def zero(cls, regions: Tensor) -> ChangeError:
        shape, device = regions.shape[:2], regions.device
        return cls(regions, *(torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2)))

    def add(self, element: int, difference: Tensor, change: Tensor) -> None:
        """Add a batch (..., H, W) or (..., N, 6) of the element of that index."""
        for total, field in ((self.difference, difference), (self.change, change)):
            cells = field.abs().flatten(0, -3).sum(0, dtype=torch.float64)
            total[element] += (cells * self.regions[element]).sum((-2, -1))

    def ratio(self, region: int = 0) -> float | None:
        """Difference over change in a region, mean over elements; None if the region is empty or nothing changes."""
        pairs = zip(self.difference[:, region].tolist(), self.change[:, region].tolist(), strict=True)
        ratios = [difference / change for difference, change in pairs if change > 0]
        return sum(ratios) / len(ratios) if ratios else None


@dataclass
class ModelEquivarianceError:
    """Mean |f(g x) - g f(x)| over windows, the non-trivial g, components and pixels (Wang, Walters, Yu 2022).

    Pixels that g brings in from outside the box do not count. `difference` and `field` sum this mean and the mean of
    |f(x)| over windows; `count` is the number of windows. `changes` has the error over what the model adds.
    """

    difference: Tensor
    field: Tensor
    count: Tensor
    changes: ChangeError

    @classmethod
    def zero(cls, regions: Tensor) -> ModelEquivarianceError:
        """No windows yet; `regions` are those of `ChangeError`."""
        difference, field, count = torch.zeros(3, dtype=torch.float64, device=regions.device)
        return cls(difference, field, count, ChangeError.zero(regions))

    def add(self, model: Callable[[Tensor], Tensor], x: Tensor, group: Sequence[Element]) -> None:
        """Add a batch of inputs; `model` returns (B, S, ...), a roll-out of S steps."""
        prediction, last = model(x).double(), x[:, -1:].double()
        for index, element in enumerate(group):
            expected = element.act(prediction)
            difference = model(element.act(x)).double() - expected
            self.difference += element.valid(difference).abs().flatten(1).mean(1).sum() / len(group)
            self.changes.add(index, difference, expected - element.act(last))
        self.field += prediction.abs().flatten(1).mean(1).sum()
        self.count += len(x)

    def absolute(self) -> float:
        """Error in units of the field."""
        return float(self.difference / self.count)

    def relative(self) -> float:
        """Error over the mean of |f(x)|; 0 if the prediction is 0."""
        return float(self.difference / self.field) if float(self.field) > 0 else 0.0
