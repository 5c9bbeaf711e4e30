"""Combo for scale: free convolutions first, equivariant ones after them."""

from typing import ClassVar

from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.convolutions import convolutions
from benchmark.models.layers.scale import Projection, ScaleConfig, Scales, steerable_scale_network
from benchmark.models.layers.sizes import KernelSize


class ComboScale(Baseline):
    """The network of `sesn` with its first `free_layers` convolutions free: f = f_equivariant o f_free.

    f_free: (B, T 2, H, W) -> (B, `hidden` S, H, W) learns features in which the dynamics may be equivariant, and
    f_equivariant reads them as `hidden` functions on the S scales, whether they scale as such or not (Wang, Walters, Yu
    2022, section 5, Combo). Different from the published code, beside the differences of `sesn`: there f_free ends
    without an activation in fields without scales, which f_equivariant lifts; here the equivariant layers are the last
    ones of `sesn`, with its small start.
    """

    class Config(Frozen):
        """`hidden` counts functions on scales, each of `len(scales)` channels; the free layers have as many channels.

        `kernel_size` is the size in the free layers, and in the others at scale 1.
        """

        hidden: PositiveInt = 64
        free_layers: PositiveInt = 2
        equivariant_layers: PositiveInt = 3
        kernel_size: KernelSize = 5
        scales: Scales = (1.0, 1.5, 2.0, 2.5)
        projection: Projection = "max"

    family = "approximate"
    version = 2
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 5, Combo"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "free_layers": Choice((1, 2, 3)),
        "equivariant_layers": Choice((2, 3, 4)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.5, 2.0, 2.5), (1.0, 1.4, 2.0, 2.8))),
        "projection": Choice(("max", "mean")),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.scales = len(config.scales)
        widths = [task.input_frames * task.channels] + [config.hidden * self.scales] * config.free_layers
        self.free = nn.Sequential(*convolutions(widths, config.kernel_size, task.padding_mode))
        sizes = ScaleConfig(
            hidden=config.hidden,
            layers=config.free_layers + config.equivariant_layers,
            kernel_size=config.kernel_size,
            scales=config.scales,
            projection=config.projection,
        )
        self.equivariant = steerable_scale_network(sizes, task)
        del self.equivariant.layers[: config.free_layers]

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        features = self.free(x_BTCHW.flatten(1, 2)).unflatten(1, (-1, self.scales))
        return self.equivariant.after(features.movedim(2, 0), 0)
