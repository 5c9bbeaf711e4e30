"""Fully connected network, without any knowledge of space."""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.convolutions import small_start, start
from benchmark.models.layers.norm import NormConfig, modules_in_a_layer, norm_layers


class MLP(Baseline):
    """y = A_L relu(... relu(A_1 x + b_1) ...) + b_L on the whole window, flattened.

    (B, T C H W) -> `hidden`, `layers` - 1 times -> (B, C H W), any box; the weights belong to one grid. The first and
    the last matrix have (T + 1) C H W `hidden` parameters: with 10 frames of 2 components on 64 x 64, 90 112 for each
    hidden unit, 5.8 M at the default width. `norm: batch` is that of the published code.
    """

    class Config(NormConfig):
        """`hidden` is the number of units in each inner layer, `layers` the number of matrices."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 3

    family = "reference"
    version = 2
    symmetries = ()
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 5, the MLP of the comparison"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 128, 256)),
        "layers": Choice((2, 3, 5)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        frame = task.channels * task.height * task.width
        inner = [config.hidden] * (config.layers - 1)
        modules: list[nn.Module] = []
        for wide_in, wide_out in pairwise([task.input_frames * frame, *inner, frame]):
            modules += [start(nn.Linear(wide_in, wide_out)), *norm_layers(config.norm, wide_out), nn.ReLU()]
        modules = modules[: 1 - modules_in_a_layer(config.norm)]
        small_start(modules[-1])
        self.network = nn.Sequential(*modules)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return self.network(x_BTCHW.flatten(1)).view_as(x_BTCHW[:, -1])
