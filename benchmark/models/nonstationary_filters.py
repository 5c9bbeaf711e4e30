"""Non-stationary continuous filters: a small network generates each filter, and reads the absolute turn."""

import math
from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveFloat, PositiveInt
from benchmark.models.baseline import Choice, FramesAsChannels, LogUniform, SearchSpace, Task
from benchmark.models.layers.fields import Field, Fields, field_network
from benchmark.models.layers.group_rotation import ORDER, GroupConv2d, group_filter
from benchmark.models.layers.relaxation import full_precision
from benchmark.models.layers.sizes import KernelSize


class ContinuousFilter(nn.Module):
    """V (O, I, M) -> filter (O a, I b, K, K), F[g, h](y) = k_g(R_g^-1 y, h - g) with

    k_g(r, s) = V sin(W phi + c) / M, phi = sin(A (r, cos s, sin s) + omega B (cos g, sin g) + b).

    r in cells, s and g as angles. A, B and the phases b are fixed random Fourier features: A normal with deviation
    `frequency`, B with deviation 1. omega alone sets how far the filter depends on the absolute turn g. At omega = 0,
    the start, this is a group convolution. V is the last layer of the network, W the hidden one. The mean over the M
    sines, in place of their sum, lets a step of Adam move a filter by at most the learning rate, as that of a plain
    convolution; with the sum, the first step changed it by more than itself, and training diverged.
    """

    relative: Tensor
    absolute: Tensor
    phases: Tensor

    def __init__(self, field_in: Field, field_out: Field, kernel_size: int, hidden: int, frequency: float) -> None:
        super().__init__()
        self.fields, self.kernel_size = (field_in, field_out), kernel_size
        turns = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # cos and sin, exactly
        axis = torch.arange(kernel_size) - float(kernel_size // 2)
        cells = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        each = ORDER, kernel_size, kernel_size, 2
        coordinates = torch.cat((cells.expand(each), turns[:, None, None].expand(each)), -1)
        self.register_buffer("relative", coordinates.flatten(0, 2) @ (frequency * torch.randn(4, hidden)))
        self.register_buffer("absolute", turns @ torch.randn(2, hidden))
        self.register_buffer("phases", 2 * math.pi * torch.rand(hidden))
        self.omega = nn.Parameter(torch.zeros(()))
        self.weight = nn.Parameter(torch.randn(hidden, hidden) * math.sqrt(2 / hidden))  # W phi of deviation 1
        self.bias = nn.Parameter(torch.zeros(hidden))

    def features(self) -> Tensor:
        """Features sin(W phi + c) / M, (g, s K K, M)."""
        phi = torch.sin(self.relative + self.phases + self.omega * self.absolute[:, None])
        return torch.sin(phi @ self.weight.T + self.bias) / len(self.bias)

    def deviation(self, many_in: int) -> float:
        """Initial deviation of V with which filters have the variance 1 / fan-in, as those of e2cnn."""
        with torch.no_grad():
            mean_square = self.features()[0].square().sum(-1).mean().item()
        return math.sqrt(1 / (many_in * len(self.relative)) / mean_square)

    def forward(self, last: Tensor) -> Tensor:
        with full_precision(last):  # autocast would round a small omega away
            values = last @ self.features().flatten(0, 1).T
        size = ORDER, ORDER, self.kernel_size, self.kernel_size
        return group_filter(values.unflatten(-1, size).unbind(2), *self.fields)


class NonstationaryFilters(FramesAsChannels):
    """T velocities -> `hidden` functions on Z^2 x C4, `layers` deep -> one velocity, by non-stationary filters.

    [f * k](x, g) = sum_h sum_y f(x + y, h) k(R_g^-1 y, h - g, omega g): the filter is a function of the relative
    position and turn, and of the absolute turn g with the frequency omega of the layer. Training starts at omega = 0,
    where the filter is stationary, the layer is a group convolution, and the gradient of omega does not vanish. k is a
    coordinate network with sines (Sitzmann et al. 2020, arXiv 2006.09661), with one output for each pair of channels;
    see ContinuousFilter. The penalty is coefficient x the sum of omega^2 over the layers.

    Different from van der Ouderaa, Romero, van der Wilk 2022, who classify images: only the turns of C4 are relaxed,
    and filters are stationary in translation; the other limit of a layer, invariance, is left out; omega starts at 0
    and not at a chosen value, and has a penalty; there is no batch normalisation.

    Filters are generated once for each step of the optimiser, and then each layer is one convolution.
    """

    class Config(Frozen):
        """`hidden` counts functions on the group, each of 4 channels; `filter_hidden` is the width of k.

        `frequency` is the deviation of the frequencies of k, in radians a cell: at 2 the values of a filter are nearly
        independent, and below 1 filters are smooth. With 240 functions it has 5.6 M parameters.
        """

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        filter_hidden: PositiveInt = 32
        frequency: PositiveFloat = 2.0
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0

    family = "approximate"
    version = 3
    symmetries = ("rotation", "translation")
    needs_velocity = True
    source = "van der Ouderaa, Romero, van der Wilk 2022 (arXiv 2204.07178)"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5, 7)),
        "filter_hidden": Choice((16, 32, 64)),
        "frequency": LogUniform(1.5, 4.0),
        "penalty": LogUniform(1e-6, 1e-2),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty

        def layer(before: Fields, after: Fields) -> GroupConv2d:
            (field_in, many_in), (field_out, many_out) = before, after
            expand = ContinuousFilter(field_in, field_out, config.kernel_size, config.filter_hidden, config.frequency)
            last = torch.randn(many_out, many_in, config.filter_hidden) * expand.deviation(many_in)
            return GroupConv2d(before, after, config.kernel_size, last, expand, task.padding_mode)

        self.network = field_network(task, config.hidden, config.layers, layer)

    def deviations(self) -> list[nn.Parameter]:
        """omega of each layer."""
        return [module.omega for module in self.network.modules() if isinstance(module, ContinuousFilter)]

    def penalty(self) -> Tensor:
        """Coefficient x the sum of omega^2 over the layers."""
        if self.coefficient == 0:
            return super().penalty()
        return self.coefficient * torch.stack([omega.square() for omega in self.deviations()]).sum()
