"""Lift expansion for rotation: features of the whole field, found by a free encoder, enter an equivariant network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.lift import field_encoder, lifted_features
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import SteerableConv2d, steerable_network


class LiftRotation(Baseline):
    """y = f_2(f_1(x), e(x) 1): the network of `e2cnn`, cut in two as f_2 o f_1, and a free encoder e.

    e(x) in R^{E x N} is indexed by the group, E = `hidden` / 4 regular fields of C_N; expanded over the grid, that is
    times the constant function 1, they join the features that enter the middle convolution (Wang, Walters, Zhu, Platt
    2021, lift expansion; Wang, Walters, Yu 2022, section 5, Lift). Whether e(x) turns with x is left to training.

    e is a perceptron of three layers. It reads the field averaged over `encoder_grid`^2 tiles, therefore its weights
    fit any grid, and it still knows where things are. Different from the published code: there e reads all pixels of
    the 62 x 23 cells of the jet, which are written into it; and no normalisation over the batch.
    """

    class Config(Frozen):
        """`hidden` counts regular fields, each of `order` channels; `encoder_hidden` is the width of e."""

        hidden: PositiveInt = 32
        order: Literal[4, 8] = 4
        layers: Annotated[int, Field(ge=3)] = 5
        kernel_size: KernelSize = 3
        encoder_hidden: PositiveInt = 128
        encoder_grid: PositiveInt = 8

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443); Wang, Walters, Yu 2022, section 5, Lift"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 128)),
        "order": Choice((4, 8)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "encoder_hidden": Choice((64, 128, 256)),
        "encoder_grid": Choice((4, 8, 16)),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        network = steerable_network(
            config.order,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
        lifted, middle = lifted_features(config.hidden), 2 * (config.layers // 2)
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
