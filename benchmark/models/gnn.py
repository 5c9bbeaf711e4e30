"""Graph network on the complete graph of particles, without a symmetry in space."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, ParticleBaseline, SearchSpace
from benchmark.models.layers.particles.graphs import (
    MessagePassing,
    differences,
    directions,
    perceptron,
    small_linear,
    vectors,
)
from benchmark.models.task import ParticleTask


class GNN(ParticleBaseline):
    """h_i = encoder(x_i, v_i), then `layers` rounds of message passing, then a linear decoder: (B, N, 6).

    An edge carries x_i - x_j and v_i - v_j, their directions, and asinh of their squares. Every particle sends to every
    other one. The network commutes with permutations and has no other symmetry.
    """

    class Config(Frozen):
        """`hidden` is the width, `layers` the number of rounds."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 2

    family = "free"
    symmetries = ("permutation",)
    source = "Sanchez-Gonzalez et al. 2020 (arXiv 2002.09405)"
    differs = "No layer normalisation, no noise on the training windows, no cut-off."
    search_space: ClassVar[SearchSpace] = {"hidden": Choice((32, 64, 128)), "layers": Choice((1, 2, 3, 4))}

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)
        numbers = 2 * task.input_frames
        self.encoder = perceptron(3 * numbers, config.hidden, config.hidden)
        self.layers = nn.ModuleList(
            MessagePassing(config.hidden, 7 * numbers, task.particles) for _ in range(config.layers)
        )
        self.decoder = small_linear(config.hidden, 6)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6)."""
        v_BNK3 = vectors(x_BTN6)
        apart = differences(v_BNK3)
        edges = torch.cat((apart.flatten(-2), directions(apart).flatten(-2), apart.square().sum(-1).asinh()), -1)
        h = self.encoder(v_BNK3.flatten(-2))
        for layer in self.layers:
            h, _ = layer(h, edges)
        return self.decoder(h)
