"""Combo for rotation: free convolutions first, equivariant ones after them."""

from typing import ClassVar, Literal

from torch import nn

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, FramesAsChannels, SearchSpace, Task
from benchmark.models.layers.convolutions import convolutions
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import SteerableConfig, steerable_network


class ComboRotation(FramesAsChannels):
    """The network of `e2cnn` with its first `free_layers` convolutions free: f = f_equivariant o f_free.

    f_free: (B, T 2, H, W) -> (B, `hidden` N, H, W) learns features in which the dynamics may be equivariant, and
    f_equivariant reads them as `hidden` regular fields of C_N, whether they turn as such or not (Wang, Walters, Yu
    2022, section 5, Combo). Different from the published code: `norm: batch` is no default, and the equivariant layers
    are the last ones of `e2cnn`, with its small start.
    """

    class Config(NormConfig):
        """`hidden` counts regular fields, each of `order` channels; the free layers have as many channels."""

        hidden: PositiveInt = 32
        order: Literal[4, 8] = 4
        free_layers: PositiveInt = 2
        equivariant_layers: PositiveInt = 3
        kernel_size: KernelSize = 3

    family = "approximate"
    version = 2
    symmetries = ("rotation", "translation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 5, Combo"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "order": Choice((4, 8)),
        "free_layers": Choice((1, 2, 3)),
        "equivariant_layers": Choice((2, 3, 4)),
        "kernel_size": Choice((3, 5)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        widths = [task.input_frames * task.channels] + [config.hidden * config.order] * config.free_layers
        free = convolutions(widths, config.kernel_size, task.padding_mode, norm=config.norm)
        sizes = SteerableConfig(
            hidden=config.hidden,
            order=config.order,
            layers=config.free_layers + config.equivariant_layers,
            kernel_size=config.kernel_size,
            norm=config.norm,
        )
        self.network = nn.Sequential(*free, *list(steerable_network(sizes, task))[len(free) :])
