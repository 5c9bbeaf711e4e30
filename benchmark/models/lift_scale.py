"""Lift expansion for scale: a free encoder of the whole field joins an equivariant network."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.fields import field_encoder, lifted_features
from benchmark.models.layers.scale import SCALE_SEARCH_SPACE, ScaleConfig, ScaleConv2d, steerable_scale_network


class LiftScale(Baseline):
    """y = f_2(f_1(x), e(x) 1): the network of `sesn`, cut in two as f_2 o f_1, and a free encoder e.

    e(x) in R^{E x S} is indexed by the scales: E = `hidden` / 4 functions on them. Constant over the grid, they join
    the input of the middle convolution (Wang, Walters, Zhu, Platt 2021, lift expansion; Wang, Walters, Yu 2022, section
    5, Lift). Whether e(x) scales with x is learnt. See `layers/fields.py` for e. Different from the published code,
    beside the differences of `sesn`: there e reads each pixel of a 64 x 64 grid and gives `hidden` / 2 numbers, the
    same at every scale.
    """

    class Config(ScaleConfig):
        """`encoder_hidden` is the width of e, which reads `encoder_grid`^2 tiles."""

        layers: Annotated[int, Field(ge=3)] = 5
        encoder_hidden: PositiveInt = 128
        encoder_grid: PositiveInt = 8

    family = "approximate"
    version = 2
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443); Wang, Walters, Yu 2022, section 5, Lift"
    search_space: ClassVar[SearchSpace] = {
        **SCALE_SEARCH_SPACE,
        "encoder_hidden": Choice((64, 128, 256)),
        "encoder_grid": Choice((4, 8, 16)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.scales, self.middle = len(config.scales), config.layers // 2
        self.network = steerable_scale_network(config, task)
        lifted = lifted_features(config.hidden)
        self.network.layers[self.middle] = ScaleConv2d(
            config.scales,
            ("regular", config.hidden + lifted),
            ("regular", config.hidden),
            config.kernel_size,
            padding_mode=task.padding_mode,
        )
        self.encoder = field_encoder(task, config.encoder_grid, config.encoder_hidden, lifted * self.scales)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        x = x_BTCHW.flatten(1, 2)
        on_scales = self.encoder(x).unflatten(1, (-1, self.scales)).movedim(2, 0)  # (S, B, E)
        everywhere = on_scales[..., None, None].expand(-1, -1, -1, *x.shape[-2:])
        return self.network.after(torch.cat((self.network.before(x, self.middle), everywhere), dim=2), self.middle)
