"""E(n) graph network whose forecast is a sum of vectors, each times a learned function of scalar products."""

import torch
from torch import Tensor, nn

from benchmark.models.layers.particles.graphs import (
    MessagePassing,
    Products,
    differences,
    directions,
    perceptron,
    small_linear,
    vectors,
)
from benchmark.models.layers.particles.relaxed import Breaking

OUTPUT_GAIN = 0.1
"""Factor on the forecast. A step of Adam moves all weights of the last layer, and by it the forecast as much as frames
differ; a roll-out multiplies that, and such gradients slow Adam down for a thousand steps. On `trapped_ions` at level 0
(300 steps, learning rate 5e-3) the six-frame RMSE of egnn was .049 without this factor and is .017 with it."""


class BreakingVectors(Breaking):
    """Learned axial vector w, polar vector u and, of `order` 2, traceless symmetric tensor S, all zero at the start.

    They add to the vectors a of a particle (B, N, K, 3): a x w, u, and S a.
    """

    tensors: Tensor

    def __init__(self, order: int) -> None:
        super().__init__()
        self.axial = nn.Parameter(torch.zeros(3))
        self.polar = nn.Parameter(torch.zeros(3))
        if order > 1:
            self.tensor = nn.Parameter(torch.zeros(5))
            self.register_buffer("tensors", _traceless_symmetric(), persistent=False)
        self.order = order

    def number(self, vectors: int) -> int:
        """Vectors that come from `vectors` vectors."""
        return self.order * vectors + 1

    def forward(self, v_BNK3: Tensor) -> Tensor:
        added = [torch.linalg.cross(v_BNK3, self.axial.expand_as(v_BNK3)), self.polar.expand_as(v_BNK3[..., :1, :])]
        if self.order > 1:
            added.append(v_BNK3 @ (self.tensor[:, None, None] * self.tensors).sum(0))
        return torch.cat(added, -2)


def _traceless_symmetric() -> Tensor:
    """Five traceless symmetric matrices (5, 3, 3), orthogonal and of the norm sqrt 2."""
    basis = torch.zeros(5, 3, 3)
    for which, (i, j) in enumerate(((0, 1), (1, 2), (0, 2))):
        basis[which, i, j] = basis[which, j, i] = 1
    basis[3] = torch.diag(torch.tensor([1.0, -1.0, 0.0]))
    basis[4] = torch.diag(torch.tensor([1.0, 1.0, -2.0])) / 3**0.5
    return basis


class VectorOutputs(nn.Module):
    """Scalars through `layers` rounds of message passing, then vectors: (B, T, N, 6) -> (B, N, 6).

    Particles and edges start from the scalar products of x_i, v_i and of d_ij = x_i - x_j, v_i - v_j. The two outputs
    of particle i are sum_k c_ik a_ik + sum_jk p_ijk d_ijk / sqrt(|d_ijk|^2 + 0.1), with a_i = (x_i, v_i, ...), c a
    function of the last features and p of the last messages. The root bounds the vectors of pairs: without it an
    untrained network throws particles apart. Vectors of `breaking` are added to the a_ik.
    """

    def __init__(self, frames: int, particles: int, hidden: int, layers: int, breaking: BreakingVectors | None) -> None:
        super().__init__()
        numbers = 2 * frames
        self.products = Products(numbers)
        self.encoder = perceptron(self.products.number, hidden, hidden)
        self.layers = nn.ModuleList(MessagePassing(hidden, self.products.number, particles) for _ in range(layers))
        self.of_particles = small_linear(hidden, 2 * numbers)
        self.of_pairs = small_linear(hidden, 2 * numbers)
        self.breaking = breaking
        if breaking is not None:
            self.of_breaking = small_linear(hidden, 2 * breaking.number(numbers))

    def forward(self, x_BTN6: Tensor) -> Tensor:
        v_BNK3 = vectors(x_BTN6)
        apart = differences(v_BNK3)
        h, edges = self.encoder(self.products(v_BNK3)), self.products(apart)
        for layer in self.layers:
            h, messages = layer(h, edges)
        c_BN2K = self.of_particles(h).unflatten(-1, (2, -1))
        p_BN2M = self.of_pairs(messages).unflatten(-1, (2, -1)).transpose(2, 3).flatten(3)  # M = N K
        out = c_BN2K @ v_BNK3 + p_BN2M @ directions(apart).flatten(2, 3)
        if self.breaking is not None:
            out = out + self.of_breaking(h).unflatten(-1, (2, -1)) @ self.breaking(v_BNK3)
        return OUTPUT_GAIN * out.flatten(-2)
