"""Group convolutions of C4 and the translations of the grid, strict and relaxed.

A function on Z^2 x C4 has one number for each cell and quarter turn. The group moves the cells and shifts the turns
cyclically. Filters are functions on the group (Cohen, Welling 2016, arXiv 1602.07576), mixed from L filter banks (Wang,
Walters, Yu 2022, arXiv 2201.11969, section 4.1). A velocity v is lifted to the function v(x) . e_h of the cell x and
the turn h, with e_h the unit vector along x turned by h. A function f is projected to the velocity sum_h f(x, h) e_h.
Both commute with the group and are folded into the filter, so each layer is one convolution. A quarter turn permutes
the cells of a filter, so the equivariance is exact.

A scalar is lifted to v(x) for every turn, and a function projected to sum_h f(x, h). Letters: O, I fields out and in; L
filter banks; g, h, s turns out, in, and from out to in, N = 4 of each; a, b components of a field (2 for a velocity, 1
for a scalar, N for a function on the group); K kernel size.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.cell import SIZES
from benchmark.models.layers.convolutions import PaddingMode
from benchmark.models.layers.fields import ExpandBias, ExpandedFilter, Field, Fields
from benchmark.models.layers.relaxation import FilterBanks, RelaxedLayer, roughness

ORDER = 4


class GroupConv2d(nn.Conv2d, ExpandedFilter):
    """Convolution from fields to fields of C4 that keeps the grid.

    `expansion` maps `coefficients` to the filter (O a, I b, K, K). A function on the group has one bias for all its
    turns. A velocity has no bias, because a velocity that is invariant under rotation is zero.
    """

    def __init__(
        self,
        fields_in: Fields,
        fields_out: Fields,
        kernel_size: int,
        coefficients: Tensor,
        expansion: nn.Module,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        (field_in, many_in), (field_out, many_out) = fields_in, fields_out
        components: dict[Field, int] = {"vector": SIZES["vector"], "scalar": SIZES["scalar"], "regular": ORDER}
        super().__init__(
            many_in * components[field_in],
            many_out * components[field_out],
            kernel_size,
            padding=kernel_size // 2,
            padding_mode=padding_mode,
            bias=field_out != "vector",
        )
        self.weight = nn.Parameter(coefficients)
        register_parametrization(self, "weight", expansion, unsafe=True)
        if self.bias is not None:
            self.bias = nn.Parameter(torch.zeros(many_out))
            register_parametrization(self, "bias", ExpandBias(torch.ones(components[field_out])), unsafe=True)


def group_filter(relative: Sequence[Tensor], field_in: Field, field_out: Field) -> Tensor:
    """k_g (O, I, N, K, K) for each turn g -> filter (O a, I b, K, K), F[g, h](y) = k_g[h - g](R_g^-1 y).

    If k_g is the same for all g, this is the filter of a group convolution.
    """
    turned = [k.roll(g, 2).rot90(g, (-2, -1)) for g, k in enumerate(relative)]
    filters = torch.stack(turned, 1)  # (O, g, I, h, K, K)
    return _folded(_folded(filters, 3, field_in), 1, field_out).flatten(2, 3).flatten(0, 1)


def _folded(filters: Tensor, axis: int, field: Field) -> Tensor:
    """Sum over turns h, on `axis`, of e_h times `filters` for a vector, and of `filters` for a scalar.

    e_0 and e_1 are the axes, e_2 and e_3 their opposites.
    """
    if field == "scalar":
        return filters.sum(axis, keepdim=True)
    if field == "vector":
        positive, negative = filters.chunk(2, axis)
        return positive - negative
    return filters


class MixFilterBanks(FilterBanks):
    """psi (L, O, I, N, K, K) -> filter (O a, I b, K, K), F[g, h](y) = sum_l w_l(h) psi_l[h - g](R_g^-1 y)."""

    def __init__(self, field_in: Field, field_out: Field, banks: int, relaxed: bool) -> None:
        super().__init__(banks, (ORDER,), relaxed)
        self.fields = field_in, field_out

    def forward(self, psi: Tensor) -> Tensor:
        w = self.weights()[:, None, None, :, None, None]
        # h = g + s. No einsum: autocast would round it to bf16, and w with it.
        return group_filter([(w.roll(-g, 3) * psi).sum(0) for g in range(ORDER)], *self.fields)


class RotationGroupConv2d(GroupConv2d, RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h in Z^2 x C4, w: {1..L} x C4 -> R.

    w_l(h) depends on the turn of h and not on its cell, so the layer is equivariant under translation. If w is constant
    over the turns, the layer is the group convolution with sum_l w_l psi_l and equivariant under rotation, too. The
    `coefficients` psi (L, O, I, N, K, K) start with variance L over the fan-in: their mean has 1 over it, as
    e2cnn's layers.
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
        psi *= math.sqrt(banks / psi[0, 0].numel())
        mix = MixFilterBanks(field_in, field_out, banks, relaxed)
        super().__init__(fields_in, fields_out, kernel_size, psi, mix, padding_mode)

    @property
    def w(self) -> Tensor:
        """(L, N): weight of each bank at each turn that is read."""
        assert isinstance(self.expansion, MixFilterBanks)
        return self.expansion.weights()

    def roughness(self) -> Tensor:
        """Mean of |w_l(h) - w_l(h')| over neighbouring turns h and h', which are cyclic."""
        return roughness(self.w, (1,), periodic=True)

    def size(self) -> float:
        """Mean |w| without the deviation."""
        return 1 / len(self.w)
