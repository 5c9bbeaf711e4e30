"""Partial group convolutional network: each layer learns which of the turns it keeps."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.group_rotation import Fields, RotationGroupConv2d, group_network
from benchmark.models.layers.sizes import KernelSize


class Density(nn.Module):
    """Logits -> the density of a distribution over the turns, N softmax(logits): of mean 1, and exactly 1 if equal."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.shape[-1] * logits.softmax(-1)

    def right_inverse(self, p: Tensor) -> Tensor:
        return p.log()


class PartialGCNN(Baseline):
    """T velocities -> `hidden` functions on Z^2 x C4, `layers` deep -> one velocity, each function on a part of C4.

    f_(n+1)(x, g) = p_(n+1)(g) ReLU(b + sum_h sum_y f_n(x + y, h) psi(R_g^-1 y, h - g)), with p_n the density of a
    distribution over the turns that layer n keeps, against the uniform one; the last layer projects all that is left to
    a velocity. At the start p = 1, and the network is the strict group convolutional one. p is folded into the filter
    that reads f_n, and costs nothing.

    Romero, Lohit 2022 draw the turns of each layer, those of a finite group one by one, each with a probability of its
    own and a straight-through Gumbel estimator. Here the sum over the turns that were drawn is replaced by its mean
    (mean field: exact in the sum over h, not in the ReLU after it), so that forecasts are not random, and two ranks
    train as one process. Each layer thereby is a relaxed group convolution (see `relaxed_group_rotation`) with one
    bank, w(h) being a density. Also different: of all turns none is certain to be kept, where theirs keeps the unit of
    the group, and p has mean 1 instead, since a factor common to all turns belongs to the filter; the lifting layer has
    a p, too, where theirs keeps all turns; filters are weights on the grid and not networks of the coordinates.

    The penalty is on turns that come back, coefficient x the sum of ReLU(p_(n+1)(g) - p_n(g)) over layers and turns, an
    option of their code: what a layer has dropped, the next one cannot restore.
    """

    class Config(Frozen):
        """`hidden` counts functions on the group, each of 4 channels. With 226 it has 5.6 M parameters."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "Romero, Lohit 2022 (arXiv 2110.10211)"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(1e-6, 1e-2),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty

        def layer(before: Fields, after: Fields) -> RotationGroupConv2d:
            partial = before[0] == "regular"  # a velocity has no turns to choose from
            one = RotationGroupConv2d(before, after, config.kernel_size, 1, partial, task.padding_mode)
            if partial:
                register_parametrization(one.build, "w", Density())
            return one

        self.network = group_network(task.input_frames, config.hidden, config.layers, layer)

    def densities(self) -> list[Tensor]:
        """p (1, N) of each layer but the last, as the next one reads it."""
        readers = [module for module in self.network if isinstance(module, RotationGroupConv2d)][1:]
        return [reader.w for reader in readers]

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))

    def penalty(self) -> Tensor:
        """coefficient x the sum of ReLU(p_(n+1)(g) - p_n(g)) over layers and turns."""
        p = self.densities()
        if self.coefficient == 0 or len(p) < 2:
            return super().penalty()
        return self.coefficient * torch.cat(p).diff(dim=0).relu().sum()
