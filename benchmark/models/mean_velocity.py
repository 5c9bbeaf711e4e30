"""Mean velocity: every particle flies on as it flew over the input frames. The trivial forecast for particles."""

import torch
from torch import Tensor

from benchmark.cell import Frozen
from benchmark.models.baseline import ParticleBaseline
from benchmark.models.task import ParticleTask


class MeanVelocity(ParticleBaseline):
    """x' = x_T + h mean_t v_t, v' = v_T, without parameters; h is the time between frames."""

    class Config(Frozen):
        """No hyperparameters."""

    family = "reference"
    symmetries = ("rotation", "reflection", "translation", "permutation")
    source = "standard reference for particles"
    trained = False

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        moved = self.task.time_step * x_BTN6[..., 3:].mean(1)
        change = torch.cat((moved, torch.zeros_like(moved)), -1)
        return change if self.task.target == "change" else x_BTN6[:, -1] + change
