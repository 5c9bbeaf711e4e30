"""Networks whose features are fields: vectors, scalars, or functions on a group (the regular representation)."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.cell import SIZES, VELOCITY, Component, Components
from benchmark.models.baseline import Task
from benchmark.models.layers.convolutions import LAST_LAYER_GAIN
from benchmark.models.layers.norm import Norm, modules_in_a_layer, norm_layers

Field = Literal["vector", "scalar", "regular"]
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

    The coefficients of the last layer start small by `LAST_LAYER_GAIN`.
    """
    inner: list[Fields] = [("regular", hidden)] * (layers - 1)
    fields: list[Fields] = [("vector", vectors_in), *inner, ("vector", vectors_out)]
    modules = [layer(before, after) for before, after in pairwise(fields)]
    _scale(modules[-1], LAST_LAYER_GAIN)
    return modules


class MixedLayer(nn.Module):
    """Layer between fields of several kinds: for each kind of `after` a sum over those of `before`.

    (B, channels, H, W) -> (B, channels, H, W). `reads` and `writes` are the channels of x and y in which the kinds
    stand together, in their order; None: as they are. The initial coefficients of a summand are scaled so that the sum
    has the variance of one layer.
    """

    reads: Tensor | None
    order: Tensor | None

    def __init__(
        self,
        before: Sequence[Fields],
        after: Sequence[Fields],
        layer: FieldLayer,
        reads: Sequence[int] | None = None,
        writes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.summands = nn.ModuleList(layer(one, other) for other in after for one in before)
        self.sizes = [SIZES[kind] * many for kind, many in before if kind != "regular"]
        self.register_buffer("reads", torch.tensor(reads) if reads else None, persistent=False)
        self.register_buffer("order", torch.tensor(writes).argsort() if writes else None, persistent=False)
        fan = sum(many for _, many in before)
        for number, summand in enumerate(self.summands):
            _, many = before[number % len(before)]
            _scale(summand, math.sqrt(many / fan))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels read, H, W) -> (B, channels written, H, W)."""
        kinds = x[:, self.reads].split(self.sizes, 1) if self.reads is not None else (x,)
        y = [summand(kinds[number % len(kinds)]) for number, summand in enumerate(self.summands)]
        written = [torch.stack(y[start : start + len(kinds)]).sum(0) for start in range(0, len(y), len(kinds))]
        together = torch.cat(written, 1)
        return together if self.order is None else together[:, self.order]


def by_kind(components: Components, frames: int) -> tuple[list[Fields], list[int]]:
    """Fields of each kind in `frames` states, and the channels (T C,) in which the kinds stand together.

    >>> by_kind(("scalar", "vector"), 2)
    ([('vector', 2), ('scalar', 2)], [1, 2, 4, 5, 0, 3])
    """
    ends = list(accumulate(SIZES[component] for component in components))
    kinds: list[Component] = [kind for kind in SIZES if kind in components]
    channels = [
        frame * ends[-1] + channel
        for kind in kinds
        for frame in range(frames)
        for component, end in zip(components, ends, strict=True)
        if component == kind
        for channel in range(end - SIZES[kind], end)
    ]
    return [(kind, frames * components.count(kind)) for kind in kinds], channels


def field_network(task: Task, hidden: int, layers: int, layer: FieldLayer, norm: Norm = "none") -> nn.Sequential:
    """Components of T frames -> `hidden` regular fields -> ... -> components of one, with `norm` and ReLU between.

    Both act on the components of a regular field alike, which the group only permutes.
    """
    modules: list[nn.Module] = []
    for module in _state_layers(task, hidden, layers, layer):
        modules += [module, *norm_layers(norm, hidden), nn.ReLU()]
    return nn.Sequential(*modules[: 1 - modules_in_a_layer(norm)])


def _state_layers(task: Task, hidden: int, layers: int, layer: FieldLayer) -> list[nn.Module]:
    """As `field_layers`, from and to the components of the task."""
    if task.components == VELOCITY:
        return field_layers(task.input_frames, hidden, layers, 1, layer)
    (before, reads), (after, writes) = by_kind(task.components, task.input_frames), by_kind(task.components, 1)
    regular: list[Fields] = [("regular", hidden)]
    if layers == 1:
        modules: list[nn.Module] = [MixedLayer(before, after, layer, reads, writes)]
    else:
        modules = [
            MixedLayer(before, regular, layer, reads=reads),
            *(layer(*regular, *regular) for _ in range(layers - 2)),
            MixedLayer(regular, after, layer, writes=writes),
        ]
    _scale(modules[-1], LAST_LAYER_GAIN)
    return modules


@torch.no_grad()
def _scale(module: nn.Module, factor: float) -> None:
    """Scale the coefficients of all filters in a module."""
    for filters in module.modules():
        if isinstance(filters, ExpandedFilter):
            filters.coefficients.mul_(factor)


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
