"""Plain convolutional network, equivariant under translation alone."""

from typing import ClassVar

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, FramesAsChannels, SearchSpace, Task
from benchmark.models.layers.convolutions import convolutional_network
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.sizes import KernelSize


class ConvNet(FramesAsChannels):
    """v_0 = x, v_{l+1} = relu(K_l * v_l + b_l), y = K_L * v_{L-1} + b_L, with L = `layers`.

    (B, T, C, H, W) -> (B, C, H, W), any grid. `norm: batch` is that of the
    published code.
    """

    class Config(NormConfig):
        """`hidden` is the number of channels."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3

    family = "cnn"
    version = 2
    symmetries = ("translation",)
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 5, the CNN of the comparison"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128, 256)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, norm=config.norm)
