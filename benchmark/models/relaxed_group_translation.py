"""Relaxed group convolution for translation: each pixel mixes the filter banks in its own way."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolutional_network, convolve, require_grid
from benchmark.models.layers.relaxation import RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


class RelaxedConv2d(RelaxedLayer):
    """[f ~* psi](x) = b + sum_l w_l(x) sum_y f(x + y) psi_l(y), w: {1..L} x H x W -> R, shared by all channels.

    w starts constant, so the layer starts as the convolution with w sum_l psi_l; w = 1 / sqrt(L) gives that filter the
    deviation of any one bank, which is torch's own for a convolution. The banks start different, each from its own
    numbers, and so do their w at the first gradient, dE/dw_l(x) being the product of dE/df(x) with what psi_l sees.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        banks: int,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        padding: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.padding = padding
        self.periodic = padding_mode == "circular"
        self.filters = nn.Parameter(torch.empty(banks * channels_out, channels_in, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.filters, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.w = nn.Parameter(torch.full((banks, *grid), banks**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W). ValueError: another grid than that of w."""
        require_grid(x, self.w.shape[1:], "w has a number for each pixel of")
        # One convolution for all banks: half the time of one for each, stacked.
        seen = convolve(x, self.filters, None, self.padding, self.periodic)
        mixed = self.bias[:, None, None]
        for bank, w in zip(seen.unflatten(1, (len(self.w), -1)).unbind(1), self.w, strict=True):
            mixed = torch.addcmul(mixed, bank, w)
        return mixed

    def roughness(self) -> Tensor:
        """mean |w_l(x) - w_l(x')| over neighbouring pixels along both axes: 0 if and only if w is constant.

        In a periodic box the last pixel of an axis and the first are neighbours, too.
        """
        return roughness(self.w, (1, 2), self.periodic)


class RelaxedGroupTranslation(RelaxedBaseline):
    """The ConvNet with `banks` filters in place of one, mixed by a weight w_l(x) for each bank and pixel.

    It starts equivariant, w being constant over the pixels, and leaves the symmetry as far as the data pull and the
    penalty allows: alpha x the sum over layers of mean |w_l(x) - w_l(x')| over neighbouring pixels (Wang, Walters, Yu
    2022, section 4.1). As in the published code, w belongs to the pixel that the filter is centred on, and not, as in
    the paper's sum over h, to the one that it reads. Different from that code: the bias is not multiplied by w, the
    convolution at the start is not smaller by sqrt(L), alpha enters linearly, and a periodic box has no seam.

    w makes the weights belong to one grid: the network cannot be applied to any other, its own turned by 90 degrees
    included.
    """

    class Config(Frozen):
        """`hidden` is the number of channels, `banks` is L; `penalty` is alpha."""

        hidden: PositiveInt = 128
        layers: PositiveInt = 5
        banks: PositiveInt = 2
        kernel_size: KernelSize = 3
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("translation",)
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3, 4)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(1e-7, 1e-3),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        layer = partial(RelaxedConv2d, (task.height, task.width), config.banks)
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, layer)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W). ValueError: another grid than the task's."""
        return self.network(x_BTCHW.flatten(1, 2))
