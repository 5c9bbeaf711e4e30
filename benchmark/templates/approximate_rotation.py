"""NewBaseline: say in a line what it is."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..baseline import Baseline, Choice, LogUniform, SearchSpace, Task
from ..cell import Frozen, PositiveInt
from ..models.layers.group_rotation import rotation_group_network


class NewBaseline(Baseline):
    """y = f(x) + W * x: a network f that keeps the symmetry, and a part W beside it that need not, which is paid for.

    Say here what it computes, where it differs from its paper, and what it costs.
    """

    class Config(Frozen):
        """What a suite may set, each with its default. Call the width `hidden`: a budget of parameters decides it."""

        hidden: PositiveInt = 16
        layers: PositiveInt = 5
        penalty: Annotated[float, Field(ge=0)] = 1e-3

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((8, 16, 32)),
        "layers": Choice((3, 5, 7)),
        "penalty": LogUniform(1e-6, 1e-1),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        # Replace both.
        self.network = rotation_group_network(
            task.input_frames,
            config.hidden,
            config.layers,
            kernel_size=3,
            banks=1,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
        self.free = nn.Conv2d(2 * task.input_frames, 2, 3, padding=1, padding_mode=task.padding_mode, bias=False)
        with torch.no_grad():
            self.free.weight.zero_()  # so that it starts with the symmetry

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        x = x_BTCHW.flatten(1, 2)  # all frames as channels
        return self.network(x) + self.free(x)

    def penalty(self) -> Tensor:
        """`penalty` x mean W^2, added to the loss. One that depends on the windows belongs into `regularization`."""
        return self.coefficient * self.free.weight.square().mean()
