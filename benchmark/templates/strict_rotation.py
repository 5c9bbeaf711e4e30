"""NewBaseline: say in a line what it is."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..baseline import Baseline, Choice, SearchSpace, Task
from ..cell import Frozen, PositiveInt
from ..models.layers.group_rotation import Fields, RotationGroupConv2d, group_network


class NewBaseline(Baseline):
    """T velocities -> `hidden` functions on cells and quarter turns, `layers` deep -> one velocity.

    Say here what it computes, where it differs from its paper, and what it costs.
    """

    class Config(Frozen):
        """What a suite may set, each with its default. Call the width `hidden`: a budget of parameters decides it."""

        hidden: PositiveInt = 16
        layers: PositiveInt = 5

    family = "strict"
    symmetries = ("rotation", "translation")
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((8, 16, 32)),
        "layers": Choice((3, 5, 7)),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)

        # Replace this layer, from the fields that it reads to those that it gives: ("regular", 16) are 16 functions on
        # the quarter turns, 4 channels each. ReLU goes between the layers.
        def layer(before: Fields, after: Fields) -> RotationGroupConv2d:
            return RotationGroupConv2d(before, after, 3, banks=1, relaxed=False, padding_mode=task.padding_mode)

        self.network = group_network(task.input_frames, config.hidden, config.layers, layer)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))  # all frames as channels
