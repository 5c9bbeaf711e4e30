"""Tensor-field network on particles, strictly equivariant under O(3), through the e3nn library."""

from typing import ClassVar

from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, ParticleBaseline, SearchSpace
from benchmark.models.layers.particles.tensor_fields import TensorFieldNetwork
from benchmark.models.task import ParticleTask


class TFN(ParticleBaseline):
    """Scalars and vectors through `layers` tensor-field layers, `hidden` of each: (B, T, N, 6) -> (B, N, 6).

    A layer is sum_j h_j (x) R(|x_i - x_j|) Y(x_i - x_j) with Y of order 0 and 1, a self-interaction and a gate. The
    inputs are x_i, v_i and their scalar products, and enter the last self-interaction again. The network commutes with
    rotations and reflections about the centre of the trap, up to round-off, and with permutations.
    """

    class Config(Frozen):
        """`hidden` is the number of scalars and of vectors, `layers` the number of rounds."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 2

    family = "strict"
    symmetries = ("rotation", "reflection", "permutation")
    source = "Thomas et al. 2018 (arXiv 1802.08219), through e3nn"
    differs = "Gates in place of norm nonlinearities; radial functions are perceptrons of the distance."
    search_space: ClassVar[SearchSpace] = {"hidden": Choice((16, 32, 64)), "layers": Choice((1, 2, 3))}

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)
        self.network = TensorFieldNetwork(task.input_frames, task.particles, config.hidden, config.layers, order=0)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        return self.network(x_BTN6)
