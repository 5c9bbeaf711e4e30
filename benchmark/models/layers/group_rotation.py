"""Group convolutions of C4 and the translations of the grid, strict, relaxed, and what others are made of.

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
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.models.layers.convolutions import LAST_LAYER_GAIN, PaddingMode
from benchmark.models.layers.relaxation import RelaxedLayer, roughness
from benchmark.models.layers.steerable import ExpandBias, Field

ORDER = 4
Fields = tuple[Field, int]
"""Of which kind, and how many."""


class GroupConv2d(nn.Conv2d):
    """A convolution from fields to fields of C4; `build` makes its filter (O a, I b, K, K) from `coefficients`.

    Padding keeps the grid. A function on the group has one bias for all its turns, a velocity has none: one that stands
    still under rotation is zero.
    """

    def __init__(
        self,
        fields_in: Fields,
        fields_out: Fields,
        kernel_size: int,
        coefficients: Tensor,
        build: nn.Module,
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
            bias=field_out == "regular",
        )
        self.weight = nn.Parameter(coefficients)
        register_parametrization(self, "weight", build, unsafe=True)
        if self.bias is not None:
            self.bias = nn.Parameter(torch.zeros(many_out))
            register_parametrization(self, "bias", ExpandBias(torch.ones(ORDER)), unsafe=True)

    @property
    def coefficients(self) -> nn.Parameter:
        """What the filter is made of, and linear in."""
        return self.get_parameter("parametrizations.weight.original")

    @property
    def build(self) -> nn.Module:
        """What makes the filter."""
        return self.get_submodule("parametrizations.weight.0")


def group_filter(relative: Sequence[Tensor], field_in: Field, field_out: Field) -> Tensor:
    """k_g (O, I, N, K, K) for each turn g -> filter (O a, I b, K, K), F[g, h](y) = k_g[h - g](R_g^-1 y).

    Where k_g is the same for all g, this is the filter of a group convolution.
    """
    turned = [k.roll(g, 2).rot90(g, (-2, -1)) for g, k in enumerate(relative)]
    filters = torch.stack(turned, 1)  # (O, g, I, h, K, K)
    if field_in == "vector":
        filters = _along_axes(filters, 3)
    if field_out == "vector":
        filters = _along_axes(filters, 1)
    return filters.flatten(2, 3).flatten(0, 1)


def _along_axes(filters: Tensor, axis: int) -> Tensor:
    """The sum over turns of e_h times `filters`, on `axis`: e_0 and e_1 are the axes, e_2 and e_3 their opposites."""
    forth, back = filters.chunk(2, axis)
    return forth - back


class MixFilterBanks(nn.Module):
    """Filter banks psi (L, O, I, N, K, K) -> filter (O a, I b, K, K), F[g, h](y) = sum_l w_l(h) psi_l[h - g](R_g^-1 y).

    w is trained where relaxed, and otherwise stays at its constant start, L^-1/2, which gives the filter the deviation
    of any one bank.
    """

    w: Tensor

    def __init__(self, field_in: Field, field_out: Field, banks: int, relaxed: bool) -> None:
        super().__init__()
        self.fields = field_in, field_out
        w = torch.full((banks, ORDER), banks**-0.5)
        if relaxed:
            self.w = nn.Parameter(w)
        else:
            self.register_buffer("w", w)

    def forward(self, psi: Tensor) -> Tensor:
        w = self.w[:, None, None, :, None, None]
        # h = g + s; no einsum, which autocast would round to bf16, and with it w
        return group_filter([(w.roll(-g, 3) * psi).sum(0) for g in range(ORDER)], *self.fields)


class RotationGroupConv2d(GroupConv2d, RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h in Z^2 x C4, w: {1..L} x C4 -> R.

    w_l(h) sees the turn of h and not its cell, so that translation is kept; where it is constant, rotation is, too, and
    the layer is the group convolution with sum_l w_l psi_l. psi starts with He's deviation, 2 over the numbers that a
    filter reads.
    """

    def __init__(
        self,
        fields_in: Fields,
        fields_out: Fields,
        kernel_size: int,
        banks: int,
        relaxed: bool,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        (field_in, many_in), (field_out, many_out) = fields_in, fields_out
        psi = torch.randn(banks, many_out, many_in, ORDER, kernel_size, kernel_size)
        psi *= math.sqrt(2 / psi[0, 0].numel())
        mix = MixFilterBanks(field_in, field_out, banks, relaxed)
        super().__init__(fields_in, fields_out, kernel_size, psi, mix, padding_mode)

    @property
    def psi(self) -> nn.Parameter:
        """The filter banks (L, O, I, N, K, K), functions on the group around its unit."""
        return self.coefficients

    @property
    def w(self) -> Tensor:
        """(L, N): how much of each bank reads each turn. A parameter where relaxed."""
        assert isinstance(self.build, MixFilterBanks)
        return self.build.w

    def roughness(self) -> Tensor:
        """mean |w_l(h) - w_l(h')| over turns h and the next ones h', the last and the first included."""
        return roughness(self.w, (1,), periodic=True)


def group_network(frames: int, hidden: int, layers: int, layer: Callable[[Fields, Fields], nn.Module]) -> nn.Sequential:
    """`frames` velocities -> `hidden` functions on the group -> ... -> one velocity, by `layers` layers.

    `layer` makes one from the fields that it reads and those that it gives, with a GroupConv2d in it. ReLU acts on each
    number, which the group only moves. The last layer starts small, as in `steerable_network`.
    """
    inner: list[Fields] = [("regular", hidden)] * (layers - 1)
    fields: list[Fields] = [("vector", frames), *inner, ("vector", 1)]
    modules: list[nn.Module] = []
    for before, after in pairwise(fields):
        modules += [layer(before, after), nn.ReLU()]
    network = nn.Sequential(*modules[:-1])
    *_, last = (module for module in network.modules() if isinstance(module, GroupConv2d))
    with torch.no_grad():
        last.coefficients.mul_(LAST_LAYER_GAIN)
    return network


def rotation_group_network(
    frames: int,
    hidden: int,
    layers: int,
    kernel_size: int,
    banks: int,
    relaxed: bool,
    padding_mode: PaddingMode = "zeros",
) -> nn.Sequential:
    """The network of `group_network` by layers RotationGroupConv2d."""

    def layer(before: Fields, after: Fields) -> RotationGroupConv2d:
        return RotationGroupConv2d(before, after, kernel_size, banks, relaxed, padding_mode)

    return group_network(frames, hidden, layers, layer)
