"""NewBaseline: say in a line what it is."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..baseline import Baseline, Choice, SearchSpace, Task
from ..cell import Frozen, PositiveInt
from ..models.layers.scale import ScaleNetwork, Scales


class NewBaseline(Baseline):
    """T velocities -> `hidden` functions on cells and scales, `layers` deep -> one velocity.

    Say here what it computes, where it differs from its paper, and what it costs.
    """

    class Config(Frozen):
        """What a suite may set, each with its default. Call the width `hidden`: a budget of parameters decides it."""

        hidden: PositiveInt = 16
        layers: PositiveInt = 5
        scales: Scales = (1.0, 1.5, 2.0, 2.5)

    family = "strict"
    symmetries = ("scale", "translation")
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((8, 16, 32)),
        "layers": Choice((3, 5, 7)),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        # Replace this network. A velocity field enlarged by r is r times as fast: F(p) becomes r F(p / r).
        self.network = ScaleNetwork(
            config.scales,
            task.input_frames,
            config.hidden,
            config.layers,
            kernel_size=3,
            projection="max",
            relaxed=False,
            padding_mode=task.padding_mode,
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))  # all frames as channels
