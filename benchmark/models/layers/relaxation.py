"""Relaxed layers, whose weights may vary over positions or group elements, and the penalty on that variation."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.models.baseline import FramesAsChannels, Task


def roughness(w: Tensor, axes: tuple[int, ...], periodic: bool = False) -> Tensor:
    """Mean of |w(p) - w(p')| over neighbours along each of `axes`, averaged over the axes: 0 iff w is constant there.

    If `periodic`, the last and the first position of an axis are neighbours, too.
    """
    differences = (w - w.roll(1, axis) if periodic else w.diff(dim=axis) for axis in axes)
    return torch.stack([difference.abs().mean() for difference in differences]).mean()


def full_precision(w: Tensor) -> AbstractContextManager[Any]:
    """Context without autocast for making filters from `w`: in bf16 a small relaxation would be rounded away."""
    return nullcontext() if w.is_meta else torch.autocast(w.device.type, enabled=False)


class FilterBanks(nn.Module):
    """Weights w (L, N) of L filter banks at N group elements.

    w starts constant at L^-1/2, so that the mixed filter has the deviation of one bank. It is trained if `relaxed`.
    """

    w: Tensor

    def __init__(self, banks: int, elements: int, relaxed: bool) -> None:
        super().__init__()
        w = torch.full((banks, elements), banks**-0.5)
        if relaxed:
            self.w = nn.Parameter(w)
        else:
            self.register_buffer("w", w)


class RelaxedLayer(nn.Module, ABC):
    """Layer with a measure of how far its weights are from those of the strict layer."""

    @abstractmethod
    def roughness(self) -> Tensor:
        """Scalar that is 0 if and only if the layer is strict."""


class RelaxedBaseline(FramesAsChannels):
    """Baseline with a penalty on its relaxation; `config.penalty` is the coefficient alpha."""

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient: float = config.penalty

    def penalty(self) -> Tensor:
        """alpha x the sum of the layers' roughness."""
        if self.coefficient == 0:
            return super().penalty()
        layers = [module for module in self.modules() if isinstance(module, RelaxedLayer)]
        return self.coefficient * torch.stack([layer.roughness() for layer in layers]).sum()
