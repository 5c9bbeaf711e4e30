"""Residual pathway priors: beside each equivariant path a free one, and a price for the weights of both.

Gaussian priors on the weights K of the equivariant paths and W of the free ones, that of K being the wider one, are the
penalty lambda_K |K|^2 + lambda_W |W|^2, lambda the inverse of a prior's variance up to a common factor (Finzi, Benton,
Wilson 2021, arXiv 2112.01388).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.models.baseline import Baseline
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.layers.steerable import SteerableConv2d


class ResidualPathwayLayer(nn.Module, ABC):
    """A layer with an equivariant path and a free one beside it."""

    @abstractmethod
    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """|K|^2 and |W|^2: what the two priors are on."""


class ResidualPathwayBaseline(Baseline):
    """A baseline that pays for the weights of both paths: lambda_K and lambda_W are its coefficients."""

    equivariant_coefficient: float
    free_coefficient: float

    def penalty(self) -> Tensor:
        """lambda_K |K|^2 + lambda_W |W|^2, summed over the layers."""
        norms = [layer.squared_norms() for layer in self.modules() if isinstance(layer, ResidualPathwayLayer)]
        equivariant, free = (torch.stack(path).sum() for path in zip(*norms, strict=True))
        return self.equivariant_coefficient * equivariant + self.free_coefficient * free


class SummedPathways(ResidualPathwayLayer):
    """y = (K + W) * x + b: K the filters of a steerable convolution, W those of a free one, which start at zero.

    Both paths are linear, so their sum is one convolution with the sum of their filters. |K|^2 is that of the
    coefficients of K; |W|^2 counts the bias of the free convolution, too.
    """

    def __init__(self, equivariant: SteerableConv2d | ScaleConv2d, free: nn.Module) -> None:
        """`free` has a `weight` of the shape of the filters of `equivariant`, and a `bias`."""
        super().__init__()
        self.equivariant = equivariant
        self.free = free
        for parameter in free.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """The shapes of both convolutions."""
        free = dict(self.free.named_parameters())
        both = {"weight": free["weight"] + self.equivariant.weight}
        if self.equivariant.bias is not None:
            both["bias"] = free["bias"] + self.equivariant.bias
        return functional_call(self.free, both, (x,))

    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """|w|^2 and |W, b|^2, w the coefficients of K."""
        return squared_norm([self.equivariant.coefficients]), squared_norm(self.free.parameters())


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The sum of all squares."""
    return torch.stack([parameter.square().sum() for parameter in parameters]).sum()
