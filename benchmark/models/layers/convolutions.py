"""What several baselines share: plain convolutions that keep the grid, and how weights differ from place to place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ...baseline import Task

PaddingMode = Literal["zeros", "circular"]
LAST_LAYER_GAIN = 0.05
"""The last layer of a network with He's initialisation starts with so much of its deviation: the first forecast is near
zero, as a ConvNet's is under torch's own initialisation, and not noise as large as the field."""


def roughness(w: Tensor, axes: tuple[int, int], periodic: bool = False) -> Tensor:
    """mean |w(p) - w(p')| over neighbours p, p' along both `axes`: 0 if and only if w is constant over them.

    In a `periodic` box the last place of an axis and the first are neighbours, too.
    """
    differences = (w - w.roll(1, axis) if periodic else w.diff(dim=axis) for axis in axes)
    return 0.5 * torch.stack([difference.abs().mean() for difference in differences]).sum()


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


def convolutional_network(
    task: Task, hidden: int, layers: int, kernel_size: int, convolution: Callable[..., nn.Module] = nn.Conv2d
) -> nn.Sequential:
    """(B, T C, H, W) -> (B, C, H, W) by `layers` convolutions, `hidden` channels and ReLU between them."""
    inner = [hidden] * (layers - 1)
    widths = [task.input_frames * task.channels, *inner, task.channels]
    return nn.Sequential(*convolutions(widths, kernel_size, task.padding_mode, convolution)[:-1])
