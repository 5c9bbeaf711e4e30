"""Relaxed layers: a symmetric part, a deviation from it that starts at zero, and the penalty on the deviation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.models.baseline import FramesAsChannels, Task

PENALTIES = (1e-5, 10.0)
"""Range of alpha that tuning searches: a smaller one has no effect, a larger one leaves a strict network.

alpha begins to pull at a few times the loss of the forecast, and holds the symmetry at some hundred: 1e-4 and 1e-2 on
smoke, whose loss is 2e-5 (docs/relaxation.md).
"""


def roughness(w: Tensor, axes: tuple[int, ...], periodic: bool = False) -> Tensor:
    """Mean of |w(p) - w(p')| over neighbours along each of `axes`, averaged over the axes: 0 iff w is constant there.

    If `periodic`, the last and the first position of an axis are neighbours, too.
    """
    differences = (w - w.roll(1, axis) if periodic else w.diff(dim=axis) for axis in axes)
    return torch.stack([difference.abs().mean() for difference in differences]).mean()


def full_precision(w: Tensor) -> AbstractContextManager[Any]:
    """Context without autocast for making filters from `w`: in bf16 a small relaxation would be rounded away."""
    return nullcontext() if w.is_meta else torch.autocast(w.device.type, enabled=False)


class Deviating(nn.Module):
    """Module with parameters that are zero where it keeps its symmetry."""

    def own_deviations(self) -> Sequence[nn.Parameter]:
        """Such parameters of this module, without those of its submodules; by default `deviation`, if it is there."""
        deviation = getattr(self, "deviation", None)
        return () if deviation is None else (deviation,)


def layer_deviations(network: nn.Module) -> list[nn.Parameter]:
    """Deviations of all layers of `network`."""
    modules = (module for module in network.modules() if isinstance(module, Deviating))
    return [parameter for module in modules for parameter in module.own_deviations()]


class FilterBanks(Deviating):
    """Weights w = 1 / L + d, (L, N ...), of L filter banks at the elements of a group.

    A step of Adam moves each bank by about the learning rate, and so their mean; a sum would move L times as far, and a
    narrow network fell silent within the first twenty steps. d is zero at the start, and trained if `relaxed`;
    otherwise w is a buffer.
    """

    def __init__(self, banks: int, elements: Sequence[int], relaxed: bool) -> None:
        super().__init__()
        self.constant = 1 / banks
        if relaxed:
            self.deviation = nn.Parameter(torch.zeros(banks, *elements))
        else:
            self.register_buffer("w", torch.full((banks, *elements), self.constant))

    def weights(self) -> Tensor:
        """w (L, N ...)."""
        return self.constant + self.deviation if hasattr(self, "deviation") else self.get_buffer("w")


NEGLIGIBLE = 1e-3
"""A basis kernel counts as zero at a position where it is below this share of its largest value."""


class KernelDeviation(Deviating):
    """Coefficients w_l (O, I, L) -> w_l(y) = w_l + d_l(y), (O, I, K, K, L); d is zero at the start.

    d_l(y) exists where the basis kernel l is not zero at y: a number that multiplies zero would count as a parameter,
    and do nothing. A kernel at one position has no deviation, since its w_l is free already. `size` (K, K, L) is the
    largest entry of each basis kernel at each position.
    """

    places: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, size: Tensor, channels_out: int, channels_in: int) -> None:
        super().__init__()
        live = size > NEGLIGIBLE * size.amax((0, 1))
        live &= live.sum((0, 1)) > 1
        self.shape = tuple(live.shape)
        places = live.flatten().nonzero()[:, 0]  # of the numbers in (K, K, L)
        number = torch.zeros(live.numel(), dtype=torch.long).index_put((places,), torch.arange(len(places)))
        number = number.view(-1, live.shape[-1])
        pairs = [
            (number[one, kernel], number[other, kernel])
            for kernel, support in enumerate(live.flatten(0, 1).T.tolist())
            for one, other in neighbors(tuple(support), live.shape[1])
        ]
        first, second = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
        self.register_buffer("places", places)
        self.register_buffer("first", first.contiguous(), persistent=False)
        self.register_buffer("second", second.contiguous(), persistent=False)
        self.deviation = nn.Parameter(torch.zeros(channels_out, channels_in, len(places)))

    def forward(self, coefficients: Tensor) -> Tensor:
        everywhere = coefficients.new_zeros(*coefficients.shape[:2], math.prod(self.shape))
        deviation = everywhere.index_copy(2, self.places, self.deviation).unflatten(2, self.shape)
        return deviation + coefficients[:, :, None, None]

    def roughness(self) -> Tensor:
        """Mean of |w_l(y) - w_l(y')| over neighbouring positions y, y' where the basis kernel l is not zero."""
        one, other = (self.deviation.index_select(2, index) for index in (self.first, self.second))
        return (one - other).abs().mean()


@cache
def neighbors(support: tuple[bool, ...], width: int) -> tuple[tuple[int, int], ...]:
    """Pairs of positions within `support`, on a grid `width` wide, that touch along an axis or around the same gap.

    A gap is a connected region outside the support. Weights there would be free, and equal to one beside them.
    """
    positions = range(len(support))
    touching = {
        (p, p + step)
        for p in positions
        for step in (1, width)
        if p + step < len(support) and (step == width or (p + 1) % width)
    }
    gap = list(positions)  # smallest position of the gap, once they have spread
    for _ in positions:
        for p, q in touching:
            if not (support[p] or support[q]):
                gap[p] = gap[q] = min(gap[p], gap[q])
    around: dict[int, set[int]] = {}
    for p, q in touching:
        if support[p] != support[q]:
            inside, outside = (p, q) if support[p] else (q, p)
            around.setdefault(gap[outside], set()).add(inside)
    pairs = {pair for pair in touching if support[pair[0]] and support[pair[1]]}
    return tuple(sorted(pairs.union(*(combinations(sorted(edge), 2) for edge in around.values()))))


class RelaxedLayer(Deviating, ABC):
    """Layer with a measure of how far its weights are from those of the strict layer."""

    @abstractmethod
    def roughness(self) -> Tensor:
        """Mean absolute difference of the weights between neighbours, a scalar; 0 only if the layer is strict."""

    @abstractmethod
    def size(self) -> Tensor | float:
        """Mean absolute weight of the symmetric part, by which the roughness is divided."""


class RelaxedBaseline(FramesAsChannels):
    """Baseline with a penalty on its relaxation; `config.penalty` is the coefficient alpha."""

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient: float = config.penalty

    def deviations(self) -> list[nn.Parameter]:
        """Deviations of all layers."""
        return layer_deviations(self)

    def penalty(self) -> Tensor:
        """alpha x the sum of the layers' roughness, each over the size of the layer's symmetric part.

        Without the division the pull of one alpha falls with the width and the size of the kernel (docs/relaxation.md).
        The size counts as constant: larger weights would be another way to a smaller penalty.
        """
        if self.coefficient == 0:
            return super().penalty()
        relative = []
        for layer in self.modules():
            if isinstance(layer, RelaxedLayer):
                size = layer.size()
                relative.append(layer.roughness() / (size.detach() if isinstance(size, Tensor) else size))
        return self.coefficient * torch.stack(relative).sum()
