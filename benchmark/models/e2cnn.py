"""E(2)-steerable CNN, strictly equivariant under C_N and translation, through the e2cnn library."""

from typing import ClassVar

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, FramesAsChannels, SearchSpace, Task
from benchmark.models.layers.steerable import STEERABLE_SEARCH_SPACE, SteerableConfig, steerable_network


class E2CNN(FramesAsChannels):
    """T vector fields (irrep 1) -> `hidden` regular fields of C_N, `layers` deep -> one vector field.

    (B, T, C, H, W) -> (B, C, H, W), any grid; scalars, beside a velocity or alone, are fields of the trivial
    representation. Each layer is y(x) = b + sum_y sum_l w_l Phi_l(y) f(x + y), with Phi_l e2cnn's basis of kernels that
    commute with C_N, and ReLU between the layers. On components at cell centres, quarter turns are exact up to
    round-off, and eighth turns of C8 up to the sampling of the kernels. Staggered components are turned as if they were
    at the centres, half a cell off, as in the published code.

    Different from the code of Wang, Walters, Yu 2022: `norm: batch` is no default, and the last layer starts small.
    """

    class Config(SteerableConfig):
        hidden: PositiveInt = 64

    family = "strict"
    symmetries = ("rotation", "translation")
    source = "Weiler, Cesa 2019 (arXiv 1911.08251), through e2cnn"
    search_space: ClassVar[SearchSpace] = {**STEERABLE_SEARCH_SPACE, "hidden": Choice((16, 32, 64, 128))}

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_network(config, task)
