"""Relaxed models on particles: learned vectors and tensors that are zero at the start and break the symmetry."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.models.baseline import ParticleBaseline
from benchmark.models.layers.relaxation import RelaxedLayer, layer_deviations
from benchmark.models.task import ParticleTask


class Breaking(RelaxedLayer):
    """Learned tensors of one layer, zero at the start: what points somewhere without regard to the particles."""

    def numbers(self) -> Tensor:
        """All numbers in one vector."""
        return torch.cat([parameter.flatten() for parameter in self.own_deviations()])

    def own_deviations(self) -> Sequence[nn.Parameter]:
        return tuple(self.parameters(recurse=False))

    def roughness(self) -> Tensor:
        return self.numbers().abs().mean()

    def size(self) -> float:
        """1: the numbers have the unit of the layer's weights, which start with a variance of 1 / fan-in."""
        return 1.0


class RelaxedParticleBaseline(ParticleBaseline):
    """Baseline with a penalty on its relaxation; `config.penalty` is the coefficient alpha."""

    def __init__(self, config: Any, task: ParticleTask) -> None:
        super().__init__(config, task)
        self.coefficient: float = config.penalty

    def deviations(self) -> list[nn.Parameter]:
        """Learned tensors of all layers."""
        return layer_deviations(self)

    def penalty(self) -> Tensor:
        """alpha x the sum over layers of the mean absolute number of the learned tensors."""
        if self.coefficient == 0:
            return super().penalty()
        layers = [layer for layer in self.modules() if isinstance(layer, Breaking)]
        return self.coefficient * torch.stack([layer.roughness() for layer in layers]).sum()
