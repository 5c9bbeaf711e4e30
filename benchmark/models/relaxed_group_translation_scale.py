"""Relaxed group convolution for translation and scale: each scale and pixel is read with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, require_grid
from benchmark.models.layers.group_scale import GeometricScales, ScaleGroupConv2d, ScaleGroupNetwork
from benchmark.models.layers.relaxation import RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.scale import Projection
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import Field


class PixelwiseScaleGroupConv2d(RelaxedLayer):
    """[f ~* psi](g) = sum_h sum_l (w_l(h) f(h)) psi_l(g^-1 h), w: {1..L} x S x H x W -> R, shared by all channels.

    w varies with the pixel that a filter reads, so it cannot be part of the filter: the group convolution has L times
    as many channels in, those of w_l f. w starts constant, at L^-1/2, and each bank with the deviation that it has in
    `relaxed_group_scale`.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        banks: int,
        scales: Sequence[float],
        extent: int,
        fields_in: tuple[Field, int],
        fields_out: tuple[Field, int],
        kernel_size: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        field_in, many_in = fields_in
        self.convolution = ScaleGroupConv2d(
            scales, extent, (field_in, banks * many_in), fields_out, kernel_size, padding_mode=padding_mode
        )
        with torch.no_grad():
            self.convolution.psi.mul_(math.sqrt(banks))
        self.w = nn.Parameter(torch.full((banks, len(scales), *grid), banks**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, I, H, W) -> (B, S, O, H, W). ValueError: another grid than that of w."""
        require_grid(x, self.w.shape[2:], "w has a number for each pixel of")
        weighted = self.w.transpose(0, 1)[:, :, None] * x[:, :, None]  # (B, S, L, I, H, W)
        return self.convolution(weighted.flatten(2, 3))

    def roughness(self) -> Tensor:
        """mean |w_l(h) - w_l(h')| over neighbours along x, y and the scales: 0 if and only if w is constant.

        In a periodic box the last pixel of an axis and the first are neighbours, too; the last scale and the first are
        not.
        """
        along_the_grid = roughness(self.w, (2, 3), self.convolution.periodic)
        return (2 * along_the_grid + roughness(self.w, (1,))) / 3


class RelaxedGroupTranslationScale(RelaxedBaseline):
    """The network of `group_scale` with L filter banks psi_l, and a number w_l(h) for each bank, scale and pixel h.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h). It starts equivariant, w being constant, and leaves both
    symmetries as far as the data pull and the penalty allows: alpha x the sum over layers of mean |w_l(h) - w_l(h')|
    over neighbouring pixels and scales (Wang, Walters, Yu 2022, section 4.1). w belongs to the scale and the pixel that
    is read, as in the paper; what the published code has for both symmetries is a steerable network with a number for
    each bank and each pixel that is written, whatever the scale.

    By definition it costs L times the convolutions of `group_scale`, and L + 1 times the memory of its features: each
    is kept as it was and multiplied by each w_l. w makes the weights belong to one grid: the network cannot be applied
    to any other.
    """

    class Config(Frozen):
        """`hidden`, `kernel_size` and `scale_extent` as in `group_scale`; `banks` is L; `penalty` is alpha."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        banks: PositiveInt = 2
        kernel_size: KernelSize = 3
        scales: GeometricScales = (1.0, 1.414, 2.0, 2.828)
        scale_extent: PositiveInt = 2
        projection: Projection = "max"
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("translation", "scale")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.414, 2.0, 2.828), (1.0, 1.5, 2.25), (1.0, 2.0))),
        "scale_extent": Choice((1, 2, 3)),
        "projection": Choice(("max", "mean")),
        "penalty": LogUniform(1e-7, 1e-3),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.network = ScaleGroupNetwork(
            config.scales,
            config.scale_extent,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            config.projection,
            task.padding_mode,
            partial(PixelwiseScaleGroupConv2d, (task.height, task.width), config.banks),
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W). ValueError: another grid than the task's."""
        return self.network(x_BTCHW.flatten(1, 2))
