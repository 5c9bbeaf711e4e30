"""Forecasting and symmetry metrics, as sums that add up exactly over batches and ranks.

Shape letters are those of baseline.py: B windows, S rolled-out steps, C components, H and W the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.groups import Element

VRMSE_EPSILON = 1e-7
"""Added to the variance (Ohana et al. 2024, The Well, appendix)."""


@dataclass
class ForecastError:
    """Sums over windows for each of R runs and S rolled-out steps, in float64; R is 1 if runs are not distinguished.

    `squared` (R, S) sums the squared errors, `variance` (R, S) the squared deviations of the truth from its spatial
    mean, and `count` (R, S) counts the values of both sums.
    """

    squared: Tensor
    variance: Tensor
    count: Tensor

    @classmethod
    def zero(cls, steps: int, device: torch.device, runs: int = 1) -> ForecastError:
        return cls(*(torch.zeros(runs, steps, dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, prediction_BSCHW: Tensor, truth_BSCHW: Tensor, run_B: Tensor | None = None) -> None:
        """Add a batch of roll-outs. `run_B` is the row of each window (default: row 0)."""
        truth = truth_BSCHW.double()
        run = torch.zeros(len(truth), dtype=torch.long, device=truth.device) if run_B is None else run_B
        of_run = (run == torch.arange(len(self.count), device=truth.device)[:, None]).double()
        self.squared += of_run @ (prediction_BSCHW.double() - truth).square().sum((2, 3, 4))
        self.variance += of_run @ (truth - truth.mean((-2, -1), keepdim=True)).square().sum((2, 3, 4))
        self.count += of_run.sum(1, keepdim=True) * truth[0, 0].numel()

    def rmse(self) -> float:
        """Root of the mean squared error over windows, steps, components and pixels, in units of the field."""
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

    A forecast of the next frame and one of its change have the same error. `regions` (E, R, H, W) has masks for E
    elements and R regions of cells; `difference` and `change` (E, R) are sums over windows, steps, components and
    cells, in float64.
    """

    regions: Tensor
    difference: Tensor
    change: Tensor

    @classmethod
    def zero(cls, regions: Tensor) -> ChangeError:
        shape, device = regions.shape[:2], regions.device
        return cls(regions, *(torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2)))

    def add(self, element: int, difference: Tensor, change: Tensor) -> None:
        """Add a batch (..., C, H, W) of the element of that index."""
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

    def add(self, model: Callable[[Tensor], Tensor], x_BTCHW: Tensor, group: Sequence[Element]) -> None:
        """Add a batch of inputs; `model` returns (B, S, C, H, W), a roll-out of S steps."""
        prediction, last = model(x_BTCHW).double(), x_BTCHW[:, -1:].double()
        for index, element in enumerate(group):
            expected = element.act(prediction)
            difference = model(element.act(x_BTCHW)).double() - expected
            self.difference += element.valid(difference).abs().flatten(1).mean(1).sum() / len(group)
            self.changes.add(index, difference, expected - element.act(last))
        self.field += prediction.abs().flatten(1).mean(1).sum()
        self.count += len(x_BTCHW)

    def absolute(self) -> float:
        """Error in units of the field."""
        return float(self.difference / self.count)

    def relative(self) -> float:
        """Error over the mean of |f(x)|; 0 if the prediction is 0."""
        return float(self.difference / self.field) if float(self.field) > 0 else 0.0
