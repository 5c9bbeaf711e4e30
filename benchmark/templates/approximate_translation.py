"""NewBaseline: say in a line what it is."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..baseline import Baseline, Choice, LogUniform, SearchSpace, Task
from ..cell import Frozen, PositiveInt
from ..models.layers.convolutions import convolutional_network


class NewBaseline(Baseline):
    """y = f(x) + w x_T: a network f that keeps the symmetry, and a part w beside it that need not, which is paid for.

    Say here what it computes, where it differs from its paper, and what it costs.
    """

    class Config(Frozen):
        """What a suite may set, each with its default. Call the width `hidden`: a budget of parameters decides it."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        penalty: Annotated[float, Field(ge=0)] = 1e-3

    family = "approximate"
    symmetries = ("translation",)
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "penalty": LogUniform(1e-6, 1e-1),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        # Replace both. A number for each pixel makes the weights belong to one grid.
        self.network = convolutional_network(task, config.hidden, config.layers, kernel_size=3)
        self.free = nn.Parameter(torch.zeros(task.channels, task.height, task.width))

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2)) + self.free * x_BTCHW[:, -1]

    def penalty(self) -> Tensor:
        """`penalty` x mean w^2, added to the loss. One that depends on the windows belongs into `regularization`."""
        return self.coefficient * self.free.square().mean()
