"""Lift expansion for rotation: a free encoder of the whole field joins an equivariant network."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.fields import field_encoder, lifted_features
from benchmark.models.layers.norm import modules_in_a_layer
from benchmark.models.layers.steerable import (
    STEERABLE_SEARCH_SPACE,
    SteerableConfig,
    SteerableConv2d,
    steerable_network,
)


class LiftRotation(Baseline):
    """y = f_2(f_1(x), e(x) 1): the network of `e2cnn`, cut in two as f_2 o f_1, and a free encoder e.

    e(x) in R^{E x N} is indexed by the group: E = `hidden` / 4 regular fields of C_N. Constant over the grid, they join
    the input of the middle convolution (Wang, Walters, Zhu, Platt 2021, lift expansion; Wang, Walters, Yu 2022, section
    5, Lift). Whether e(x) turns with x is learnt. `layers/fields.py` has e. Different from the published code: there e
    reads each of the 62 x 23 pixels of the jet. `norm: batch` is that of the published code.
    """

    class Config(SteerableConfig):
        """`encoder_hidden` is the width of e, which reads `encoder_grid`^2 tiles."""

        layers: Annotated[int, Field(ge=3)] = 5
        encoder_hidden: PositiveInt = 128
        encoder_grid: PositiveInt = 8

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443); Wang, Walters, Yu 2022, section 5, Lift"
    search_space: ClassVar[SearchSpace] = {
        **STEERABLE_SEARCH_SPACE,
        "hidden": Choice((16, 32, 64, 128)),
        "encoder_hidden": Choice((64, 128, 256)),
        "encoder_grid": Choice((4, 8, 16)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        network = steerable_network(config, task)
        lifted, middle = lifted_features(config.hidden), modules_in_a_layer(config.norm) * (config.layers // 2)
        network[middle] = SteerableConv2d(
            config.order,
            ("regular", config.hidden + lifted),
            ("regular", config.hidden),
            config.kernel_size,
            padding_mode=task.padding_mode,
        )
        self.before, self.after = network[:middle], network[middle:]
        self.encoder = field_encoder(task, config.encoder_grid, config.encoder_hidden, lifted * config.order)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        x = x_BTCHW.flatten(1, 2)
        everywhere = self.encoder(x)[..., None, None].expand(-1, -1, *x.shape[-2:])
        return self.after(torch.cat((self.before(x), everywhere), dim=1))
