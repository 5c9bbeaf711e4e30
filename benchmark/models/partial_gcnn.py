"""Partial group convolutional network: each layer learns a distribution over the turns that it keeps."""

from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, FramesAsChannels, LogUniform, SearchSpace, Task
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import RotationGroupConv2d
from benchmark.models.layers.sizes import KernelSize


class Density(nn.Module):
    """Logits -> p - 1, with p = N softmax(logits) a density over the turns: of mean 1, and exactly 1 if uniform."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.shape[-1] * logits.softmax(-1) - 1

    def right_inverse(self, deviation: Tensor) -> Tensor:
        return deviation.log1p()


class PartialGCNN(FramesAsChannels):
    """T velocities -> `hidden` functions on Z^2 x C4, `layers` deep -> one velocity, each function on a part of C4.

    f_(n+1)(x, g) = p_(n+1)(g) ReLU(b + sum_h sum_y f_n(x + y, h) psi(R_g^-1 y, h - g)), with p_n the density, relative
    to the uniform one, of a distribution over the turns that layer n keeps. The last layer projects to a velocity. At
    the start p = 1, and the network is the strict group convolutional one. p is folded into the filter that reads f_n,
    at no cost.

    Romero, Lohit 2022 sample the turns of each layer, one by one for a finite group, with a straight-through Gumbel
    estimator. Here the sum over the sampled turns is replaced by its mean (mean field: exact in the sum over h, not in
    the ReLU after it), so that forecasts are deterministic and two ranks train as one process. Each layer is then a
    relaxed group convolution (see `relaxed_group_rotation`) with one bank and a density w(h). Also different: p has
    mean 1, since a factor common to all turns belongs to the filter, where theirs always keeps the unit of the group;
    the lifting layer has a p, too, where theirs keeps all turns; filters are weights on the grid and not networks of
    the coordinates.

    The penalty is coefficient x the sum of ReLU(p_(n+1)(g) - p_n(g)) over layers and turns, an option of their code: a
    layer cannot restore a turn that an earlier layer has dropped.
    """

    class Config(Frozen):
        """`hidden` counts functions on the group, each of 4 channels. With 226 it has 5.6 M parameters."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0

    family = "approximate"
    version = 2
    symmetries = ("rotation", "translation")
    needs_velocity = True
    source = "Romero, Lohit 2022 (arXiv 2110.10211)"
    differs = "A mean over the turns replaces the sampling of turns in each layer."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(1e-6, 1e-2),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty

        def layer(before: Fields, after: Fields) -> RotationGroupConv2d:
            partial = before[0] == "regular"  # a velocity has no turns
            one = RotationGroupConv2d(before, after, config.kernel_size, 1, partial, task.padding_mode)
            if partial:
                register_parametrization(one.expansion, "deviation", Density())
            return one

        self.network = field_network(task, config.hidden, config.layers, layer)

    def densities(self) -> list[Tensor]:
        """Densities p (1, N) of each layer but the last, as the next layer reads them."""
        readers = [module for module in self.network if isinstance(module, RotationGroupConv2d)][1:]
        return [reader.w for reader in readers]

    def deviations(self) -> list[nn.Parameter]:
        """Logits of the densities."""
        logits = "parametrizations.deviation.original"
        return [module.get_parameter(logits) for module in self.modules() if is_parametrized(module, "deviation")]

    def penalty(self) -> Tensor:
        """Coefficient x the sum of ReLU(p_(n+1)(g) - p_n(g)) over layers and turns."""
        p = self.densities()
        if self.coefficient == 0 or len(p) < 2:
            return super().penalty()
        return self.coefficient * torch.cat(p).diff(dim=0).relu().sum()
