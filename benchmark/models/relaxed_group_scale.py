"""Relaxed group convolution for scale: each scale of the features is read with weights of its own."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.group_scale import GeometricScales, ScaleGroupConv2d, ScaleGroupNetwork
from benchmark.models.layers.relaxation import RelaxedBaseline
from benchmark.models.layers.scale import Projection
from benchmark.models.layers.sizes import KernelSize


class RelaxedGroupScale(RelaxedBaseline):
    """The network of `group_scale` with L filter banks psi_l, and one number w_l(s) for each bank and scale.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), h a scale and a cell, w_l(h) depending on the scale alone. It
    starts equivariant, w being constant, and leaves the symmetry as far as the data pull and the penalty allows: alpha
    x the sum over layers of mean |w_l(s) - w_l(s')| over neighbouring scales (Wang, Walters, Yu 2022, section 4.1). w
    is mixed into the filters: it costs what `group_scale` does.

    The published code differs, besides what `group_scale` says: there w belongs to the scale that is written, and not
    to the one that is read, as in the paper, and starts at 1 / L, so that the layer starts smaller by sqrt(L).
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
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("scale", "translation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3, 4)),
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
            partial(ScaleGroupConv2d, banks=config.banks, relaxed=True),
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
