"""CoordConv: a convolutional network with the coordinates as further input channels."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from benchmark.models.baseline import FramesAsChannels, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.layers.convolutions import PaddingMode, convolutional_network, start


def coordinates(height: int, width: int, periodic: bool) -> Tensor:
    """Coordinate channels, (1, D, H, W).

    In a closed box D = 2: x and y, from -1 at the first cell to 1 at the last. In a periodic box D = 4: the cosine and
    sine of the angle along each axis, since a coordinate with a jump would act as a wall.
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

    A convolution is linear, so K * [x, c] = K_x * x + K_c * c, and K_c * c is one map for the whole batch. Nothing is
    concatenated, and the coordinates cost as much as one more window of D channels.
    """

    coordinates: Tensor

    def __init__(
        self, coordinates: Tensor, channels_in: int, channels_out: int, kernel_size: int, padding_mode: PaddingMode
    ) -> None:
        all_in, padding = channels_in + coordinates.shape[1], kernel_size // 2
        super().__init__(all_in, channels_out, kernel_size, padding=padding, padding_mode=padding_mode)
        self.register_buffer("coordinates", coordinates, persistent=False)  # determined by the task
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        features = self.in_channels - self.coordinates.shape[1]
        from_coordinates = self._conv_forward(self.coordinates, self.weight[:, features:], self.bias)
        return self._conv_forward(x, self.weight[:, :features], None).add_(from_coordinates)


class CoordConv(FramesAsChannels):
    """The network of `convnet` with every convolution a CoordConv: v -> ReLU(K * [v, c] + b), c the coordinates.

    (B, T, C, H, W) -> (B, C, H, W), any grid; the weights do not depend on its size. If the weights of c are zero, it
    is the ConvNet, so it can learn how far to leave translation. All weights start alike, as in the paper, so it does
    not start as the ConvNet. Different from the paper: sines and cosines in a periodic box, and no radius channel.
    """

    class Config(ConvNet.Config):
        """`hidden` is the number of channels, without the coordinates."""

    family = "cnn"
    version = 2
    symmetries = ()
    source = "Liu et al. 2018 (arXiv 1807.03247), section 3"
    search_space = ConvNet.search_space

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        convolution = partial(CoordConv2d, coordinates(task.height, task.width, task.periodic))
        self.network = convolutional_network(
            task, config.hidden, config.layers, config.kernel_size, convolution, config.norm
        )
