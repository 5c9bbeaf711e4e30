"""Forecasting and symmetry metrics, as sums that add up exactly over batches and ranks.

Shape letters as in baseline.py: B windows, S rolled-out steps, C components, H and W the grid.
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
    """Sums over windows, kept for each run and rolled-out step in float64, so that no window counts twice or half.

    `squared` (R, S) the squared errors, `variance` (R, S) the spatial variances of the truth times their pixels,
    `count` (R, S) the numbers they are means over. Where runs are not told apart, R is 1.
    """

    squared: Tensor
    variance: Tensor
    count: Tensor

    @classmethod
    def zero(cls, steps: int, device: torch.device, runs: int = 1) -> ForecastError:
        return cls(*(torch.zeros(runs, steps, dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, prediction_BSCHW: Tensor, truth_BSCHW: Tensor, run_B: Tensor | None = None) -> None:
        """Count a batch of roll-outs in, each window in the row `run` (0 where it is left out)."""
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
        """The same for each rolled-out step."""
        return [float(value) for value in (self.squared.sum(0) / self.count.sum(0)).sqrt()]

    def rmse_by_run(self) -> list[float]:
        """The same for each run, in the order of the rows."""
        return [float(value) for value in (self.squared.sum(1) / self.count.sum(1)).sqrt()]

    def vrmse(self) -> float:
        """sqrt(MSE / (variance + 1e-7)), both means over all snapshots; 1 is as good as each snapshot's mean."""
        total = self.count.sum()
        variance = self.variance.sum() / total
        return float((self.squared.sum() / total / (variance + VRMSE_EPSILON)).sqrt())


@dataclass
class ModelEquivarianceError:
    """Mean |f(g x) - g f(x)| over windows, the non-trivial g, components and pixels (Wang, Walters, Yu 2022).

    Where g brings something in from outside the box, those pixels are left out. `difference` and `field` are sums over
    windows of that mean and of mean |f(x)|; `count` is the number of windows.
    """

    difference: Tensor
    field: Tensor
    count: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> ModelEquivarianceError:
        return cls(*(torch.zeros((), dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, model: Callable[[Tensor], Tensor], x_BTCHW: Tensor, group: Sequence[Element]) -> None:
        """Count a batch of inputs in; `model` gives (B, C, H, W), or (B, S, C, H, W) for a roll-out."""
        prediction = model(x_BTCHW).double()
        for element in group:
            difference = model(element.act(x_BTCHW)).double() - element.act(prediction)
            self.difference += element.valid(difference).abs().flatten(1).mean(1).sum() / len(group)
        self.field += prediction.abs().flatten(1).mean(1).sum()
        self.count += len(x_BTCHW)

    def absolute(self) -> float:
        """In units of the field."""
        return float(self.difference / self.count)

    def relative(self) -> float:
        """Divided by mean |f(x)|; 0 where the prediction is 0."""
        return float(self.difference / self.field) if float(self.field) > 0 else 0.0
