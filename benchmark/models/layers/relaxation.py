"""What relaxed baselines share: layers whose weights may differ from place to place, and the price of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.models.baseline import Baseline


def roughness(w: Tensor, axes: tuple[int, ...], periodic: bool = False) -> Tensor:
    """The mean of |w(p) - w(p')| over neighbours along each of `axes`, averaged: 0 if and only if w is constant there.

    In a `periodic` box the last place of an axis and the first are neighbours, too.
    """
    differences = (w - w.roll(1, axis) if periodic else w.diff(dim=axis) for axis in axes)
    return torch.stack([difference.abs().mean() for difference in differences]).mean()


def full_precision(w: Tensor) -> AbstractContextManager[Any]:
    """Autocast off where filters are made of `w`: rounded to bf16, a small relaxation would be lost."""
    return nullcontext() if w.is_meta else torch.autocast(w.device.type, enabled=False)


class RelaxedLayer(nn.Module, ABC):
    """A layer of which a relaxed network measures how far its weights are from the strict layer's."""

    @abstractmethod
    def roughness(self) -> Tensor:
        """A scalar: 0 if and only if the relaxation is off."""


class RelaxedBaseline(Baseline):
    """A baseline that pays for its relaxation: `coefficient` is the alpha of its penalty."""

    coefficient: float

    def penalty(self) -> Tensor:
        """alpha x the summed roughness of the layers; for alpha > 0 zero if and only if every relaxation is off."""
        if self.coefficient == 0:
            return super().penalty()
        layers = [module for module in self.modules() if isinstance(module, RelaxedLayer)]
        return self.coefficient * torch.stack([layer.roughness() for layer in layers]).sum()
