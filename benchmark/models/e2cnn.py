"""E(2)-steerable CNN: strictly equivariant under C_N and translation, through the e2cnn library."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import steerable_network


class E2CNN(Baseline):
    """T vector fields (irrep 1) -> `hidden` regular fields of C_N, `layers` deep -> one vector field.

    (B, T, 2, H, W) -> (B, 2, H, W), any grid; each layer is y(x) = b + sum_y sum_l w_l Phi_l(y) f(x + y), with Phi_l
    e2cnn's basis of kernels that commute with C_N, and ReLU between them. On the grid, the quarter turns are kept to
    round-off, the eighths of C8 up to the sampling of the kernels: of components at cell centres, that is (`grid:
    centered`). Staggered components are turned as if they lay there, half a cell off, as in the published code.

    Different from the code of Wang, Walters, Yu 2022: no normalisation over the batch, and the last layer starts small.
    """

    class Config(Frozen):
        """`hidden` counts regular fields, each of `order` channels."""

        hidden: PositiveInt = 64
        order: Literal[4, 8] = 4
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3

    family = "strict"
    symmetries = ("rotation", "translation")
    source = "Weiler, Cesa 2019 (arXiv 1911.08251), through e2cnn"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 128)),
        "order": Choice((4, 8)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_network(
            config.order,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            relaxed=False,
            padding_mode=task.padding_mode,
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
