"""PER: penalties for several symmetries, weighted during training by how far the weights break each."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.models.baseline import LogUniform, SearchSpace, Task
from benchmark.models.layers.projection import HALF_TURN, MIRROR_X, MIRROR_Y, ROTATIONS, ProjectionWrapper

Coefficient = Annotated[float, Field(ge=0)]
GROUPS = (ROTATIONS, HALF_TURN, MIRROR_X, MIRROR_Y)
FLOOR = 0.01
"""Symmetries that the weights break by less than this share of their squared norm count as equal."""


class PER(ProjectionWrapper):
    """Adds sum over groups i of lambda_i sum over layers of |T - P_i(T)|^2 to the loss of `network`.

    T is the affine map of a convolution, P_i the projection to maps that commute with the group G_i (see
    `layers/projection.py` for its action on the channels): the quarter turns, the half turn, and the mirrors of x and
    of y, which are separate because a force along one axis leaves only one of them. A projection is a mean over a group
    that permutes the weights, so the penalty is exact and needs no forward pass.

    The strengths are tuned once, after the share `tuned_at` of training: each lambda_i is divided by r_i / min r, with
    r_i the group's sum of squares relative to its value for random weights, 1 - 1 / |G_i|, and the minimum over groups
    with lambda_i > 0. The penalty of a symmetry that the data break is thereby weakened, and that of the best kept one
    stays. The published code uses the smallest sum of the epochs before, without that normalisation, by which a group
    never holds better than its subgroup, and the ratio to a power.

    All lambdas start at 1e-3: with a ConvNet of 64 channels each group starts with about 0.05. Only networks of plain
    convolutions can be projected; others are n/a. A training step costs some copies of the weights, a forecast nothing.
    """

    coefficients: Tensor
    chosen: Tensor
    tuned: Tensor

    class Config(ProjectionWrapper.Config):
        """The lambdas, and the share of training after which they are tuned; null: never."""

        rotation_penalty: Coefficient = 1e-3
        half_turn_penalty: Coefficient = 1e-3
        mirror_x_penalty: Coefficient = 1e-3
        mirror_y_penalty: Coefficient = 1e-3
        tuned_at: Annotated[float, Field(gt=0, lt=1)] | None = 0.05

    family = "approximate"
    symmetries = ("rotation",)
    source = "Kim, Lee, Yang, Lee 2023, PER (arXiv 2306.00356)"
    differs = "The strengths are tuned once, not in each epoch."
    search_space: ClassVar[SearchSpace] = {
        "rotation_penalty": LogUniform(1e-5, 1e-1),
        "half_turn_penalty": LogUniform(1e-5, 1e-1),
        "mirror_x_penalty": LogUniform(1e-5, 1e-1),
        "mirror_y_penalty": LogUniform(1e-5, 1e-1),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        penalties = (
            config.rotation_penalty,
            config.half_turn_penalty,
            config.mirror_x_penalty,
            config.mirror_y_penalty,
        )
        self.tuned_at = config.tuned_at
        self.groups = [index for index, penalty in enumerate(penalties) if penalty > 0]
        self.register_buffer("coefficients", torch.tensor(penalties))
        self.register_buffer("tuned", torch.tensor(False))
        # Of use as an index on the device: a list would be copied to it in each step.
        self.register_buffer("chosen", torch.tensor(self.groups, dtype=torch.long), persistent=False)
        self._settled = False

    def squares(self) -> Tensor:
        """Sum over layers of |T - P_i(T)|^2, for each group with lambda_i > 0."""
        each = [[layer.deviation(GROUPS[index]).square() for layer in self.layers] for index in self.groups]
        return torch.stack([torch.stack(group).sum() for group in each])

    def penalty(self) -> Tensor:
        """Sum over i of lambda_i |T - P_i(T)|^2, and the penalty of the network."""
        if not self.groups:
            return super().penalty()
        return super().penalty() + (self.coefficients[self.chosen] * self.squares()).sum()

    def before_step(self, progress: float) -> None:
        """Tune the lambdas once, at `tuned_at`."""
        super().before_step(progress)
        if self._settled or not self.groups or self.tuned_at is None or progress < self.tuned_at:
            return
        self._settled = True  # saves a synchronisation with the device at each later step
        if self.tuned:
            return
        with torch.no_grad():
            total = torch.stack([part.square().sum() for layer in self.layers for part in layer.parts()]).sum()
            shares = torch.tensor([1 - 1 / len(GROUPS[index]) for index in self.groups], device=total.device)
            broken = (self.squares() / shares).clamp(min=(FLOOR * total).clamp(min=torch.finfo(total.dtype).tiny))
            self.coefficients[self.chosen] *= broken.min() / broken
            self.tuned.fill_(True)
