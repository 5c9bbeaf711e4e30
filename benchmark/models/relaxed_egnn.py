"""Relaxed E(n) graph network: learned vectors and a learned tensor enter the output."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace
from benchmark.models.layers.particles.relaxed import RelaxedParticleBaseline
from benchmark.models.layers.particles.vector_outputs import BreakingVectors, VectorOutputs
from benchmark.models.layers.relaxation import PENALTIES
from benchmark.models.task import ParticleTask


class RelaxedEGNN(RelaxedParticleBaseline):
    """The network of `egnn` with more vectors in the output: x_i x w, v_i x w, u and, of `order` 2, S x_i and S v_i.

    The axial vector w, the polar vector u and the traceless symmetric tensor S are learned, the same for all particles
    and zero at the start, where the network is that of `egnn`. w can express a magnetic field, u an electric field, S
    an anisotropic trap. Their length and sign alone mean nothing, since a learned function multiplies them. The penalty
    is alpha x the mean absolute number of w, u and S.
    """

    class Config(Frozen):
        """`order` is the highest rank of the learned tensors, `penalty` is alpha."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 2
        order: Literal[1, 2] = 2
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("rotation", "reflection", "permutation")
    source = "symbench: egnn with the symmetry-breaking vectors of Hofgard et al. 2024 (arXiv 2407.20471)"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128)),
        "layers": Choice((1, 2, 3, 4)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)
        breaking = BreakingVectors(config.order)
        self.network = VectorOutputs(task.input_frames, task.particles, config.hidden, config.layers, breaking)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        return self.network(x_BTN6)
