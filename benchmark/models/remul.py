"""REMUL: equivariance as a second task beside the forecast."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.models.baseline import LogUniform, SearchSpace
from benchmark.models.layers.group_draws import group_draws, other_draws
from benchmark.models.layers.wrapper import DrawnGroup, Wrapper, drawn_group
from benchmark.models.task import AnyTask


class Remul(Wrapper):
    """Adds beta x mean |f(g x) - g f(x)|^2 to the loss, with a random g of the group for each window.

    f is one step of `network`. On fields g is one of the non-trivial elements for which the equivariance error is
    measured (of C4 on a wide grid, the half turn alone), on particles any rotation about the centre, uniform over
    SO(3). The mean is over windows, components and the cells where g f(x) is defined, or the particles. As the measured
    model equivariance error, the loss compares two forecasts and no target. The weights of the two losses are constant,
    as in the paper's first scheme; the second one, GradNorm, is not implemented.

    beta is 1 by default: both losses are mean squares of one forecast frame, so an equivariance error costs as much as
    a forecast error of the same size in one rolled-out step. A training step with S rolled-out steps costs (S + 2) / S
    of the network's time and memory. Forecasts cost nothing.
    """

    class Config(Wrapper.Config):
        """`group` is C4 by default, SO3 for a network on particles; `penalty` is beta."""

        group: DrawnGroup = drawn_group()
        penalty: Annotated[float, Field(ge=0)] = 1.0

    kinds = ("field", "particles")
    family = "approximate"
    symmetries = ("rotation",)
    source = "Elhag, Rusch, Di Giovanni, Bronstein 2024, REMUL (arXiv 2410.17878)"
    differs = "The loss compares two forecasts, f(g x) with g f(x); weights are constant, without GradNorm."
    search_space: ClassVar[SearchSpace] = {"penalty": LogUniform(1e-2, 1e2)}

    def __init__(self, config: Config, task: AnyTask) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.group = group_draws(config.group, task, identity=False)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        """beta x mean |f(g x) - g f(x)|^2."""
        others = super().regularization(x_BTCHW, draws_B)
        if self.coefficient == 0:
            return others
        elements = self.group.elements(other_draws(draws_B))  # an augmentation uses the draws themselves
        both = torch.cat((x_BTCHW, self.group.act(x_BTCHW, elements)))
        y_BCHW, of_transformed_BCHW = self.network(both).float().chunk(2)
        difference = of_transformed_BCHW - self.group.act(y_BCHW, elements)
        return others + self.coefficient * self.group.mean_squares(difference, elements).mean()
