"""Relaxed group convolution for translation: filter banks mixed with weights for each pixel."""

import math
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolutional_network, convolve, require_grid
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.relaxation import PENALTIES, FilterBanks, RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


class RelaxedConv2d(RelaxedLayer):
    """[f ~* psi](x) = b + sum_l w_l(x) sum_y f(x + y) psi_l(y), w: {1..L} x H x W -> R, shared by all channels.

    w = 1 / L + d with d = 0 at the start, so the layer starts as the convolution with the mean of the banks, of the
    deviation that any convolution has here. The banks start with different random numbers, so their d have different
    gradients.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        banks: int,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.periodic = padding_mode == "circular"
        filters = torch.empty(banks * channels_out, channels_in, kernel_size, kernel_size)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(filters, nonlinearity="linear") * math.sqrt(banks))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.banks = FilterBanks(banks, grid, True)

    @property
    def w(self) -> Tensor:
        """(L, H, W): weight of each bank at each pixel that is written."""
        return self.banks.weights()

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W). ValueError if x is not on the grid of w."""
        weights = self.w
        require_grid(x, weights.shape[1:], "w has a number for each pixel of")
        # One convolution for all banks takes half the time of one for each.
        convolved = convolve(x, self.weight, None, self.padding, self.periodic)
        mixed = self.bias[:, None, None]
        for bank, w in zip(convolved.unflatten(1, (len(weights), -1)).unbind(1), weights, strict=True):
            mixed = torch.addcmul(mixed, bank, w)
        return mixed

    def roughness(self) -> Tensor:
        """Mean of |w_l(x) - w_l(x')| over neighbouring pixels along both axes."""
        return roughness(self.w, (1, 2), self.periodic)

    def size(self) -> float:
        """Mean |w| without the deviation."""
        return self.banks.constant


class RelaxedGroupTranslation(RelaxedBaseline):
    """The ConvNet with `banks` filters in place of one, mixed by a weight w_l(x) for each bank and pixel.

    It starts equivariant, with w constant over the pixels. The penalty on leaving the symmetry is alpha x the sum over
    layers of mean |w_l(x) - w_l(x')| over neighbouring pixels, relative to the mean |w| (Wang, Walters, Yu 2022,
    section 4.1). As in the published code, w belongs to the pixel at the centre of the filter, and not, as in the
    paper's sum over h, to the pixel that is read. Different from that code: the bias is not multiplied by w, the
    initial convolution is not smaller by sqrt(L), alpha enters linearly, and a periodic box has no seam. The weights
    belong to one grid, because of w.
    """

    class Config(NormConfig):
        """`hidden` is the number of channels, `banks` is L; `penalty` is alpha."""

        hidden: PositiveInt = 128
        layers: PositiveInt = 5
        banks: PositiveInt = 2
        kernel_size: KernelSize = 3
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    version = 3
    symmetries = ("translation",)
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3, 4)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        layer = partial(RelaxedConv2d, (task.height, task.width), config.banks)
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, layer, config.norm)
