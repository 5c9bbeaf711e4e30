"""Trained networks that equal a forecast without weights."""

import torch
from torch import Tensor

from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import Ranks, forecast_error
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline
from benchmark.models.task import AnyTask

SAME = 5e-4
"""Largest relative difference of two RMSE that count as equal: the first three digits."""


class Zero(Baseline):
    """y = 0: a network without a bias in its last layer, and whose last features are all zero."""

    def __init__(self, config: None, task: AnyTask) -> None:
        super().__init__(config, task)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, ...)."""
        return torch.zeros_like(x[:, -1])


def trivial_forecast(rmse: float, task: AnyTask, windows: Windows, world: Ranks) -> str | None:
    """Name of the trivial forecast whose RMSE on `windows` is `rmse` to three digits, or None. Equal on all ranks."""
    forecasts: dict[str, Baseline] = {}
    for name in task.trivial:
        baseline = model_registry.model(name)
        if baseline.cannot_run(baseline.Config(), task) is None:
            forecasts[name] = baseline(baseline.Config(), task)
    forecasts["a zero forecast"] = Zero(None, task)
    for name, forecast in forecasts.items():
        error = forecast_error(forecast, windows, world, "fp32").rmse()
        if abs(rmse - error) <= SAME * error:
            return name
    return None
