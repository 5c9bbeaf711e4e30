"""Constrained locally connected network: filters for each pixel, and a penalty on their differences."""

from functools import partial
from itertools import product
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolution, convolutional_network, convolve, require_grid
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.relaxation import PENALTIES, RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


class LocallyConnected2d(RelaxedLayer):
    """f(x) = b + sum_y W(x, y) f_in(x + y), W = K + D: K one convolution's filter, D: (H, W) -> R^{O x I x K x K}.

    D is zero at the start. A number of D is used once for each window, so the matrix product at a pixel is the only
    reuse.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        one = convolution(channels_in, channels_out, kernel_size, padding_mode)
        assert one.bias is not None
        self.kernel_size = kernel_size
        self.periodic = padding_mode == "circular"
        self.weight = nn.Parameter(one.weight.detach().permute(0, 2, 3, 1).flatten(1))  # (O, K K I)
        self.deviation = nn.Parameter(torch.zeros(*grid, *self.weight.shape))  # (H, W, O, K K I)
        self.bias = nn.Parameter(one.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W). ValueError if x is not on the grid of the filters."""
        height, width = self.deviation.shape[:2]
        require_grid(x, (height, width), "there is a filter for each pixel of")
        padded = F.pad(x, 4 * [self.kernel_size // 2], "circular" if self.periodic else "constant")
        padded = padded.permute(2, 3, 1, 0).contiguous()  # twice as fast as F.unfold, whose pixels come last
        positions = product(range(self.kernel_size), repeat=2)
        patches = torch.cat([padded[i : i + height, j : j + width] for i, j in positions], dim=2)  # (H, W, K K I, B)
        size = self.kernel_size
        shared = self.weight.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)  # (O, I, K, K)
        return (self.deviation @ patches).permute(3, 2, 0, 1) + convolve(x, shared, self.bias, size // 2, self.periodic)

    def roughness(self) -> Tensor:
        """Mean of |W(x) - W(x')| over neighbouring pixels along both axes."""
        return roughness(self.deviation, (0, 1), self.periodic)

    def size(self) -> Tensor:
        """Mean |K|."""
        return self.weight.abs().mean()


class CLCNN(RelaxedBaseline):
    """The ConvNet with filters W(x, y) of their own at each pixel x.

    It starts as the ConvNet, with W the same at all pixels. The penalty on leaving the symmetry is alpha x the sum over
    layers of mean |W(x) - W(x')| over neighbouring pixels, relative to the mean |K| (Wang, Walters, Yu 2022, section 5,
    CLCNN). Different from the published code: there each pixel's filters start at random, the bias is never added, ELU
    replaces ReLU, and the penalty is twice as large.

    The cost is H W times the filters of the ConvNet, in memory as in parameters: on 64 x 64 with 10 frames, 13.6 M of
    them for 8 channels and 41.3 M for 16, and four times that with gradients and Adam. A step is bound by memory, since
    a filter is read once for each window: the penalty, which reads all filters again, makes a step of two windows 2.1
    times as long as its matrix products. The weights belong to one grid.
    """

    class Config(NormConfig):
        """`hidden` is the number of channels; `penalty` is alpha."""

        hidden: PositiveInt = 8
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        penalty: Annotated[float, Field(ge=0)] = 0.05

    family = "approximate"
    version = 3
    symmetries = ("translation",)
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 5, CLCNN"
    differs = "Translation alone is constrained, also where a suite compares rotation."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((4, 8, 16)),
        "layers": Choice((3, 5)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        layer = partial(LocallyConnected2d, (task.height, task.width))
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, layer, config.norm)
