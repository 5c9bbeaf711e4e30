"""Group convolutions of scalings and the translations of the plane, strict and relaxed.

A function on the scales s = s_0, r s_0, r^2 s_0, ... and on the cells has one number for each pair. The group enlarges
the plane and shifts the scales. Filters are functions on the group, of the ratio of two scales and of the displacement
between two cells,

    [f * psi](s, x) = sum_{s'} sum_y f(s', x + y) s^-2 psi(s' / s, y / s).

psi is mixed from L filter banks, sum_l w_l(s') psi_l (Wang, Walters, Yu 2022, arXiv 2201.11969, section 4.1). A scale
reads itself and the next larger ones within the range (Worrall, Welling 2019, arXiv 1905.11697). A velocity v is lifted
to the function v(x) / s, and a function is projected to the velocity s f(s, x), as in `scale.py`: hidden features are
dimensionless. The equivariance holds up to the resampling of psi and up to the ends of the range of scales.

Letters: S scales; E scales that one scale reads, R of them within the range; O, I channels out and in; L filter banks;
K kernel size at scale 1.
"""

import math
from itertools import pairwise
from typing import Annotated

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.cell import PositiveInt
from benchmark.models.layers.convolutions import PaddingMode, convolve
from benchmark.models.layers.fields import ExpandedFilter, Fields
from benchmark.models.layers.relaxation import FilterBanks, RelaxedLayer, full_precision, roughness
from benchmark.models.layers.scale import ScaleConfig, Scales, half_width
from benchmark.models.layers.sizes import KernelSize


def _geometric(scales: tuple[float, ...]) -> tuple[float, ...]:
    ratios = [large / small for small, large in pairwise(scales)]
    if max(ratios) > 1.01 * min(ratios):
        raise ValueError(f"must be a geometric progression, up to 1 %, so that ratios are scales again, not {scales}")
    return scales


GeometricScales = Annotated[Scales, pydantic.Field(min_length=2), pydantic.AfterValidator(_geometric)]
"""Size of a cell of psi in cells of the grid, at each scale."""


class ScaleGroupConfig(ScaleConfig):
    """Sizes of a network of group convolutions; a scale reads `scale_extent` scales, itself included."""

    kernel_size: KernelSize = 3
    scales: GeometricScales = (1.0, 1.414, 2.0, 2.828)
    scale_extent: PositiveInt = 2


def resampling(kernel_size: int, scale: float) -> Tensor:
    """Matrix (2 half + 1, K) from psi(n), n = -(K - 1) / 2 ..., to psi(y / s) / s on the cells y, along one axis.

    The response of the filter at scale s to the waves e^(i k y / s) approximates that of psi to e^(i k n), by least
    squares over k with the weight exp(-k^2 / 2): the spectrum of a field that is smooth over a cell of psi. A hundredth
    of the weight is on the norm, which damps shorter waves. The closed form is a Gaussian regression of the field at
    the points s n from the field at the cells. The response to a constant field is the same at all scales, exactly.

    The responses at scale 1 and 1.5 to waves of 6 cells and longer differ by 3 % (K = 3, white psi), and by 6 % if psi
    is interpolated linearly; to waves of 3 cells and longer by 6 % and 24 %.
    """
    half = half_width(kernel_size, scale)
    cells = np.arange(-half, half + 1) / scale
    places = np.arange(kernel_size) - kernel_size // 2

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (a[:, None] - b) ** 2)

    noisy = covariance(cells, cells) + 0.01 * np.eye(len(cells))
    fitted = np.linalg.solve(noisy, covariance(cells, places))
    return torch.from_numpy(fitted / fitted.sum(0))


class ExpandScaleFilters(FilterBanks):
    """psi (L, O, E, I, K, K) -> the filters s^power s^-2 sum_l w_l(s') psi_l(s' / s, y / s) at all s, as one row."""

    def __init__(self, config: ScaleGroupConfig, power: int, banks: int, relaxed: bool) -> None:
        super().__init__(banks, (len(config.scales),), relaxed)
        for index, scale in enumerate(config.scales):
            one = resampling(config.kernel_size, scale)
            self.register_buffer(f"map{index}", (scale**power * torch.kron(one, one)).T.float(), persistent=False)

    def forward(self, psi: Tensor) -> Tensor:
        rows, w = [], self.weights()
        with full_precision(psi):
            for index in range(w.shape[1]):
                w_of_ratio = w[:, index : index + psi.shape[2], None, None, None]  # (L, R, 1, 1, 1)
                mixed = (w_of_ratio[:, None] * psi[:, :, : w_of_ratio.shape[1]]).sum(0)  # (O, R, I, K, K)
                rows.append((mixed.flatten(-2) @ self.get_buffer(f"map{index}")).flatten())
        return torch.cat(rows)


class ScaleGroupConv2d(ExpandedFilter, RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h scales and cells, w: {1..L} x S -> R.

    w_l(h) depends on the scale of h and not on its cell, so the layer is equivariant under translation. If w is
    constant, the layer is the group convolution with sum_l w_l psi_l and equivariant under scaling, too. w is mixed
    into the filter: L banks cost as much as one. The `coefficients` psi (L, O, E, I, K, K) start with L times He's
    variance, 2 over the fan-in of psi, so that their mean has it. Padding keeps the grid.
    """

    def __init__(
        self,
        config: ScaleGroupConfig,
        fields_in: Fields,
        fields_out: Fields,
        banks: int = 1,
        relaxed: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        (field_in, many_in), (field_out, many_out) = fields_in, fields_out
        size = config.kernel_size
        # A velocity is one field, which each scale reads at its own scale alone.
        self.extent = 1 if field_in == "vector" else min(config.scale_extent, len(config.scales))
        self.halves = [half_width(size, scale) for scale in config.scales]
        self.channels = many_out, many_in
        self.periodic = padding_mode == "circular"
        psi = torch.randn(banks, many_out, self.extent, many_in, size, size)
        self.weight = nn.Parameter(psi * math.sqrt(2 * banks / psi[0, 0].numel()))
        power = (field_out == "vector") - (field_in == "vector")
        expand = ExpandScaleFilters(config, power, banks, relaxed)
        register_parametrization(self, "weight", expand, unsafe=True)
        # A velocity that is the same at every scale would not be the same after a zoom.
        self.bias = None if field_out == "vector" else nn.Parameter(torch.zeros(many_out))

    @property
    def w(self) -> Tensor:
        """(L, S): weight of each bank at each scale that is read."""
        assert isinstance(self.expansion, ExpandScaleFilters)
        return self.expansion.weights()

    def filters(self) -> list[Tensor]:
        """(O, R I, 2 half + 1, 2 half + 1) for each scale; R is at most E, and smaller at the end of the range."""
        many_out, many_in = self.channels
        read = [min(self.extent, len(self.halves) - index) for index in range(len(self.halves))]
        shapes = [(many_out, r * many_in, *2 * [2 * half + 1]) for r, half in zip(read, self.halves, strict=True)]
        rows = self.weight.split([math.prod(shape) for shape in shapes])
        return [row.view(shape) for row, shape in zip(rows, shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, I, H, W) -> (B, S, O, H, W)."""
        convolved = []
        for index, (kernel, half) in enumerate(zip(self.filters(), self.halves, strict=True)):
            # The scales that are read become channels: a view, so that autograd keeps none twice.
            read = x[:, index : index + self.extent].flatten(1, 2)
            convolved.append(convolve(read, kernel, self.bias, half, self.periodic))
        return torch.stack(convolved, 1)

    def roughness(self) -> Tensor:
        """Mean of |w_l(s) - w_l(s')| over neighbouring scales s and s'."""
        return roughness(self.w, (1,))

    def size(self) -> float:
        """Mean |w| without the deviation."""
        return 1 / len(self.w)
