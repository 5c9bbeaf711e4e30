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
class ModelEquivarianceError:
    """Mean |f(g x) - g f(x)| over windows, the non-trivial g, components and pixels (Wang, Walters, Yu 2022).

    Pixels that g brings in from outside the box do not count. `difference` and `field` sum this mean and the mean of
    |f(x)| over windows; `count` is the number of windows.
    """

    difference: Tensor
    field: Tensor
    count: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> ModelEquivarianceError:
        return cls(*(torch.zeros((), dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, model: Callable[[Tensor], Tensor], x_BTCHW: Tensor, group: Sequence[Element]) -> None:
        """Add a batch of inputs; `model` returns (B, C, H, W), or (B, S, C, H, W) for a roll-out."""
        prediction = model(x_BTCHW).double()
        for element in group:
            difference = model(element.act(x_BTCHW)).double() - element.act(prediction)
            self.difference += element.valid(difference).abs().flatten(1).mean(1).sum() / len(group)
        self.field += prediction.abs().flatten(1).mean(1).sum()
        self.count += len(x_BTCHW)

    def absolute(self) -> float:
        """Error in units of the field."""
        return float(self.difference / self.count)

    def relative(self) -> float:
        """Error over the mean of |f(x)|; 0 if the prediction is 0."""
        return float(self.difference / self.field) if float(self.field) > 0 else 0.0
