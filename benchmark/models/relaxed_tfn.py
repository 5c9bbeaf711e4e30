"""Relaxed tensor-field network: the weights of the self-interactions span irreps of higher order."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace
from benchmark.models.layers.particles.relaxed import RelaxedParticleBaseline
from benchmark.models.layers.particles.tensor_fields import TensorFieldNetwork
from benchmark.models.layers.relaxation import PENALTIES
from benchmark.models.task import ParticleTask


class RelaxedTFN(RelaxedParticleBaseline):
    """The network of `tfn` with self-interactions A h + h (x) theta, theta learned and of the irreps 1e + 1o (+ 2e).

    theta is zero at the start, where the network is that of `tfn`, and has mixing weights that start at random. 1e can
    express a magnetic field, 1o an electric field, 2e (of `order` 2) an anisotropic trap. The length and the sign of
    theta alone mean nothing, since the mixing weights multiply it. The penalty is alpha x the sum over layers of mean
    |theta|.
    """

    class Config(Frozen):
        """`order` is the highest order of theta, `penalty` is alpha."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 2
        order: Literal[1, 2] = 2
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("rotation", "reflection", "permutation")
    source = "Hofgard, Wang, Walters, Smidt 2024 (arXiv 2407.20471)"
    differs = "Self-interactions alone are relaxed, by a tensor product with one learned vector of each irrep."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((1, 2, 3)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)
        frames, particles = task.input_frames, task.particles
        self.network = TensorFieldNetwork(frames, particles, config.hidden, config.layers, config.order)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        return self.network(x_BTN6)
