"""Persistence: the next frame equals the last one. The reference that every forecast must beat."""

import torch
from torch import Tensor

from benchmark.cell import Frozen
from benchmark.models.baseline import Baseline, Task


class Persistence(Baseline):
    """y = x_T, without parameters; it commutes with every transformation of the frames."""

    class Config(Frozen):
        """No hyperparameters."""

    family = "reference"
    symmetries = ("translation", "rotation", "reflection", "scale")
    source = "standard reference in forecasting"
    trained = False

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        last = x_BTCHW[:, -1]
        return torch.zeros_like(last) if self.task.target == "change" else last.clone()
