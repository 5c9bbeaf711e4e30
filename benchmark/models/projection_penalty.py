"""Projection penalty on the part of each layer that is not equivariant."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.models.baseline import LogUniform, SearchSpace, Task
from benchmark.models.layers.projection import ROTATIONS, ProjectionWrapper


class ProjectionPenalty(ProjectionWrapper):
    """Adds lambda x sum over layers of |T - P(T)| + mu x sum over layers of |P(T)| to the loss of `network`.

    T is the affine map of a convolution, P the projection to maps that commute with C4 (see `layers/projection.py` for
    its action on the channels), | | the Frobenius norm. P(T) is a mean over the group on the weights, so the penalty is
    exact and needs no forward pass. The norm is not squared, so that a layer that gains little by breaking the symmetry
    can keep it exactly.

    lambda and mu are the paper's lambda_perp and lambda_G. With the default lambda, 0.01, a ConvNet of 64 channels
    starts with a sum of norms of about 17 and a penalty of 0.17. Only networks of plain convolutions can be projected;
    others are n/a. A training step costs some copies of the weights, a forecast nothing.
    """

    class Config(ProjectionWrapper.Config):
        """`penalty` is lambda, `equivariant_penalty` is mu."""

        penalty: Annotated[float, Field(ge=0)] = 1e-2
        equivariant_penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "approximate"
    symmetries = ("rotation",)
    source = "Berndt, Stühmer 2026 (arXiv 2601.05028)"
    search_space: ClassVar[SearchSpace] = {"penalty": LogUniform(1e-4, 1.0)}

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient, self.equivariant_coefficient = config.penalty, config.equivariant_penalty

    def penalty(self) -> Tensor:
        """lambda x sum |T - P(T)| + mu x sum |P(T)|, and the penalty of the network."""
        total = super().penalty()
        if self.coefficient > 0:
            total = total + self.coefficient * torch.stack([layer.deviation(ROTATIONS) for layer in self.layers]).sum()
        if self.equivariant_coefficient > 0:
            norms = torch.stack([layer.equivariant_norm(ROTATIONS) for layer in self.layers])
            total = total + self.equivariant_coefficient * norms.sum()
        return total
