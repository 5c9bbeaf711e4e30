"""Recurrent equivariant constraint modulation: each layer learns from the gradients how free its filter has to be."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.free_branch import (
    FreeBranch,
    add_free_branches,
    asymmetric_part,
    equivariant_filters,
    free_branch,
    steerable_layers,
)
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import steerable_network

LEAST = 1e-12
"""The least lambda: K + lambda W is K to round-off, and the gradient of W still tells that of the filter."""


class Modulation(nn.Module):
    """The recurrent state of a layer, from which its lambda follows.

    With F = K + lambda W the layer's filter, G the loss's gradient with respect to it, n a running mean of |G|, and
    N(F) = F - P(F), P the mean over the quarter turns (the Haar average of the group that the grid keeps):

        d = N(F / |F| - G / max(n, |G|))        what is asymmetric in the filter that the gradient asks for
        h <- (1 - r) h + r d                    v <- (1 - r) v + r |d|^2
        gap = min(1, max(0, |h| - sqrt(v r / (2 - r))))
        lambda <- (1 - r) lambda + r gap

    The square root is the length that h would have if d were noise around zero. gap is a Lipschitz function of the
    state (h, sqrt v). Before each step W is made no longer than K (a max-norm constraint), so that |N(F)| / |F| is
    below lambda, and lambda falls unless a gradient that is asymmetric on average holds it. At its limit it is what the
    asymmetric part of the filter needs: lambda |W| = |N(F)|, |W| <= |K|.
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
        """Sets the branch's lambda and bounds its W; `equivariant` is K. Needs the gradient of W, lambda G."""
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


class RECM(Baseline):
    """`e2cnn` with a free filter in each layer, y = (K + lambda W) * x + b, whose lambda follows from the gradients.

    For tasks of which it is not known whether, and in which layers, they break the symmetry: a layer that sees
    symmetric data comes back to lambda = 0, another keeps as much freedom as it uses; no schedule and no penalty says
    how much. The network starts as `e2cnn`, W being zero, with every lambda = 1; lambda is the same in train and eval
    mode, and the board's model has the one of its epoch.

    From the paper: the equivariant and the free branch with one lambda >= 0 a layer; that lambda follows from a state
    which is updated recursively from the training signal; that the update compares the layer's inputs and
    targets with their average over the group, by Lipschitz functions; and, as what it is for, that the limit of
    lambda is bounded by the layer's symmetry gap, zero for a symmetric distribution. Ours: the whole update rule
    (`Modulation`), since the paper's functions are not reproduced here. What it takes for the relation of input and
    target is the filter that the gradient asks for, F - s G: the gradient alone would vanish once W has learned
    what breaks the symmetry. No bound is proven for it; tests/benchmark/models/test_modulated.py measures it.

    Beside W, the state needs the memory of one more filter a layer. Steps are read from the gradients that training
    has averaged, so ranks agree.
    """

    class Config(Frozen):
        """`hidden` counts regular fields, each of `order` channels; the state remembers 1 / `rate` steps."""

        hidden: PositiveInt = 32
        order: Literal[4, 8] = 4
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        rate: Annotated[float, Field(gt=0, lt=1)] = 1e-2

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "Pertigkiozoglou, Petrache, Trivedi, Daniilidis 2026 (arXiv 2602.02853); the update rule is ours"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "order": Choice((4, 8)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "rate": LogUniform(1e-3, 1e-1),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_network(
            config.order,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
        branches = add_free_branches(self.network, strength=1.0, in_evaluation=True)
        self.modulations = nn.ModuleList(Modulation(branch.filters, config.rate) for branch in branches)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))

    def before_step(self, progress: float) -> None:
        """One step of the state of each layer."""
        for layer, modulation in zip(steerable_layers(self.network), self.modulations, strict=True):
            assert isinstance(modulation, Modulation)
            modulation.update(free_branch(layer), equivariant_filters(layer))
