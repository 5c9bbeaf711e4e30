"""Constraint relaxation: an equivariant network with free filters during training alone."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.models.baseline import FramesAsChannels, LogUniform, SearchSpace, Task
from benchmark.models.layers.free_branch import FreeBranch, add_free_branches, quarter_turn
from benchmark.models.layers.relaxation import layer_deviations
from benchmark.models.layers.steerable import STEERABLE_SEARCH_SPACE, SteerableConfig, steerable_network


class ConstraintRelaxation(FramesAsChannels):
    """`e2cnn`, trained as y = (K + theta W) * x + b with W free, and y = K * x + b in eval mode.

    For tasks with an exact symmetry: the network that is validated, selected and tested is strictly equivariant, and W
    only helps the optimisation. theta rises from 0 to 1 over the first half of training and falls back over the second,
    so the network starts and ends as `e2cnn`. Early stopping may leave theta > 0, which evaluation ignores. The penalty
    is alpha x the sum over layers of |W| + |W - g W|, Frobenius norms, g a quarter turn; it gives W a gradient while
    theta is zero. W starts like any convolution.

    The paper penalises the norm of the branch's activations and of their Lie derivative. The published code for these
    flows uses the norms of the filter instead, which need no second convolution, with alpha = 0.01; so does this model.
    Different from that code: there g turns the positions of the filter but not the components of its fields, so the
    penalty of an equivariant W is not zero; the network is the relaxed steerable one, which does not return to
    equivariance; theta changes with each epoch instead of each step; and the best model is an alias of the last one.
    """

    class Config(SteerableConfig):
        """`penalty` is alpha."""

        penalty: Annotated[float, Field(ge=0)] = 1e-2

    family = "approximate"
    version = 2
    symmetries = ("rotation", "translation")
    source = "Pertigkiozoglou, Chatzipantazis, Trivedi, Daniilidis 2024 (arXiv 2408.13242)"
    differs = "e2cnn is relaxed, where the authors' code for flows relaxes the relaxed steerable network."
    search_space: ClassVar[SearchSpace] = {**STEERABLE_SEARCH_SPACE, "penalty": LogUniform(1e-4, 1e-1)}

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.network = steerable_network(config, task)
        for branch in add_free_branches(self.network, strength=theta(0.0), in_evaluation=False):
            nn.init.kaiming_uniform_(branch.filters, a=math.sqrt(5))

    @property
    def branches(self) -> list[FreeBranch]:
        """Free branches of all layers."""
        return [module for module in self.modules() if isinstance(module, FreeBranch)]

    def deviations(self) -> list[nn.Parameter]:
        """W of each layer."""
        return layer_deviations(self)

    def penalty(self) -> Tensor:
        """alpha x the sum over layers of |W| + |W - g W|."""
        if self.coefficient == 0:
            return super().penalty()
        pairs = ((branch.filters, quarter_turn(branch.filters, branch.fields)) for branch in self.branches)
        return self.coefficient * torch.stack([free.norm() + (free - turned).norm() for free, turned in pairs]).sum()

    def before_step(self, progress: float) -> None:
        """Set theta for the next step."""
        for branch in self.branches:
            branch.strength.fill_(theta(progress))


def theta(progress: float) -> float:
    """Schedule 0 -> 1 -> 0 over training, linear, as in the authors' experiments on flows."""
    return 1 - abs(2 * progress - 1)
