"""Residual pathway priors: a free path beside each equivariant path, and a penalty on the weights of both.

Gaussian priors on the weights K of the equivariant paths and W of the free paths, with the wider prior on K, give the
penalty lambda_K |K|^2 + lambda_W |W|^2. lambda is the inverse of a prior's variance up to a common factor (Finzi,
Benton, Wilson 2021, arXiv 2112.01388).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.models.baseline import FramesAsChannels, Task
from benchmark.models.layers.relaxation import Deviating, layer_deviations
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.layers.steerable import SteerableConv2d


class ResidualPathwayLayer(Deviating, ABC):
    """Layer with an equivariant path and a free path, which is the deviation."""

    @abstractmethod
    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """|K|^2 and |W|^2, which the two priors weigh."""


class ResidualPathwayBaseline(FramesAsChannels):
    """Baseline with a penalty on the weights of both paths, with lambda_K and lambda_W from its Config."""

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.equivariant_coefficient: float = config.equivariant_penalty
        self.free_coefficient: float = config.free_penalty

    def deviations(self) -> list[nn.Parameter]:
        """Parameters of the free paths."""
        return layer_deviations(self)

    def penalty(self) -> Tensor:
        """lambda_K |K|^2 + lambda_W |W|^2, summed over the layers."""
        norms = [layer.squared_norms() for layer in self.modules() if isinstance(layer, ResidualPathwayLayer)]
        equivariant, free = (torch.stack(path).sum() for path in zip(*norms, strict=True))
        return self.equivariant_coefficient * equivariant + self.free_coefficient * free


class SummedPathways(ResidualPathwayLayer):
    """y = (K + W) * x + b: K the filters of a steerable convolution, W those of a free one, which start at zero.

    Both paths are linear, so their sum is one convolution. `free` has a `weight` of the shape of K, and a `bias`.
    """

    def __init__(self, equivariant: SteerableConv2d | ScaleConv2d, free: nn.Module) -> None:
        super().__init__()
        self.equivariant = equivariant
        self.free = free
        for parameter in free.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        free = dict(self.free.named_parameters())
        both = {"weight": free["weight"] + self.equivariant.weight}
        if self.equivariant.bias is not None:
            both["bias"] = free["bias"] + self.equivariant.bias
        return functional_call(self.free, both, (x,))

    def own_deviations(self) -> list[nn.Parameter]:
        """Parameters of the free path."""
        return list(self.free.parameters())

    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """|w|^2, with w the coefficients of K, and |W, b|^2, with b the free bias."""
        return squared_norm([self.equivariant.coefficients]), squared_norm(self.free.parameters())


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Sum of the squares of all numbers in `parameters`."""
    return torch.stack([parameter.square().sum() for parameter in parameters]).sum()
