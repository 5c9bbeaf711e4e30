"""Pull of a penalty: its share of the loss, and its gradient beside that of the data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.models.baseline import Baseline


@dataclass(frozen=True)
class Pull:
    """Penalty over the whole loss, and norm of the penalty's gradient over that of the rest; None without a penalty."""

    share: float | None = None
    gradient: float | None = None


def measure(model: Baseline, forecast_loss: float) -> Pull:
    """Pull at the present weights, whose gradients are complete. Costs one evaluation of the penalty.

    The gradients are compared on the deviations from the symmetry, or on all weights if the model has none.
    """
    with torch.enable_grad():
        penalty = model.penalty()
    if not penalty.requires_grad:
        return Pull()
    weights = list(model.deviations()) or list(model.parameters())
    pulls = torch.autograd.grad(penalty, weights, allow_unused=True)
    gradients = [weight.grad for weight in weights]
    rest = [
        grad if pull is None else -pull if grad is None else grad - pull
        for grad, pull in zip(gradients, pulls, strict=True)
        if grad is not None or pull is not None
    ]
    pull, others = _norm([pull for pull in pulls if pull is not None]), _norm(rest)
    loss = float(penalty.detach()) + forecast_loss
    return Pull(_ratio(float(penalty.detach()), loss), _ratio(pull, others))


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.abs().square().sum() for tensor in tensors]).sum().sqrt()) if tensors else 0.0


def _ratio(part: float, total: float) -> float | None:
    return part / total if total and math.isfinite(part / total) else None
