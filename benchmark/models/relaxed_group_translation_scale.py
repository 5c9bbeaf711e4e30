"""Relaxed group convolution for translation and scale, with weights for each scale and pixel that is read."""

from functools import partial
from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, require_grid
from benchmark.models.layers.fields import Fields
from benchmark.models.layers.group_scale import ScaleGroupConfig, ScaleGroupConv2d
from benchmark.models.layers.relaxation import PENALTIES, FilterBanks, RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.scale import ScaleNetwork


class PixelwiseScaleGroupConv2d(RelaxedLayer):
    """[f ~* psi](g) = sum_h sum_l (w_l(h) f(h)) psi_l(g^-1 h), w: {1..L} x S x H x W -> R, shared by all channels.

    w varies with the pixel that a filter reads, so it cannot be part of the filter: the group convolution reads L times
    as many channels, those of w_l f. w = 1 / L + d, with d = 0 at the start, and each bank starts with the deviation
    of `relaxed_group_scale`.
    """

    def __init__(
        self,
        config: ScaleGroupConfig,
        grid: tuple[int, int],
        banks: int,
        fields_in: Fields,
        fields_out: Fields,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        field_in, many_in = fields_in
        weighted = field_in, banks * many_in
        self.convolution = ScaleGroupConv2d(config, weighted, fields_out, padding_mode=padding_mode)
        with torch.no_grad():
            self.convolution.coefficients.mul_(banks)
        self.banks = FilterBanks(banks, (len(config.scales), *grid), True)

    @property
    def w(self) -> Tensor:
        """(L, S, H, W): weight of each bank at each scale and pixel that is read."""
        return self.banks.weights()

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, I, H, W) -> (B, S, O, H, W). ValueError if x is not on the grid of w."""
        w = self.w
        require_grid(x, w.shape[2:], "w has a number for each pixel of")
        weighted = w.transpose(0, 1)[:, :, None] * x[:, :, None]  # (B, S, L, I, H, W)
        return self.convolution(weighted.flatten(2, 3))

    def roughness(self) -> Tensor:
        """Mean of |w_l(h) - w_l(h')| over neighbours along x, y and the scales, a third each.

        In a periodic box the last and the first pixel of an axis are neighbours. The last and the first scale are not.
        """
        w = self.w
        return (2 * roughness(w, (2, 3), self.convolution.periodic) + roughness(w, (1,))) / 3

    def size(self) -> float:
        """Mean |w| without the deviation."""
        return self.banks.constant


class RelaxedGroupTranslationScale(RelaxedBaseline):
    """The network of `group_scale` with L filter banks psi_l, and a number w_l(h) for each bank, scale and pixel h.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h). The model starts equivariant, with w constant. The penalty on
    leaving both symmetries is alpha x the sum over layers of mean |w_l(h) - w_l(h')| over neighbouring pixels and
    scales, relative to the mean |w| (Wang, Walters, Yu 2022, section 4.1). w belongs to the scale and the pixel that
    are read, as in the paper; the published code for both symmetries is a steerable network with a number for each bank
    and pixel that is written, whatever the scale.

    The cost is L times the convolutions of `group_scale`, and L + 1 times the memory of its features, which are kept as
    they are and multiplied by each w_l. The weights belong to one grid, because of w.
    """

    class Config(ScaleGroupConfig):
        """`banks` is L; `penalty` is alpha."""

        banks: PositiveInt = 2
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0

    family = "relaxed"
    version = 3
    symmetries = ("translation", "scale")
    needs_velocity = True
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.414, 2.0, 2.828), (1.0, 1.5, 2.25), (1.0, 2.0))),
        "scale_extent": Choice((1, 2, 3)),
        "projection": Choice(("max", "mean")),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        grid = task.height, task.width
        layer = partial(PixelwiseScaleGroupConv2d, config, grid, config.banks, padding_mode=task.padding_mode)
        self.network = ScaleNetwork(config, task.input_frames, layer, scale_axis=1)
