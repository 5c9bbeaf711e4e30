"""Group convolutions of C4 and the translations of the grid, strict and relaxed.

A function on Z^2 x C4 has one number for each cell and quarter turn; the group moves the cells and counts the turns
on. The filters are those of Cohen, Welling 2016 (arXiv 1602.07576), each a function on the group itself, mixed from L
filter banks as in Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1. A velocity field v is read as the function
v(x) . e_h of the cell x and the turn h, with e_h the unit vector along x turned by h, and a function f is projected to
the velocity sum_h f(x, h) e_h: both commute with the group, and are folded into the filter, so that each layer is one
convolution. A quarter turn permutes the cells of a filter, therefore all this is exact.

Letters: O, I fields out and in; L filter banks; g, h, s turns out, in, and from out to in, N = 4 of each; a, b
components of a field (2 for a velocity, N for a function on the group); K kernel size.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from .convolutions import LAST_LAYER_GAIN, PaddingMode
from .relaxation import RelaxedLayer
from .steerable import ExpandBias, Field

ORDER = 4


class MixFilterBanks(nn.Module):
    """Filter banks psi (L, O, I, N, K, K) -> filter (O a, I b, K, K), F[g, h](y) = sum_l w_l(h) psi_l[h - g](R_g^-1 y).

    w is trained where relaxed, and otherwise stays at its constant start, L^-1/2, which gives the filter the deviation
    of any one bank.
    """

    w: Tensor

    def __init__(self, field_in: Field, field_out: Field, banks: int, relaxed: bool) -> None:
        super().__init__()
        self.lifts, self.projects = field_in == "vector", field_out == "vector"
        w = torch.full((banks, ORDER), banks**-0.5)
        if relaxed:
            self.w = nn.Parameter(w)
        else:
            self.register_buffer("w", w)

    def forward(self, psi: Tensor) -> Tensor:
        turned = []
        for g in range(ORDER):
            w_of_s = self.w.roll(-g, 1)[:, None, None, :, None, None]  # h = g + s
            mixed = (w_of_s * psi).sum(0)  # no einsum, which autocast would round to bf16, and with it w
            turned.append(mixed.roll(g, 2).rot90(g, (-2, -1)))
        filters = torch.stack(turned, 1)  # (O, g, I, h, K, K)
        if self.lifts:
            filters = _along_axes(filters, 3)
        if self.projects:
            filters = _along_axes(filters, 1)
        return filters.flatten(2, 3).flatten(0, 1)


def _along_axes(filters: Tensor, axis: int) -> Tensor:
    """The sum over turns of e_h times `filters`, on `axis`: e_0 and e_1 are the axes, e_2 and e_3 their opposites."""
    forth, back = filters.chunk(2, axis)
    return forth - back


class RotationGroupConv2d(nn.Conv2d, RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h in Z^2 x C4, w: {1..L} x C4 -> R.

    w_l(h) sees the turn of h and not its cell, so that translation is kept; where it is constant, rotation is, too, and
    the layer is the group convolution with sum_l w_l psi_l. Padding keeps the grid. psi starts with He's deviation, 2
    over the numbers that a filter reads.
    """

    def __init__(
        self,
        fields_in: tuple[Field, int],
        fields_out: tuple[Field, int],
        kernel_size: int,
        banks: int,
        relaxed: bool,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        (field_in, many_in), (field_out, many_out) = fields_in, fields_out
        components = {"vector": 2, "regular": ORDER}
        super().__init__(
            many_in * components[field_in],
            many_out * components[field_out],
            kernel_size,
            padding=kernel_size // 2,
            padding_mode=padding_mode,
            bias=field_out == "regular",  # a velocity that stands still under rotation is zero
        )
        psi = torch.randn(banks, many_out, many_in, ORDER, kernel_size, kernel_size)
        self.weight = nn.Parameter(psi * math.sqrt(2 / psi[0, 0].numel()))
        register_parametrization(self, "weight", MixFilterBanks(field_in, field_out, banks, relaxed), unsafe=True)
        if self.bias is not None:
            self.bias = nn.Parameter(torch.zeros(many_out))
            register_parametrization(self, "bias", ExpandBias(torch.ones(ORDER)), unsafe=True)

    @property
    def psi(self) -> nn.Parameter:
        """The filter banks (L, O, I, N, K, K), functions on the group around its unit."""
        return self.get_parameter("parametrizations.weight.original")

    @property
    def w(self) -> Tensor:
        """(L, N): how much of each bank reads each turn. A parameter where relaxed."""
        mix = self.get_submodule("parametrizations.weight.0")
        assert isinstance(mix, MixFilterBanks)
        return mix.w

    def roughness(self) -> Tensor:
        """mean |w_l(h) - w_l(h')| over turns h and the next ones h', the last and the first included."""
        return (self.w - self.w.roll(1, 1)).abs().mean()


def rotation_group_network(
    frames: int,
    hidden: int,
    layers: int,
    kernel_size: int,
    banks: int,
    relaxed: bool,
    padding_mode: PaddingMode = "zeros",
) -> nn.Sequential:
    """`frames` velocities -> `hidden` functions on the group -> ... -> one velocity, by `layers` convolutions.

    ReLU acts on each number, which the group only moves. The last layer starts small, as in `steerable_network`.
    """
    inner: list[tuple[Field, int]] = [("regular", hidden)] * (layers - 1)
    fields: list[tuple[Field, int]] = [("vector", frames), *inner, ("vector", 1)]
    modules: list[nn.Module] = []
    for before, after in pairwise(fields):
        modules += [RotationGroupConv2d(before, after, kernel_size, banks, relaxed, padding_mode), nn.ReLU()]
    last = modules[-2]
    assert isinstance(last, RotationGroupConv2d)
    with torch.no_grad():
        last.psi.mul_(LAST_LAYER_GAIN)
    return nn.Sequential(*modules[:-1])
