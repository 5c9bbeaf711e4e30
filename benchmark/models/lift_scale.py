"""Lift expansion for scale: features of the whole field, found by a free encoder, enter an equivariant network."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.lift import field_encoder, lifted_features
from benchmark.models.layers.scale import Projection, ScaleConv2d, ScaleNetwork, Scales
from benchmark.models.layers.sizes import KernelSize


class LiftScale(Baseline):
    """y = f_2(f_1(x), e(x) 1): the network of `sesn`, cut in two as f_2 o f_1, and a free encoder e.

    e(x) in R^{E x S} is indexed by the scales, E = `hidden` / 4 functions on them; expanded over the grid, that is
    times the constant function 1, they join the features that enter the middle convolution (Wang, Walters, Zhu, Platt
    2021, lift expansion; Wang, Walters, Yu 2022, section 5, Lift). Whether e(x) scales with x is left to training.

    e reads the field averaged over `encoder_grid`^2 tiles, therefore its weights fit any grid; see `layers/lift.py`.
    Different from the published code: there e reads all pixels of a 64 x 64 grid, which are written into it, and gives
    `hidden` / 2 numbers, the same at every scale; what else differs is said in `sesn`.
    """

    class Config(Frozen):
        """`hidden` counts functions on scales; `kernel_size` is that at scale 1; `encoder_hidden` is the width of e."""

        hidden: PositiveInt = 64
        layers: Annotated[int, Field(ge=3)] = 5
        kernel_size: KernelSize = 5
        scales: Scales = (1.0, 1.5, 2.0, 2.5)
        projection: Projection = "max"
        encoder_hidden: PositiveInt = 128
        encoder_grid: PositiveInt = 8

    family = "approximate"
    symmetries = ("scale", "translation")
    source = "Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443); Wang, Walters, Yu 2022, section 5, Lift"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.5, 2.0, 2.5), (1.0, 1.4, 2.0, 2.8))),
        "projection": Choice(("max", "mean")),
        "encoder_hidden": Choice((64, 128, 256)),
        "encoder_grid": Choice((4, 8, 16)),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.scales, self.middle = len(config.scales), config.layers // 2
        self.network = ScaleNetwork(
            config.scales,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            config.projection,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
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
