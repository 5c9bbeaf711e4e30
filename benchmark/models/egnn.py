"""E(n)-equivariant graph network about the centre of the trap: scalars carry the messages, vectors form the output."""

from typing import ClassVar

from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, ParticleBaseline, SearchSpace
from benchmark.models.layers.particles.vector_outputs import VectorOutputs
from benchmark.models.task import ParticleTask


class EGNN(ParticleBaseline):
    """Forecast from x_i, v_i, x_i - x_j and v_i - v_j, each times a learned function of their scalar products.

    (B, T, N, 6) -> (B, N, 6). It commutes with rotations and reflections about the centre of the trap, up to round-off,
    and with permutations; the trap itself is not invariant under translations.
    """

    class Config(Frozen):
        """`hidden` is the width, `layers` the number of rounds of messages."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 2

    family = "strict"
    symmetries = ("rotation", "reflection", "permutation")
    source = "Satorras, Hoogeboom, Welling 2021 (arXiv 2102.09844)"
    differs = (
        "Positions move once, in the output, and scalar products with the centre of the trap and velocities enter."
    )
    search_space: ClassVar[SearchSpace] = {"hidden": Choice((32, 64, 128)), "layers": Choice((1, 2, 3, 4))}

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)
        self.network = VectorOutputs(task.input_frames, task.particles, config.hidden, config.layers, None)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        return self.network(x_BTN6)
