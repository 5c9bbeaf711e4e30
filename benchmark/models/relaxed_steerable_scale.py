"""Relaxed steerable CNN for scale: each position of the kernel has its own coefficients."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.relaxation import RelaxedBaseline
from benchmark.models.layers.scale import Projection, ScaleNetwork, Scales
from benchmark.models.layers.sizes import KernelSize


class RelaxedSteerableScale(RelaxedBaseline):
    """The network of `sesn` with K_s(y) = s^-2 sum_l w_l(y) Phi_l(y / s), w: K^2 -> R^{c_out x c_in x L}.

    y counts cells and not multiples of s, so that a w that varies lets each scale have a filter of its own. It starts
    equivariant, w being constant over y, and leaves the symmetry as far as the data pull and the penalty allows: alpha
    x the sum over layers of mean |w(y) - w(y')| over neighbouring y, y' (Wang, Walters, Yu 2022, section 4.2).
    Different from the published code, besides what `sesn` says: neighbours lie along the axes of the kernel (there
    along one diagonal, its opposite ends being neighbours), alpha enters linearly and on every device, the start is not
    random, and L is K^2 (there 49 functions on 25 positions).
    """

    class Config(Frozen):
        """`hidden` counts functions on scales; `kernel_size` is that at scale 1; `penalty` is alpha."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        kernel_size: Annotated[KernelSize, Field(ge=3)] = 5
        scales: Scales = (1.0, 1.5, 2.0, 2.5)
        projection: Projection = "max"
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("scale", "translation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.2"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.5, 2.0, 2.5), (1.0, 1.4, 2.0, 2.8))),
        "projection": Choice(("max", "mean")),
        "penalty": LogUniform(1e-8, 1e-3),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.network = ScaleNetwork(
            config.scales,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            config.projection,
            relaxed=True,
            padding_mode=task.padding_mode,
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
