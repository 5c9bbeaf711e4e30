"""Fully connected network on the numbered particles, without any symmetry."""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, ParticleBaseline, SearchSpace
from benchmark.models.layers.convolutions import start
from benchmark.models.layers.particles.graphs import small_linear
from benchmark.models.task import ParticleTask


class ParticleMLP(ParticleBaseline):
    """y = A_L silu(... silu(A_1 x + b_1) ...) + b_L on the whole window, flattened.

    (B, T N 6) -> `hidden`, `layers` - 1 times -> (B, N 6); the weights belong to one number of particles.
    """

    class Config(Frozen):
        """`hidden` is the number of units in each inner layer, `layers` the number of matrices."""

        hidden: PositiveInt = 128
        layers: PositiveInt = 4

    family = "reference"
    symmetries = ()
    source = "standard reference for particles"
    search_space: ClassVar[SearchSpace] = {"hidden": Choice((64, 128, 256, 512)), "layers": Choice((3, 4, 6))}

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)
        state = task.particles * 6
        widths = [task.input_frames * state, *[config.hidden] * (config.layers - 1)]
        modules: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            modules += [start(nn.Linear(wide_in, wide_out)), nn.SiLU()]
        self.network = nn.Sequential(*modules, small_linear(widths[-1], state))

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        return self.network(x_BTN6.flatten(1)).view_as(x_BTN6[:, -1])
