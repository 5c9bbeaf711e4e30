"""REMUL: equivariance as a second task beside the forecast."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.cell import GroupName
from benchmark.models.baseline import LogUniform, SearchSpace, Task
from benchmark.models.layers.group_draws import choose, other_draws, regions, task_elements, transformed
from benchmark.models.layers.wrapper import Wrapper


class Remul(Wrapper):
    """Adds beta x mean |f(g x) - g f(x)|^2 to the loss, with a random g of the group for each window.

    f is one step of `network`, g one of the non-trivial elements for which the equivariance error is measured (of C4 on
    a wide grid, the half turn alone). The mean is over windows, components and the cells where g f(x) is defined. As
    the measured model equivariance error, the loss compares two forecasts and no target. The weights of the two losses
    are constant, as in the paper's first scheme; the second one, GradNorm, is not implemented.

    beta is 1 by default: both losses are mean squares of one forecast frame, so an equivariance error costs as much as
    a forecast error of the same size in one rolled-out step. A training step with S rolled-out steps costs (S + 2) / S
    of the network's time and memory. Forecasts cost nothing.
    """

    region: Tensor

    class Config(Wrapper.Config):
        """`penalty` is beta."""

        group: GroupName = "C4"
        penalty: Annotated[float, Field(ge=0)] = 1.0

    family = "approximate"
    symmetries = ("rotation",)
    needs_velocity = True
    source = "Elhag, Rusch, Di Giovanni, Bronstein 2024, REMUL (arXiv 2410.17878)"
    differs = "The loss compares two forecasts, f(g x) with g f(x); weights are constant, without GradNorm."
    search_space: ClassVar[SearchSpace] = {"penalty": LogUniform(1e-2, 1e2)}

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.group = task_elements(config.group, task)
        self.register_buffer("region", regions(self.group, task.height, task.width), persistent=False)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        """beta x mean |f(g x) - g f(x)|^2."""
        others = super().regularization(x_BTCHW, draws_B)
        if self.coefficient == 0:
            return others
        which_B = choose(other_draws(draws_B), len(self.group))  # an augmentation uses the draws themselves
        both = torch.cat((x_BTCHW, transformed(x_BTCHW, self.group, which_B)))
        y_BCHW, of_transformed_BCHW = self.network(both).float().chunk(2)
        difference = of_transformed_BCHW - transformed(y_BCHW, self.group, which_B)
        region_BHW = self.region[which_B]
        squares_B = (difference.square().mean(1) * region_BHW).sum((1, 2)) / region_BHW.sum((1, 2))
        return others + self.coefficient * squares_B.mean()
