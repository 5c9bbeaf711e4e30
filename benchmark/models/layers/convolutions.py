"""Plain convolutions that keep the grid."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.models.baseline import Task

PaddingMode = Literal["zeros", "circular"]
LAST_LAYER_GAIN = 0.05
"""Factor on the initial weights of the last layer of a network with He's initialisation.

The first forecast is then near zero, as that of a ConvNet with torch's own initialisation, and not noise of the size of
the field."""


def convolution(channels_in: int, channels_out: int, kernel_size: int, padding_mode: PaddingMode) -> nn.Conv2d:
    """Convolution with an odd kernel that keeps the grid."""
    return nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2, padding_mode=padding_mode)


def convolutions(
    widths: Sequence[int],
    kernel_size: int,
    padding_mode: PaddingMode,
    layer: Callable[..., nn.Module] = convolution,
) -> list[nn.Module]:
    """A layer from each width to the next, each followed by ReLU; `layer` is called like `convolution`."""
    modules: list[nn.Module] = []
    for wide_in, wide_out in pairwise(widths):
        modules += [layer(wide_in, wide_out, kernel_size, padding_mode=padding_mode), nn.ReLU()]
    return modules


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, periodic: bool) -> Tensor:
    """Convolution that keeps the grid, with circular padding if `periodic` and zeros otherwise."""
    if periodic:
        return F.conv2d(F.pad(x, 4 * [padding], "circular"), weight, bias)
    return F.conv2d(x, weight, bias, padding=padding)


def require_grid(x: Tensor, grid: Sequence[int], reason: str) -> None:
    """Raise ValueError if `x` (..., H, W) is not on `grid`; `reason` begins the message: what is bound to the grid."""
    if tuple(x.shape[-2:]) != tuple(grid):
        expected, actual = (" x ".join(map(str, size)) for size in (grid, x.shape[-2:]))
        raise ValueError(f"{reason} a {expected} grid; the field is {actual}")


def convolutional_network(
    task: Task, hidden: int, layers: int, kernel_size: int, layer: Callable[..., nn.Module] = convolution
) -> nn.Sequential:
    """(B, T C, H, W) -> (B, C, H, W) by `layers` layers with `hidden` channels, and ReLU between them."""
    widths = [task.input_frames * task.channels, *[hidden] * (layers - 1), task.channels]
    return nn.Sequential(*convolutions(widths, kernel_size, task.padding_mode, layer)[:-1])
