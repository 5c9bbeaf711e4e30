"""Message passing on the complete graph of particles, and the vectors of a window.

Letters: B windows, T frames, N particles, K = 2 T vectors of a particle (position and velocity in each frame), H width.
"""

import torch
from torch import Tensor, nn

from benchmark.models.layers.convolutions import small_start, start

ROUNDING = 0.1
"""Square of the length below which the direction of a vector goes to zero."""


def perceptron(wide_in: int, hidden: int, wide_out: int) -> nn.Sequential:
    """Two linear layers with SiLU between them."""
    return nn.Sequential(start(nn.Linear(wide_in, hidden)), nn.SiLU(), start(nn.Linear(hidden, wide_out)))


def small_linear(wide_in: int, wide_out: int) -> nn.Linear:
    """Last layer of a network: it starts small."""
    layer = start(nn.Linear(wide_in, wide_out))
    small_start(layer)
    return layer


def vectors(x_BTN6: Tensor) -> Tensor:
    """Position and velocity of each particle in each frame: (B, N, 2 T, 3)."""
    return x_BTN6.unflatten(-1, (2, 3)).transpose(1, 2).flatten(2, 3)


def differences(v_BNK3: Tensor) -> Tensor:
    """Vectors of particle i minus those of particle j: (B, N, N, K, 3)."""
    return v_BNK3[:, :, None] - v_BNK3[:, None]


def directions(d: Tensor) -> Tensor:
    """Vectors (..., 3) of bounded length: d / sqrt(|d|^2 + 0.1). Pair forces are steep, and depend on the direction."""
    return d * (ROUNDING + d.square().sum(-1, keepdim=True)).rsqrt()


class Products(nn.Module):
    """asinh of the scalar products of K vectors, squares included: (..., K, 3) -> (..., K (K + 1) / 2).

    asinh leaves small numbers as they are. Large ones would grow with the square of a forecast that goes astray, and
    roll-outs of an untrained network would overflow.
    """

    first: Tensor
    second: Tensor

    def __init__(self, vectors: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(vectors, vectors).unbind()
        self.register_buffer("first", first.contiguous(), persistent=False)
        self.register_buffer("second", second.contiguous(), persistent=False)
        self.number = len(first)

    def forward(self, v: Tensor) -> Tensor:
        return (v.index_select(-2, self.first) * v.index_select(-2, self.second)).sum(-1).asinh()


class MessagePassing(nn.Module):
    """h_i' = h_i + update(h_i, mean over j != i of m_ij), m_ij = message(h_i, h_j, e_ij).

    (B, N, H), (B, N, N, `edge`) -> (B, N, H), and the messages (B, N, N, H); those of a particle to itself are zero.
    """

    others: Tensor

    def __init__(self, hidden: int, edge: int, particles: int) -> None:
        super().__init__()
        self.receiver = start(nn.Linear(hidden, hidden))
        self.sender = start(nn.Linear(hidden, hidden, bias=False))
        self.edge = start(nn.Linear(edge, hidden, bias=False))
        self.message = nn.Sequential(nn.SiLU(), start(nn.Linear(hidden, hidden)), nn.SiLU())
        self.update = perceptron(2 * hidden, hidden, hidden)
        self.register_buffer("others", 1 - torch.eye(particles)[..., None], persistent=False)

    def forward(self, h_BNH: Tensor, e_BNNE: Tensor) -> tuple[Tensor, Tensor]:
        before = self.receiver(h_BNH)[:, :, None] + self.sender(h_BNH)[:, None] + self.edge(e_BNNE)
        m_BNNH = self.message(before) * self.others
        received = m_BNNH.sum(2) / max(1, len(self.others) - 1)
        return h_BNH + self.update(torch.cat((h_BNH, received), -1)), m_BNNH
