"""NewBaseline: say in a line what it is."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..baseline import Choice, LogUniform, SearchSpace, Task
from ..cell import Frozen, PositiveInt
from ..models.layers.convolutions import convolutional_network
from ..models.layers.relaxation import RelaxedBaseline, RelaxedLayer, roughness


class WeightedConv2d(RelaxedLayer):
    """y(p) = w(p) (K * x + b)(p): a convolution as long as w is the same at every pixel p.

    Replace this layer. It must start with its relaxation off, and with a gradient that can turn it on.
    """

    def __init__(self, grid: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(*args, **kwargs)
        self.w = nn.Parameter(torch.ones(grid))
        self.periodic = self.convolution.padding_mode == "circular"

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        return self.w * self.convolution(x)

    def roughness(self) -> Tensor:
        """What `penalty` charges for: 0 if and only if the relaxation is off."""
        return roughness(self.w, (0, 1), self.periodic)


class NewBaseline(RelaxedBaseline):
    """A ConvNet of `layers` WeightedConv2d, which pays `penalty` x the sum of their roughness.

    Say here what it computes, where it differs from its paper, and what it costs.
    """

    class Config(Frozen):
        """What a suite may set, each with its default. Call the width `hidden`: a budget of parameters decides it."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("translation",)
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "penalty": LogUniform(1e-7, 1e-3),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        layer = partial(WeightedConv2d, (task.height, task.width))
        self.network = convolutional_network(task, config.hidden, config.layers, 3, layer)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))  # all frames as channels
