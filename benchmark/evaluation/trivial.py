"""Trained networks that equal a forecast without weights."""

import torch
from torch import Tensor

from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import Ranks, forecast_error
from benchmark.models.baseline import Baseline, Task
from benchmark.models.linear import Linear
from benchmark.models.persistence import Persistence

SAME = 5e-4
"""Largest relative difference of two RMSE that count as equal: the first three digits."""


class Zero(Baseline):
    """y = 0: a network without a bias in its last layer, and whose last features are all zero."""

    def __init__(self, config: None, task: Task) -> None:
        super().__init__(config, task)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return torch.zeros_like(x_BTCHW[:, -1])


def trivial_forecast(rmse: float, task: Task, windows: Windows, world: Ranks) -> str | None:
    """Name of the trivial forecast whose RMSE on `windows` is `rmse` to three digits, or None. Equal on all ranks."""
    forecasts: dict[str, Baseline] = {
        "persistence": Persistence(Persistence.Config(), task),
        "a zero field": Zero(None, task),
    }
    if Linear.supports(task) is None:
        forecasts["linear"] = Linear(Linear.Config(), task)
    for name, forecast in forecasts.items():
        error = forecast_error(forecast, windows, world, "fp32").rmse()
        if abs(rmse - error) <= SAME * error:
            return name
    return None
