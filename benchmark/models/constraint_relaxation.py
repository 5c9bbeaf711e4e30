"""Constraint relaxation: an equivariant network, trained with a free filter in each layer and tested without."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.free_branch import FreeBranch, add_free_branches, quarter_turn
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import steerable_network


class ConstraintRelaxation(Baseline):
    """`e2cnn`, trained as y = (K + theta W) * x + b with W free, and y = K * x + b in eval mode.

    For tasks whose symmetry is exact: the network that is validated, chosen and tested is strictly equivariant, and the
    detour through W serves the optimisation alone. theta goes from 0 to 1 over the first half of training and back over
    the second; the network starts, and ends, as `e2cnn`. Training that stops early stops with theta > 0, which the
    tested network does not see. The penalty is alpha x the sum over layers of |W| + |W - g W|, Frobenius norms, g a
    quarter turn; it gives W a gradient where theta is zero. W starts as any convolution's.

    The paper penalises the branch's activations: their norm, and that of their Lie derivative, which measures how far
    they are from equivariant. Left out: the published code for these flows replaces both by the norms of the filter,
    which need no second convolution, with alpha = 0.01, and so do we. Different from that code: there g turns
    the filter's positions but not the components of its fields, so that the penalty is not zero for an equivariant W;
    the network below is the relaxed steerable one, which does not return to equivariance; theta changes with each epoch
    instead of each step; and the best model is an alias of the last one.
    """

    class Config(Frozen):
        """`hidden` counts regular fields, each of `order` channels; `penalty` is alpha."""

        hidden: PositiveInt = 32
        order: Literal[4, 8] = 4
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        penalty: Annotated[float, Field(ge=0)] = 1e-2

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "Pertigkiozoglou, Chatzipantazis, Trivedi, Daniilidis 2024 (arXiv 2408.13242)"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "order": Choice((4, 8)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(1e-4, 1e-1),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.network = steerable_network(
            config.order,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
        for branch in add_free_branches(self.network, strength=theta(0.0), in_evaluation=False):
            nn.init.kaiming_uniform_(branch.filters, a=math.sqrt(5))

    @property
    def branches(self) -> list[FreeBranch]:
        return [module for module in self.modules() if isinstance(module, FreeBranch)]

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))

    def penalty(self) -> Tensor:
        """alpha x the sum over layers of |W| + |W - g W|."""
        if self.coefficient == 0:
            return super().penalty()
        pairs = ((branch.filters, quarter_turn(branch.filters, branch.fields)) for branch in self.branches)
        return self.coefficient * torch.stack([free.norm() + (free - turned).norm() for free, turned in pairs]).sum()

    def before_step(self, progress: float) -> None:
        """Sets theta, for the next step."""
        for branch in self.branches:
            branch.strength.fill_(theta(progress))


def theta(progress: float) -> float:
    """0 -> 1 -> 0 over training, linearly: the schedule of the authors' experiments on flows."""
    return 1 - abs(2 * progress - 1)
