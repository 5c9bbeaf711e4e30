"""What several baselines share: plain convolutions that keep the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.models.baseline import Task

PaddingMode = Literal["zeros", "circular"]
LAST_LAYER_GAIN = 0.05
"""The last layer of a network with He's initialisation starts with so much of its deviation: the first forecast is near
zero, as a ConvNet's is under torch's own initialisation, and not noise as large as the field."""


def convolutions(
    widths: Sequence[int],
    kernel_size: int,
    padding_mode: PaddingMode,
    convolution: Callable[..., nn.Module] = nn.Conv2d,
) -> list[nn.Module]:
    """A convolution from each width to the next, each followed by ReLU; `convolution` is called as nn.Conv2d."""
    modules: list[nn.Module] = []
    for wide_in, wide_out in pairwise(widths):
        padding = kernel_size // 2
        modules += [
            convolution(wide_in, wide_out, kernel_size, padding=padding, padding_mode=padding_mode),
            nn.ReLU(),
        ]
    return modules


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, periodic: bool) -> Tensor:
    """A convolution that keeps the grid, around whose edge are zeros, or the other side where it is `periodic`."""
    if periodic:
        return F.conv2d(F.pad(x, 4 * [padding], "circular"), weight, bias)
    return F.conv2d(x, weight, bias, padding=padding)


def require_grid(x: Tensor, grid: Sequence[int], what: str) -> None:
    """ValueError where `x` (..., H, W) is not on `grid`; `what` says what was made for it."""
    if tuple(x.shape[-2:]) != tuple(grid):
        ours, got = (" x ".join(map(str, size)) for size in (grid, x.shape[-2:]))
        raise ValueError(f"{what} a {ours} grid; the field is {got}")


def convolutional_network(
    task: Task, hidden: int, layers: int, kernel_size: int, convolution: Callable[..., nn.Module] = nn.Conv2d
) -> nn.Sequential:
    """(B, T C, H, W) -> (B, C, H, W) by `layers` convolutions, `hidden` channels and ReLU between them."""
    inner = [hidden] * (layers - 1)
    widths = [task.input_frames * task.channels, *inner, task.channels]
    return nn.Sequential(*convolutions(widths, kernel_size, task.padding_mode, convolution)[:-1])
