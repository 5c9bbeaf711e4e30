"""Group convolutions of scalings and the translations of the plane, strict and relaxed.

A function on the scales s = s_0, r s_0, r^2 s_0, ... and on the cells has one number for each pair; the group enlarges
the plane and counts the scales on. The filters are functions on the group themselves, of the ratio of two scales and of
the place between two cells,

    [f * psi](s, x) = sum_{s'} sum_y f(s', x + y) s^-2 psi(s' / s, y / s),

each mixed from L filter banks in place of psi, sum_l w_l(s') psi_l, as in Wang, Walters, Yu 2022 (arXiv 2201.11969),
section 4.1. A scale reads itself and the next larger ones, as in Worrall, Welling 2019 (arXiv 1905.11697), as many as
there are. A velocity v is read as the function v(x) / s, and a function is projected to the velocity s f(s, x), as in
`scale.py`: hidden features are numbers without unit. All this holds up to the resampling of psi and up to the ends of
the range of scales: what a zoom moves beyond them is lost.

Letters: S scales; E scales that one reads, R of them within the range; O, I channels out and in; L filter banks; K
kernel size at scale 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.models.layers.convolutions import LAST_LAYER_GAIN, PaddingMode, convolve
from benchmark.models.layers.relaxation import RelaxedLayer, full_precision, roughness
from benchmark.models.layers.scale import Projection, Scales, half_width
from benchmark.models.layers.steerable import Field


def _geometric(scales: tuple[float, ...]) -> tuple[float, ...]:
    ratios = [large / small for small, large in pairwise(scales)]
    if max(ratios) > 1.01 * min(ratios):
        raise ValueError(f"must be a geometric progression, up to 1 %, so that ratios are scales again, not {scales}")
    return scales


GeometricScales = Annotated[Scales, pydantic.Field(min_length=2), pydantic.AfterValidator(_geometric)]
"""What one cell of the K x K positions of psi measures, in cells, at each scale."""


def resampling(kernel_size: int, scale: float) -> Tensor:
    """(2 half + 1, K): takes psi(n), n = -(K - 1) / 2 ..., to psi(y / s) / s on the cells y, along one axis.

    The filter at scale s shall answer to the waves e^(i k y / s) as psi does to e^(i k n): least squares over all k, by
    the weight exp(-k^2 / 2), the spectrum of a field that is smooth over a cell of psi; a hundredth of the weight is
    given to the norm, so that the filter is quiet at shorter waves. In closed form this is Gaussian regression of the
    field at the places s n from the field at the cells. A constant field is answered to alike at all scales, exactly.

    Waves of 6 cells and longer are answered to at scale 1 and at 1.5 with a difference of 3 % (K = 3, white psi), and
    of 6 % if psi is interpolated linearly; those of 3 cells and longer with 6 % and 24 %.
    """
    half = half_width(kernel_size, scale)
    cells = np.arange(-half, half + 1) / scale
    places = np.arange(kernel_size) - kernel_size // 2

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (a[:, None] - b) ** 2)

    noisy = covariance(cells, cells) + 0.01 * np.eye(len(cells))
    fitted = np.linalg.solve(noisy, covariance(cells, places))
    return torch.from_numpy(fitted / fitted.sum(0))


class ExpandScaleFilters(nn.Module):
    """psi (L, O, E, I, K, K) -> the filters s^power s^-2 sum_l w_l(s') psi_l(s' / s, y / s) at all s, as one row.

    w is trained where relaxed, and otherwise stays at its constant start, L^-1/2, which gives the filter the deviation
    of any one bank.
    """

    w: Tensor

    def __init__(self, kernel_size: int, scales: Sequence[float], power: int, banks: int, relaxed: bool) -> None:
        super().__init__()
        maps = [resampling(kernel_size, scale) for scale in scales]
        for index, (scale, one) in enumerate(zip(scales, maps, strict=True)):
            self.register_buffer(f"map{index}", (scale**power * torch.kron(one, one)).T.float(), persistent=False)
        w = torch.full((banks, len(scales)), banks**-0.5)
        if relaxed:
            self.w = nn.Parameter(w)
        else:
            self.register_buffer("w", w)

    def forward(self, psi: Tensor) -> Tensor:
        rows = []
        # Autocast would round the filters, and with them w, before the convolution does.
        with full_precision(psi):
            for index in range(self.w.shape[1]):
                w_of_ratio = self.w[:, index : index + psi.shape[2], None, None, None]  # (L, R, 1, 1, 1)
                mixed = (w_of_ratio[:, None] * psi[:, :, : w_of_ratio.shape[1]]).sum(0)  # (O, R, I, K, K)
                rows.append((mixed.flatten(-2) @ self.get_buffer(f"map{index}")).flatten())
        return torch.cat(rows)


class ScaleGroupConv2d(RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h scales and cells, w: {1..L} x S -> R.

    w_l(h) sees the scale of h and not its cell, so that translation is kept; where it is constant, scale is, too, and
    the layer is the group convolution with sum_l w_l psi_l. w is mixed into the filter: L banks cost as much as one.
    Padding keeps the grid. psi starts with He's deviation, 2 over the numbers that psi reads.
    """

    def __init__(
        self,
        scales: Sequence[float],
        extent: int,
        fields_in: tuple[Field, int],
        fields_out: tuple[Field, int],
        kernel_size: int,
        banks: int = 1,
        relaxed: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        (field_in, many_in), (field_out, many_out) = fields_in, fields_out
        self.extent = 1 if field_in == "vector" else min(extent, len(scales))  # a velocity is one field, read at s
        self.halves = [half_width(kernel_size, scale) for scale in scales]
        self.channels = many_out, many_in
        self.periodic = padding_mode == "circular"
        psi = torch.randn(banks, many_out, self.extent, many_in, kernel_size, kernel_size)
        self.weight = nn.Parameter(psi * math.sqrt(2 / psi[0, 0].numel()))
        power = (field_out == "vector") - (field_in == "vector")
        expand = ExpandScaleFilters(kernel_size, scales, power, banks, relaxed)
        register_parametrization(self, "weight", expand, unsafe=True)
        # A velocity that is the same at every scale would not be the same after a zoom.
        self.bias = None if field_out == "vector" else nn.Parameter(torch.zeros(many_out))

    @property
    def psi(self) -> nn.Parameter:
        """The filter banks (L, O, E, I, K, K), functions on the group around its unit."""
        return self.get_parameter("parametrizations.weight.original")

    @property
    def w(self) -> Tensor:
        """(L, S): how much of each bank reads each scale. A parameter where relaxed."""
        expand = self.get_submodule("parametrizations.weight.0")
        assert isinstance(expand, ExpandScaleFilters)
        return expand.w

    def filters(self) -> list[Tensor]:
        """(O, R I, 2 half + 1, 2 half + 1) for each scale, R = E or what is left of the range."""
        many_out, many_in = self.channels
        read = [min(self.extent, len(self.halves) - index) for index in range(len(self.halves))]
        shapes = [(many_out, r * many_in, *2 * [2 * half + 1]) for r, half in zip(read, self.halves, strict=True)]
        rows = self.weight.split([math.prod(shape) for shape in shapes])
        return [row.view(shape) for row, shape in zip(rows, shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, I, H, W) -> (B, S, O, H, W); a velocity is the same at all S."""
        convolved = []
        for index, (kernel, half) in enumerate(zip(self.filters(), self.halves, strict=True)):
            # The scales that one reads are channels of one convolution: a view, so that none is kept twice.
            read = x[:, index : index + self.extent].flatten(1, 2)
            convolved.append(convolve(read, kernel, self.bias, half, self.periodic))
        return torch.stack(convolved, 1)

    def roughness(self) -> Tensor:
        """mean |w_l(s) - w_l(s')| over scales s and the next ones s': 0 if and only if w is constant."""
        return roughness(self.w, (1,))


class ScaleGroupNetwork(nn.Module):
    """`frames` velocities -> `hidden` functions on scales and cells -> ... -> a velocity at each scale -> one velocity.

    `layers` convolutions with ReLU between them, built by `convolution`, which is called as ScaleGroupConv2d; the
    projection takes the largest value of each component over the scales, or their mean.
    """

    def __init__(
        self,
        scales: Sequence[float],
        extent: int,
        frames: int,
        hidden: int,
        layers: int,
        kernel_size: int,
        projection: Projection,
        padding_mode: PaddingMode,
        convolution: Callable[..., nn.Module] = ScaleGroupConv2d,
    ) -> None:
        super().__init__()
        inner: list[tuple[Field, int]] = [("regular", hidden)] * (layers - 1)
        fields: list[tuple[Field, int]] = [("vector", 2 * frames), *inner, ("vector", 2)]
        self.layers = nn.Sequential(
            *(
                convolution(scales, extent, before, after, kernel_size, padding_mode=padding_mode)
                for before, after in pairwise(fields)
            )
        )
        *_, last = (module for module in self.layers.modules() if isinstance(module, ScaleGroupConv2d))
        with torch.no_grad():
            last.psi.mul_(LAST_LAYER_GAIN)
        self.scales = len(scales)
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 frames, H, W) -> (B, 2, H, W)."""
        *inner, last = self.layers
        h = x[:, None].expand(-1, self.scales, -1, -1, -1)
        for layer in inner:
            h = layer(h).relu_()  # a stack of what was convolved, which nothing else keeps
        velocities = last(h)
        return velocities.amax(1) if self.projection == "max" else velocities.mean(1)
