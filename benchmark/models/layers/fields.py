"""Networks whose features are fields: vectors, or functions on a group (the regular representation)."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.models.baseline import Task
from benchmark.models.layers.convolutions import LAST_LAYER_GAIN
from benchmark.models.layers.norm import Norm, modules_in_a_layer, norm_layers

Field = Literal["vector", "regular"]
Fields = tuple[Field, int]
"""Kind and number of the fields that a layer reads or writes."""
FieldLayer = Callable[[Fields, Fields], nn.Module]
"""Constructor of a layer, called with the fields that it reads and the fields that it writes."""


class ExpandedFilter(nn.Module):
    """Layer whose `weight` is expanded from `coefficients` by a parametrization, linearly."""

    @property
    def coefficients(self) -> nn.Parameter:
        """Trained numbers from which the filter is expanded."""
        return self.get_parameter("parametrizations.weight.original")

    @property
    def expansion(self) -> nn.Module:
        """Module that maps `coefficients` to `weight`."""
        return self.get_submodule("parametrizations.weight.0")


class ExpandBias(nn.Module):
    """One number for each field (O,) -> bias (O a,), along the direction that the group leaves invariant."""

    direction: Tensor

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.register_buffer("direction", direction.clone())

    def forward(self, bias: Tensor) -> Tensor:
        return (bias[:, None] * self.direction).flatten()


def field_layers(vectors_in: int, hidden: int, layers: int, vectors_out: int, layer: FieldLayer) -> list[nn.Module]:
    """`layers` layers: `vectors_in` vectors -> `hidden` regular fields -> ... -> `vectors_out` vectors.

    The coefficients of the last layer, which contains an ExpandedFilter, start small by `LAST_LAYER_GAIN`.
    """
    inner: list[Fields] = [("regular", hidden)] * (layers - 1)
    fields: list[Fields] = [("vector", vectors_in), *inner, ("vector", vectors_out)]
    modules = [layer(before, after) for before, after in pairwise(fields)]
    (last,) = (module for module in modules[-1].modules() if isinstance(module, ExpandedFilter))
    with torch.no_grad():
        last.coefficients.mul_(LAST_LAYER_GAIN)
    return modules


def field_network(frames: int, hidden: int, layers: int, layer: FieldLayer, norm: Norm = "none") -> nn.Sequential:
    """`frames` velocities -> `hidden` regular fields -> ... -> one velocity, with `norm` and ReLU between the layers.

    Both act on the components of a regular field alike, which the group only permutes.
    """
    modules: list[nn.Module] = []
    for module in field_layers(frames, hidden, layers, 1, layer):
        modules += [module, *norm_layers(norm, hidden), nn.ReLU()]
    return nn.Sequential(*modules[: 1 - modules_in_a_layer(norm)])


def lifted_features(hidden: int) -> int:
    """E, the number of encoder features that join `hidden` others: a quarter, rounded up."""
    return math.ceil(hidden / 4)


def field_encoder(task: Task, grid: int, hidden: int, numbers: int) -> nn.Sequential:
    """Encoder e of a lift expansion: (B, T C, H, W) -> (B, `numbers`), a perceptron of three layers, `hidden` wide.

    Its output joins the features of an equivariant network as a function on the group, so that the layers after it are
    equivariant in both inputs; whether e(x) transforms with x is learnt (Wang, Walters, Zhu, Platt 2021, arXiv
    2110.15443).

    The input is the field averaged over `grid`^2 tiles, so the weights fit any grid and the encoder still knows
    positions.
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
        nn.Linear(task.input_frames * task.channels * grid**2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, numbers),
    )
