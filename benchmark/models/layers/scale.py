"""Steerable convolutions of scalings and translations, strict and relaxed.

A zoom by r maps a velocity field F(p) to r F(p / r), at constant time, and a function on scales h(s, p) to
h(s / r, p / r). A convolution commutes with both if its filters at all scales s share their coefficients,

    K_s(y) = s^(a - b) sum_l w_l s^-2 Phi_l(y / s),     a, b = 1 for a velocity, 0 for a function on scales,

with a for the output and b for the input: lifting divides by the scale and projecting multiplies by it. A function on
scales is therefore dimensionless, and biases and ReLU may act on it. Phi_l are 2-D Hermite-Gaussian functions, basis A
of Sosnovik, Szmaja, Smeulders 2020 (arXiv 1910.11093). As in the code of Wang, Walters, Yu 2022, a layer does not mix
scales. On a grid the equivariance holds up to the sampling of Phi_l and up to the ends of the range of scales, beyond
which a zoom moves features out of the range; docs/scale.md has the measured errors.

Letters: S scales; O, I channels out and in; L basis functions; K kernel size at scale 1; P positions of all filters.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from numpy.polynomial.hermite_e import hermevander
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.cell import Frozen, PositiveFloat, PositiveInt
from benchmark.models.baseline import Choice, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolve
from benchmark.models.layers.fields import ExpandedFilter, FieldLayer, Fields, field_layers
from benchmark.models.layers.relaxation import KernelDeviation, RelaxedLayer, full_precision
from benchmark.models.layers.sizes import KernelSize


def _increasing(scales: tuple[float, ...]) -> tuple[float, ...]:
    if any(small >= large for small, large in pairwise(scales)):
        raise ValueError(f"must increase, not {scales}")
    return scales


Scales = Annotated[tuple[PositiveFloat, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_increasing)]
"""Standard deviations of the basis functions, in cells."""
Projection = Literal["max", "mean"]


class ScaleConfig(Frozen):
    """Sizes of a network on scales.

    `hidden` counts functions on scales, each of `len(scales)` channels. `kernel_size` is the size at scale 1.
    `projection` reduces the velocities at all scales to one.
    """

    hidden: PositiveInt = 64
    layers: PositiveInt = 5
    kernel_size: KernelSize = 5
    scales: Scales = (1.0, 1.5, 2.0, 2.5)
    projection: Projection = "max"


SCALE_SEARCH_SPACE: SearchSpace = {
    "hidden": Choice((16, 32, 64)),
    "layers": Choice((3, 5, 7)),
    "kernel_size": Choice((3, 5)),
    "scales": Choice(((1.0, 1.5, 2.0, 2.5), (1.0, 1.4, 2.0, 2.8))),
    "projection": Choice(("max", "mean")),
}


def half_width(kernel_size: int, scale: float) -> int:
    """Cells to each side of the centre that the square of side K s touches."""
    return math.ceil((kernel_size * scale - 1) / 2)


def _axis(kernel_size: int, scale: float) -> Tensor:
    """(K, 2 half + 1): He_n(y / s) exp(-y^2 / 2 s^2) / s of the orders n < K along one axis.

    The outermost cells are weighted by the share of them within K s. The published code cuts at whole cells, at another
    multiple of s for each scale, which made networks up to six times as far from equivariant.
    """
    half = half_width(kernel_size, scale)
    y = np.arange(-half, half + 1)
    inside = np.clip(kernel_size * scale / 2 + 0.5 - abs(y), 0, 1)
    polynomials = hermevander(y / scale, kernel_size - 1).T
    return torch.from_numpy(polynomials * np.exp(-0.5 * (y / scale) ** 2) / scale * inside)


def hermite_gaussian(kernel_size: int, scale: float) -> Tensor:
    """s^-2 Phi_l(y / s): (L, 2 half + 1, 2 half + 1) with L = K^2, the pairs of orders below K along both axes.

    The norm is 1 at scale 1 alone, so that a zoomed filter responds to a zoomed field as strongly.
    """
    axis = _axis(kernel_size, scale) / _axis(kernel_size, 1.0).norm(dim=1, keepdim=True)
    return torch.einsum("my,nx->mnyx", axis, axis).flatten(0, 1).float()


def _positions(kernel_size: int, half: int) -> Tensor:
    """(K, K, 2 half + 1, 2 half + 1): 1 where one of the K x K positions is the nearest to a position of the filter."""
    nearest = (torch.arange(-half, half + 1) + kernel_size // 2).clamp(0, kernel_size - 1)
    one = F.one_hot(nearest, kernel_size).float()
    return torch.einsum("ya,xb->abyx", one, one)


class ExpandFilters(nn.Module):
    """Coefficients (O, I, L) -> filters (O, I, P) at all scales; relaxed, with coefficients at each of K x K positions.

    `channels` are O and I.
    """

    basis: Tensor

    def __init__(
        self, kernel_size: int, scales: Sequence[float], power: int, channels: tuple[int, int], relaxed: bool
    ) -> None:
        super().__init__()
        parts = []
        for scale in scales:
            functions = scale**power * hermite_gaussian(kernel_size, scale)  # (L, y, x)
            if relaxed:
                where = _positions(kernel_size, half_width(kernel_size, scale))
                functions = where[:, :, None] * functions  # (K, K, L, y, x)
            parts.append(functions.flatten(-2))
        basis = torch.cat(parts, dim=-1)
        self.register_buffer("basis", basis)
        self.relaxation = KernelDeviation(basis.abs().amax(-1), *channels) if relaxed else None

    def forward(self, coefficients: Tensor) -> Tensor:
        with full_precision(coefficients):
            if self.relaxation is None:
                return torch.einsum("oil,lp->oip", coefficients, self.basis)
            return torch.einsum("oiyxl,yxlp->oip", self.relaxation(coefficients), self.basis)


def split_filters(weight: Tensor, halves: Sequence[int]) -> list[Tensor]:
    """(O, I, P) -> (O, I, 2 half + 1, 2 half + 1) for each scale."""
    sizes = [2 * half + 1 for half in halves]
    parts = weight.split([size**2 for size in sizes], dim=-1)
    return [part.unflatten(-1, (size, size)) for part, size in zip(parts, sizes, strict=True)]


def convolve_at_scales(x: Tensor, weight: Tensor, bias: Tensor | None, halves: Sequence[int], periodic: bool) -> Tensor:
    """(S, B, I, H, W) -> (S, B, O, H, W) with filters (O, I, P) and a bias of shape (O,), or (S, O) for one a scale."""
    biases = [None] * len(halves) if bias is None else list(bias.expand(len(halves), -1))
    convolved = []
    for one, kernel, offset, half in zip(x, split_filters(weight, halves), biases, halves, strict=True):
        convolved.append(convolve(one, kernel, offset, half, periodic))
    return torch.stack(convolved)


class ScaleConv2d(ExpandedFilter, RelaxedLayer):
    """Convolution with K_s(y), strict, or with w_l(y) in place of w_l, relaxed, that keeps the grid.

    The `coefficients` are w (O, I, L). Relaxed, w_l(y) = w_l + d_l(y) is a function of the K x K kernel positions in
    cells, the same at every scale, so that K_s is no longer K_1 enlarged (`KernelDeviation`; Wang, Walters, Yu 2022,
    section 4.2). Positions of larger filters take w from the nearest of these. A relaxed layer starts equivariant, with
    d = 0; the published code starts w(y) at random. w starts with the variance 1 / (I L), for unit filters.
    """

    def __init__(
        self,
        scales: Sequence[float],
        channels_in: Fields,
        channels_out: Fields,
        kernel_size: int,
        relaxed: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        (field_in, many_in), (field_out, many_out) = channels_in, channels_out
        coefficients = torch.randn(many_out, many_in, kernel_size**2) / math.sqrt(many_in * kernel_size**2)
        self.halves = [half_width(kernel_size, scale) for scale in scales]
        self.periodic = padding_mode == "circular"
        self.weight = nn.Parameter(coefficients)
        power = (field_out == "vector") - (field_in == "vector")
        expand = ExpandFilters(kernel_size, scales, power, (many_out, many_in), relaxed)
        register_parametrization(self, "weight", expand, unsafe=True)
        # A velocity that is the same at every scale would not be the same after a zoom.
        self.bias = None if field_out == "vector" else nn.Parameter(torch.zeros(many_out))

    def filters(self) -> list[Tensor]:
        """K_s, (O, I, 2 half + 1, 2 half + 1), for each scale."""
        return split_filters(self.weight, self.halves)

    def forward(self, x: Tensor) -> Tensor:
        """(S, B, I, H, W) -> (S, B, O, H, W)."""
        return convolve_at_scales(x, self.weight, self.bias, self.halves, self.periodic)

    def roughness(self) -> Tensor:
        """Mean of |w(y) - w(y')| over neighbouring positions of the kernel; see `KernelDeviation`."""
        relaxation = self.expansion.relaxation
        assert isinstance(relaxation, KernelDeviation)
        return relaxation.roughness()

    def size(self) -> Tensor:
        """Mean |w|."""
        return self.coefficients.abs().mean()


class ScaleNetwork(nn.Module):
    """`frames` velocities -> `hidden` functions on scales -> ... -> a velocity at each scale -> one velocity.

    The layers, with ReLU between them, have the scales on axis `scale_axis`. The projection takes the largest value of
    each component over the scales, or the mean.
    """

    def __init__(self, config: ScaleConfig, frames: int, layer: FieldLayer, scale_axis: int = 0) -> None:
        super().__init__()
        self.scales, self.scale_axis = config.scales, scale_axis
        self.projection = config.projection
        self.kept: tuple[int, ...] | None = None
        self.layers = nn.Sequential(*field_layers(2 * frames, config.hidden, config.layers, 2, layer))

    @contextmanager
    def keeping(self, indices: Sequence[int]) -> Iterator[None]:
        """Use the scales of these indices alone: no layer reads another one, and the projection is over them."""
        self.kept = tuple(indices)
        try:
            yield
        finally:
            self.kept = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 frames, H, W) -> (B, 2, H, W)."""
        return self.after(self.before(x, 0), 0)

    def before(self, x: Tensor, layer: int) -> Tensor:
        """Input of the layer at index `layer`: (B, 2 frames, H, W) -> (S, B, channels, H, W)."""
        sizes = [-1] * 5
        sizes[self.scale_axis] = len(self.scales)
        h = x.unsqueeze(self.scale_axis).expand(sizes)
        for module in list(self.layers)[:layer]:
            h = module(self._of_kept(h)).relu_()
        return h

    def after(self, h: Tensor, layer: int) -> Tensor:
        """Output of the network from the layer at index `layer` on: (S, B, channels, H, W) -> (B, 2, H, W)."""
        *inner, last = list(self.layers)[layer:]
        for module in inner:
            h = module(self._of_kept(h)).relu_()  # in place, since nothing else keeps the output of a layer
        velocities = last(self._of_kept(h))
        if self.kept is not None:
            velocities = velocities.index_select(self.scale_axis, torch.tensor(self.kept, device=velocities.device))
        return velocities.amax(self.scale_axis) if self.projection == "max" else velocities.mean(self.scale_axis)

    def _of_kept(self, h: Tensor) -> Tensor:
        """`h` with zeros at the scales that are not kept."""
        if self.kept is None:
            return h
        mask = h.new_zeros(len(self.scales))
        mask[list(self.kept)] = 1
        return h * mask.view([-1 if axis == self.scale_axis else 1 for axis in range(h.ndim)])


def steerable_scale_network(config: ScaleConfig, task: Task, relaxed: bool = False) -> ScaleNetwork:
    """(B, T 2, H, W) -> (B, 2, H, W) by steerable convolutions of scalings."""

    def layer(before: Fields, after: Fields) -> ScaleConv2d:
        return ScaleConv2d(config.scales, before, after, config.kernel_size, relaxed, task.padding_mode)

    return ScaleNetwork(config, task.input_frames, layer)
