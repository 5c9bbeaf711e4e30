"""Residual pathway prior for translation: a convolution, and a free linear map of the whole field."""

import math
from functools import partial
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolution, convolutional_network, require_grid
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.residual_pathway import ResidualPathwayBaseline, ResidualPathwayLayer, squared_norm
from benchmark.models.layers.sizes import KernelSize

FREE_START = 1e-3
"""Initial deviation of the free path, relative to the convolution."""


class LowRankPathway(ResidualPathwayLayer):
    """y = K * x + b + U V^T x + c: V in R^{I H W x r}, U in R^{O H W x r}, c in R^{O H W}, x and y read as vectors.

    Neither U nor V starts at zero, since the other one would get no gradient. They start such that V^T x has the
    deviation of x, and the free path FREE_START of that of the convolution. c starts at zero.

    U and V are `u` / sqrt(r) and `v` / sqrt(I H W), scaled by their fan-in: Adam moves each number by about the
    learning rate in a step, and all numbers that one output reads can move it the same way. A V of its own would then
    change V^T x by a hundred times x, as I H W is about 10^5.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        rank: int,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.grid = grid
        self.equivariant = convolution(channels_in, channels_out, kernel_size, padding_mode)
        numbers_in, numbers_out = channels_in * math.prod(grid), channels_out * math.prod(grid)
        self.v = nn.Parameter(torch.randn(rank, numbers_in))
        self.u = nn.Parameter(torch.randn(numbers_out, rank) * FREE_START)
        self.u_scale, self.v_scale = rank**-0.5, numbers_in**-0.5
        self.c = nn.Parameter(torch.zeros(numbers_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W). ValueError if x is not on the grid of U and V."""
        require_grid(x, self.grid, "the free path maps the whole of")
        inner = F.linear(x.flatten(1), self.v) * (self.u_scale * self.v_scale)
        free = F.linear(inner, self.u, self.c)
        return self.equivariant(x) + free.unflatten(1, (-1, *self.grid))

    def own_deviations(self) -> tuple[nn.Parameter, ...]:
        """U and c, without which the free path is zero. V is a basis of the fields that the path reads."""
        return self.u, self.c

    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """|K|^2 and |W|^2 = |U V^T|^2 + |c|^2, with |U V^T|^2 as the trace of (U^T U) (V^T V), both r x r."""
        product = (self.u_scale * self.v_scale) ** 2 * ((self.u.T @ self.u) * (self.v @ self.v.T)).sum()
        return squared_norm([self.equivariant.weight]), product + squared_norm([self.c])


class RPPTranslation(ResidualPathwayBaseline):
    """The ConvNet with a free map of the whole field beside each convolution: y = K * x + b + W x + c, W = U V^T.

    The penalty is lambda_K |K|^2 + lambda_W |W, c|^2, from Gaussian priors on both paths (Finzi, Benton, Wilson 2021;
    `layers/residual_pathway.py`). W is any matrix there; here its rank is at most `rank`, as in the published code of
    Wang, Walters, Yu 2022. The prior is on W and not on its factors: |U|^2 + |V|^2 would be a nuclear norm, which keeps
    small singular values at zero. The free path starts at 1e-3 of the other, as in Finzi's equivariant perceptrons, so
    the network starts nearly as the ConvNet.

    The default lambdas are those of the authors' regression code, see `rpp_rotation`. Different from the code of Wang,
    Walters, Yu: there no such penalty exists, the free path starts like any linear layers, one more bias is between V
    and U, and batch normalisation follows.

    The cost is r H W (I + O) + H W O parameters for each layer beside the convolution: 37.0 M in all for the default on
    64 x 64 with 10 frames, and four times that with gradients and Adam. A step is bound by memory, since each parameter
    is used for a few windows only: on one core 4 to 8 times the ConvNet's time for batches of 8 to 4 windows. The
    weights belong to one grid.
    """

    class Config(NormConfig):
        """`hidden` is the number of channels, `rank` is r; the penalties are lambda_K and lambda_W."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        rank: PositiveInt = 32
        equivariant_penalty: Annotated[float, Field(ge=0)] = 1e-6
        free_penalty: Annotated[float, Field(ge=0)] = 1e-6

    family = "approximate"
    version = 3
    symmetries = ("translation",)
    source = "Finzi, Benton, Wilson 2021 (arXiv 2112.01388); Wang, Walters, Yu 2022, section 5, RPP"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "rank": Choice((8, 16, 32)),
        "equivariant_penalty": LogUniform(1e-7, 1e-3),
        "free_penalty": LogUniform(1e-6, 1e0),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        layer = partial(LowRankPathway, (task.height, task.width), config.rank)
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, layer, config.norm)
