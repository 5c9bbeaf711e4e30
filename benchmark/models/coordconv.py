"""CoordConv: the convolutional network that is told where it is."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.convolutions import convolutional_network
from benchmark.models.layers.sizes import KernelSize


def coordinates(height: int, width: int, periodic: bool) -> Tensor:
    """The extra channels, (1, D, H, W).

    In a closed box D = 2: x and y, from -1 at the first cell to 1 at the last. In a periodic one D = 4, the cosine
    and sine of the angle along each axis: a coordinate that jumps would put a wall where there is none.
    """
    if periodic:
        angles = (2 * math.pi * torch.arange(size) / size for size in (height, width))
        axes = [torch.stack((angle.cos(), angle.sin())) for angle in angles]
    else:
        axes = [torch.linspace(-1, 1, size)[None] for size in (height, width)]
    x, y = axes
    return torch.cat((x[:, :, None].expand(-1, -1, width), y[:, None].expand(-1, height, -1)))[None]


class CoordConv2d(nn.Conv2d):
    """y = K * [x, c] + b with the coordinates c as further input channels, the last ones of the weight.

    A convolution being linear, K * [x, c] = K_x * x + K_c * c, and K_c * c is one map for the whole batch: nothing
    is concatenated, and the coordinates cost as much as one more window of D channels.
    """

    coordinates: Tensor

    def __init__(self, coordinates: Tensor, in_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels + coordinates.shape[1], *args, **kwargs)
        self.register_buffer("coordinates", coordinates, persistent=False)  # the task gives them again

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        features = self.in_channels - self.coordinates.shape[1]
        of_features, of_coordinates = self.weight[:, :features], self.weight[:, features:]
        where = self._conv_forward(self.coordinates, of_coordinates, self.bias)
        return self._conv_forward(x, of_features, None).add_(where)


class CoordConv(Baseline):
    """The network of `convnet` with every convolution a CoordConv: v -> ReLU(K * [v, c] + b), c the coordinates.

    (B, T, C, H, W) -> (B, C, H, W), any grid; the weights do not depend on its size. Where the weights of c are zero
    it is the ConvNet, so that it can learn how far to leave translation. It starts outside: the paper initialises
    all weights alike. Different from the paper: sines and cosines in a periodic box, and no radius channel.
    """

    class Config(Frozen):
        """`hidden` is the number of channels, without those of the coordinates."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3

    family = "cnn"
    symmetries = ()
    source = "Liu et al. 2018 (arXiv 1807.03247), section 3"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128, 256)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        convolution = partial(CoordConv2d, coordinates(task.height, task.width, task.periodic))
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, convolution)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
