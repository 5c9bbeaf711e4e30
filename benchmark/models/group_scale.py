"""Group convolution for scale: equivariant under scalings, up to the grid, and under translations."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.group_scale import GeometricScales, ScaleGroupNetwork
from benchmark.models.layers.scale import Projection
from benchmark.models.layers.sizes import KernelSize


class GroupScale(Baseline):
    """T velocities -> `hidden` functions on scales and cells, `layers` deep -> one velocity, by group convolutions.

    [f * psi](s, x) = sum_{s'} sum_y f(s', x + y) s^-2 psi(s' / s, y / s): psi is free on K x K positions and on the
    ratios s' / s = 1, r, r^2, ... of `scale_extent` scales, and is resampled to every scale s, by a fixed linear map,
    so that it trains; see `layers/group_scale.py`. Unlike `sesn`, a layer mixes scales.

    Different from Worrall, Welling 2019: the features are not blurred anew at each scale, scales need not be whole
    numbers, and filters are not depthwise. Different from the code published with Wang, Walters, Yu 2022: there each
    filter is resampled once, before training, and detached, so that it keeps its random start; scales meet in the last
    layer alone, a plain convolution of all of them, which no zoom commutes with; and features are normalised over the
    batch.

    A convolution at scale s has (K s)^2 positions: with the default scales and two of them read, 247 / 9 = 27 times as
    many as a ConvNet with `hidden` channels.
    """

    class Config(Frozen):
        """`hidden` counts functions on the group, each of `len(scales)` channels; `kernel_size` is that at scale 1.

        `scale_extent` is how many scales one reads, itself included; a range with fewer cuts it.
        """

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        scales: GeometricScales = (1.0, 1.414, 2.0, 2.828)
        scale_extent: PositiveInt = 2
        projection: Projection = "max"

    family = "strict"
    symmetries = ("scale", "translation")
    source = "Worrall, Welling 2019 (arXiv 1905.11697); Wang, Walters, Yu 2022, section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.414, 2.0, 2.828), (1.0, 1.5, 2.25), (1.0, 2.0))),
        "scale_extent": Choice((1, 2, 3)),
        "projection": Choice(("max", "mean")),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = ScaleGroupNetwork(
            config.scales,
            config.scale_extent,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            config.projection,
            task.padding_mode,
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
