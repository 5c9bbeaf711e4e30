"""NewBaseline: say in a line what it is."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..baseline import Baseline, Choice, SearchSpace, Task
from ..cell import Frozen, PositiveInt
from ..models.layers.convolutions import convolutional_network


class NewBaseline(Baseline):
    """y = A_L relu(... relu(A_1 * x)): say here what it computes, where it differs from its paper, what it costs."""

    class Config(Frozen):
        """What a suite may set, each with its default. Call the width `hidden`: a budget of parameters decides it."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5

    family = "cnn"
    symmetries = ("translation",)
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        # Replace this network. Pad with `task.padding_mode`, which is circular in a periodic box.
        self.network = convolutional_network(task, config.hidden, config.layers, kernel_size=3)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))  # all frames as channels
