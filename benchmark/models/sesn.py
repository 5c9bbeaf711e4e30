"""Scale-equivariant steerable network: equivariant under scalings, up to the grid, and under translations."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.scale import Projection, ScaleNetwork, Scales
from benchmark.models.layers.sizes import KernelSize


class SESN(Baseline):
    """T velocity fields -> `hidden` functions on scales, `layers` deep -> one velocity field.

    K_s(y) = s^-2 sum_l w_l Phi_l(y / s) at each scale s with the same w; see `layers/scale.py`. Different from the code
    published with Wang, Walters, Yu 2022: there the last layer reads the smallest scale alone, and no layer mixes them,
    so that the three others do not reach the output; filters are cut to 3 x 3 cells at scales 1 and 1.5, to 5 x 5 at 2
    and 2.5 (here K s: 5 x 5 at scale 1, 13 x 13 at 2.5), and spanned by 49 functions; the velocity is a scalar there.
    Here lifting divides by the scale, projecting multiplies by it, and what comes out is the largest over the scales.
    """

    class Config(Frozen):
        """`hidden` counts functions on scales, each of `len(scales)` channels; `kernel_size` is that at scale 1."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        kernel_size: KernelSize = 5
        scales: Scales = (1.0, 1.5, 2.0, 2.5)
        projection: Projection = "max"

    family = "strict"
    symmetries = ("scale", "translation")
    source = "Sosnovik, Szmaja, Smeulders 2020 (arXiv 1910.11093); Wang, Walters, Yu 2022, section 5"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.5, 2.0, 2.5), (1.0, 1.4, 2.0, 2.8))),
        "projection": Choice(("max", "mean")),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = ScaleNetwork(
            config.scales,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            config.projection,
            relaxed=False,
            padding_mode=task.padding_mode,
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
