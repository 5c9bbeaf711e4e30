"""Batch normalisation of fields: off by default, equivariant, and exact over ranks.

A model is single-device code, so the layer sums its statistics by `reduce`, which training sets to a differentiable sum
over the ranks: gradients and running statistics are then those of one process with the whole batch.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.cell import Extended

Norm = Literal["none", "batch"]
MOMENTUM, EPSILON = 0.1, 1e-5
"""Values of torch and of the published code."""


class NormConfig(Extended):
    """Config with the normalisation between a layer and its ReLU.

    With `batch`, the forecast of a window in train mode depends on the other windows in its batch; in eval mode it does
    not.
    """

    norm: Norm = "none"
    later = ("norm",)


class BatchNorm(nn.Module):
    """y = gain (x - mean) / sqrt(variance + epsilon) + offset, with a number of each kind for each of `fields` fields.

    x (B, `fields` N, ...): mean and variance are over windows, pixels and the N components of a field, which a group
    permutes, so the layer commutes with it; N = 1 is torch's own layer. In eval mode they are the running ones.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(fields))
        self.offset = nn.Parameter(torch.zeros(fields))
        self.register_buffer("mean", torch.zeros(fields))
        self.register_buffer("variance", torch.ones(fields))
        self.reduce: Callable[[Tensor], Tensor] = lambda sums: sums

    def forward(self, x: Tensor) -> Tensor:
        """(B, `fields` N, ...) -> the same shape."""
        fields = x.unflatten(1, (len(self.gain), -1)).float()
        mean, variance = self._statistics(fields) if self.training else (self.mean, self.variance)
        shape = (-1, *[1] * (fields.ndim - 2))
        factor = self.gain * (variance + EPSILON).rsqrt()
        normalised = fields * factor.view(shape) + (self.offset - mean * factor).view(shape)
        return normalised.flatten(1, 2).to(x.dtype)

    def _statistics(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each field over the batch of all ranks; moves the running ones towards them."""
        axes = (0, *range(2, fields.ndim))
        count = torch.full_like(self.gain, fields[:, 0].numel())
        total, count = self.reduce(torch.stack((fields.sum(axes), count)))
        mean = total / count.detach()
        shape = (-1, *[1] * (fields.ndim - 2))
        # A second sum, since the mean of squares less the square of the mean loses digits.
        variance = self.reduce((fields - mean.view(shape)).square().sum(axes)) / count.detach()
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.variance.lerp_(variance * count / (count - 1).clamp(min=1), MOMENTUM)
        return mean, variance


def norm_layers(norm: Norm, fields: int) -> list[nn.Module]:
    """The layer between a linear one of `fields` fields and its ReLU, if there is one."""
    return [BatchNorm(fields)] if norm == "batch" else []


def modules_in_a_layer(norm: Norm) -> int:
    """Number of modules from one linear layer to the next."""
    return 2 + len(norm_layers(norm, 1))
