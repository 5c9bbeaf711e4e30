"""Plain convolutions that keep the grid."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.models.baseline import Task
from benchmark.models.layers.norm import Norm, modules_in_a_layer, norm_layers

PaddingMode = Literal["zeros", "circular"]
LAST_LAYER_GAIN = 0.05
"""Factor on the initial weights of the last layer: the first forecast is near zero, not noise of the size of the field.
"""
START_GAIN = 3**0.5
"""Bound of a uniform distribution of variance 1 / fan-in over that of torch's own, sqrt(1 / fan-in)."""

Affine = TypeVar("Affine", bound=nn.Conv2d | nn.Linear)


def start(layer: Affine) -> Affine:
    """The new `layer` with the start of e2cnn's layers: weights of variance 1 / fan-in, and a bias of zero.

    torch's own has a third of that variance, with which features shrink from layer to layer, and a random bias, which
    soon outweighs them. With He's, 2 / fan-in, features keep their size, and the first steps of Adam, which moves all
    weights of a filter at once, throw the forecast far off: after 60 steps on `beta_plane` at level 5 (32 channels,
    learning rate 3e-3, four seeds) the loss was .033 with this start, .038 with torch's and .078 with He's.
    """
    with torch.no_grad():
        layer.weight.mul_(START_GAIN)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def small_start(layer: nn.Module) -> None:
    """Multiply the weights of a new last `layer` by LAST_LAYER_GAIN.

    These are its parameters named `weight`, or `u` for the outer factor of a matrix of low rank.
    """
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.rpartition(".")[2] in ("weight", "u"):
                parameter.mul_(LAST_LAYER_GAIN)


def convolution(channels_in: int, channels_out: int, kernel_size: int, padding_mode: PaddingMode) -> nn.Conv2d:
    """Convolution with an odd kernel that keeps the grid."""
    padding = kernel_size // 2
    return start(nn.Conv2d(channels_in, channels_out, kernel_size, padding=padding, padding_mode=padding_mode))


def convolutions(
    widths: Sequence[int],
    kernel_size: int,
    padding_mode: PaddingMode,
    layer: Callable[..., nn.Module] = convolution,
    norm: Norm = "none",
) -> list[nn.Module]:
    """A layer from each width to the next, each followed by `norm` and ReLU; `layer` is called like `convolution`."""
    modules: list[nn.Module] = []
    for wide_in, wide_out in pairwise(widths):
        one = layer(wide_in, wide_out, kernel_size, padding_mode=padding_mode)
        modules += [one, *norm_layers(norm, wide_out), nn.ReLU()]
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
    task: Task,
    hidden: int,
    layers: int,
    kernel_size: int,
    layer: Callable[..., nn.Module] = convolution,
    norm: Norm = "none",
) -> nn.Sequential:
    """(B, T C, H, W) -> (B, C, H, W) by `layers` layers with `hidden` channels, and `norm` and ReLU between them.

    The last layer starts small.
    """
    widths = [task.input_frames * task.channels, *[hidden] * (layers - 1), task.channels]
    modules = convolutions(widths, kernel_size, task.padding_mode, layer, norm)[: 1 - modules_in_a_layer(norm)]
    small_start(modules[-1])
    return nn.Sequential(*modules)
