"""Recurrent equivariant constraint modulation: the gradients set how free the filter of each layer is."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.models.baseline import FramesAsChannels, LogUniform, SearchSpace, Task
from benchmark.models.layers.free_branch import (
    FreeBranch,
    add_free_branches,
    asymmetric_part,
    equivariant_filters,
    free_branch,
    steerable_layers,
)
from benchmark.models.layers.relaxation import layer_deviations
from benchmark.models.layers.steerable import STEERABLE_SEARCH_SPACE, SteerableConfig, steerable_network

LEAST = 1e-12
"""Smallest lambda: K + lambda W is K to round-off, and the gradient of W still determines that of the filter."""


class Modulation(nn.Module):
    """Recurrent state of a layer, which determines its lambda.

    With F = K + lambda W the layer's filter, G the loss's gradient with respect to it, n a running mean of |G|, and
    N(F) = F - P(F), P the mean over the quarter turns (the Haar average of the group that the grid keeps):

        d = N(F / |F| - G / max(n, |G|))        asymmetric part of the filter that the gradient points to
        h <- (1 - r) h + r d                    v <- (1 - r) v + r |d|^2
        gap = min(1, max(0, |h| - sqrt(v r / (2 - r))))
        lambda <- (1 - r) lambda + r gap

    The square root is the expected |h| if d were noise around zero. gap is a Lipschitz function of the state
    (h, sqrt v). Before each step |W| is clipped to |K| (a max-norm constraint), so that |N(F)| / |F| is below lambda,
    and lambda falls unless the gradient is asymmetric on average. Its limit is the value that the asymmetric part of
    the filter needs: lambda |W| = |N(F)|, |W| <= |K|.
    """

    mean: Tensor
    square: Tensor
    gradient_norm: Tensor

    def __init__(self, filters: Tensor, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros_like(filters))
        self.register_buffer("square", torch.zeros(()))
        self.register_buffer("gradient_norm", torch.zeros(()))

    @torch.no_grad()
    def update(self, branch: FreeBranch, equivariant: Tensor) -> None:
        """Set the branch's lambda and clip its W, from the gradient of W, lambda G; `equivariant` is K."""
        free = branch.filters
        assert free.grad is not None
        gradient = free.grad / branch.strength
        filters = equivariant + branch.strength * free
        norm = gradient.norm()
        self.gradient_norm.lerp_(norm, self.rate)
        least = torch.finfo(norm.dtype).tiny  # a gradient of zero is divided by it
        target = filters / filters.norm() - gradient / self.gradient_norm.maximum(norm).clamp(min=least)
        asymmetric = asymmetric_part(target, branch.fields)
        self.mean.lerp_(asymmetric, self.rate)
        self.square.lerp_(asymmetric.square().sum(), self.rate)
        noise = (self.square * self.rate / (2 - self.rate)).sqrt()
        branch.strength.lerp_((self.mean.norm() - noise).clamp(0, 1), self.rate).clamp_(min=LEAST)
        free.mul_((equivariant.norm() / free.norm().clamp(min=least)).clamp(max=1))


class RECM(FramesAsChannels):
    """`e2cnn` with a free filter in each layer, y = (K + lambda W) * x + b, and lambda set from the gradients.

    For tasks whose broken symmetry, and the layers that need the freedom, are unknown: a layer that sees symmetric data
    returns to lambda = 0, and another keeps as much freedom as it uses, without a schedule or a penalty. The network
    starts as `e2cnn`, with W = 0 and every lambda = 1. lambda is the same in train and eval mode, and belongs to the
    epoch of the selected model.

    From the paper: the equivariant and the free branch with one lambda >= 0 for each layer; a state that is updated
    recursively from the training signal and determines lambda; an update that compares the layer's inputs and targets
    with their group averages, by Lipschitz functions; and the aim that the limit of lambda is bounded by the layer's
    symmetry gap, zero for a symmetric distribution. Not from the paper: the update rule (`Modulation`). Its relation of
    input and target is the filter that the gradient points to, F - s G, because the gradient alone would vanish once W
    has learned the broken symmetry. No bound is proven; tests/benchmark/models/test_recm.py measures it.

    The state needs the memory of one more filter for each layer, beside W. It follows from the averaged gradients, so
    all ranks agree.
    """

    class Config(SteerableConfig):
        """The state remembers about 1 / `rate` steps."""

        rate: Annotated[float, Field(gt=0, lt=1)] = 1e-2

    family = "approximate"
    version = 2
    symmetries = ("rotation", "translation")
    source = "Pertigkiozoglou, Petrache, Trivedi, Daniilidis 2026 (arXiv 2602.02853); the update rule is ours"
    differs = "The rule that updates the state of a layer is ours."
    search_space: ClassVar[SearchSpace] = {**STEERABLE_SEARCH_SPACE, "rate": LogUniform(1e-3, 1e-1)}

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_network(config, task)
        branches = add_free_branches(self.network, strength=1.0, in_evaluation=True)
        self.modulations = nn.ModuleList(Modulation(branch.filters, config.rate) for branch in branches)

    def deviations(self) -> list[nn.Parameter]:
        """W of each layer."""
        return layer_deviations(self)

    def before_step(self, progress: float) -> None:
        """Update the state of each layer."""
        for layer, modulation in zip(steerable_layers(self.network), self.modulations, strict=True):
            assert isinstance(modulation, Modulation)
            modulation.update(free_branch(layer), equivariant_filters(layer))
