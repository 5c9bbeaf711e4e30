"""Tensor-field network of order 1 through the e3nn library, strict and relaxed.

Features of a particle are scalars (0e) and vectors (1o), in e3nn's notation. e3nn is imported when a network is built:
it takes a second. Its generated code runs as plain torch, without TorchScript, and without autocast: it needs float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmark.models.layers.convolutions import LAST_LAYER_GAIN
from benchmark.models.layers.particles.graphs import Products, differences, perceptron, vectors
from benchmark.models.layers.particles.relaxed import Breaking
from benchmark.models.layers.relaxation import full_precision

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

RELAXED = {0: "", 1: "1x1e + 1x1o", 2: "1x1e + 1x1o + 1x2e"}
"""Learned tensors theta by their order: a pseudovector such as a magnetic field, a vector, a symmetric tensor."""


def library() -> Any:
    """e3nn, without TorchScript, which torch deprecates."""
    import e3nn.nn  # with o3; takes a second, and many commands build no network

    e3nn.set_optimization_defaults(jit_mode="eager")
    return e3nn


class SelfInteraction(Breaking):
    """y = A h + h (x) theta: a linear map of equal irreps, and the tensor product with learned tensors theta.

    theta is zero at the start, and its mixing weights are random: with both at zero neither has a gradient.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, order: int, gain: float = 1.0) -> None:
        super().__init__()
        o3 = library().o3
        self.linear = o3.Linear(irreps_in, irreps_out)
        if order > 0:
            self.theta = nn.Parameter(torch.zeros(o3.Irreps(RELAXED[order]).dim))
            self.product = o3.FullyConnectedTensorProduct(irreps_in, RELAXED[order], irreps_out, compile_right=True)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(gain)

    def forward(self, h: Tensor) -> Tensor:
        y = self.linear(h)
        return y + h @ self.product.right(self.theta) if hasattr(self, "theta") else y  # one matrix for all particles


class TensorFieldLayer(nn.Module):
    """Sum over the other particles j of h_j (x) Y(x_i - x_j), with learned radial weights; self-interaction; gate.

    (B, N, irreps in) -> (B, N, H 0e + H 1o), H = `hidden`.
    """

    others: Tensor

    def __init__(self, irreps_in: Irreps, hidden: int, order: int, radial: int, particles: int) -> None:
        super().__init__()
        o3 = library().o3
        harmonics = o3.Irreps("0e + 1o")
        paths = [
            (i, j, out)
            for i, (_, one) in enumerate(irreps_in)
            for j, (_, other) in enumerate(harmonics)
            for out in one * other
            if out in harmonics
        ]
        sent = o3.Irreps([(irreps_in[i].mul, out) for i, _, out in paths])
        instructions = [(i, j, k, "uvu", True) for k, (i, j, _) in enumerate(paths)]
        self.product = o3.TensorProduct(
            irreps_in, harmonics, sent, instructions, shared_weights=False, internal_weights=False
        )
        self.radial = perceptron(radial, hidden, self.product.weight_numel)
        scalars, gated = f"{hidden}x0e", f"{hidden}x1o"
        self.gate = library().nn.Gate(scalars, [nn.functional.silu], scalars, [torch.sigmoid], gated)
        self.self_interaction = SelfInteraction(irreps_in + sent, self.gate.irreps_in, order)
        self.irreps_out = self.gate.irreps_out
        self.register_buffer("others", 1 - torch.eye(particles)[..., None], persistent=False)

    def forward(self, h_BNF: Tensor, y_BNN4: Tensor, lengths_BNNR: Tensor) -> Tensor:
        sent = h_BNF[:, None].expand(*y_BNN4.shape[:3], -1)
        weights = self.radial(lengths_BNNR) * self.others
        received = self.product(sent, y_BNN4, weights).sum(2) / max(1, len(self.others) - 1)
        return self.gate(self.self_interaction(torch.cat((h_BNF, received), -1)))


class TensorFieldNetwork(nn.Module):
    """`layers` tensor-field layers from the vectors of a window and their scalar products: (B, T, N, 6) -> (B, N, 6).

    The inputs are given to the last linear map again. `order` is that of the learned tensors, 0 in a strict network.
    """

    def __init__(self, frames: int, particles: int, hidden: int, layers: int, order: int) -> None:
        super().__init__()
        o3 = library().o3
        self.products = Products(2 * frames)
        irreps = inputs = o3.Irreps(f"{self.products.number}x0e + {2 * frames}x1o")
        self.layers = nn.ModuleList()
        for _ in range(layers):
            layer = TensorFieldLayer(irreps, hidden, order, 2, particles)
            self.layers.append(layer)
            irreps = layer.irreps_out
        self.output = SelfInteraction(irreps + inputs, o3.Irreps("2x1o"), order, LAST_LAYER_GAIN)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        with full_precision(x_BTN6):
            v_BNK3 = vectors(x_BTN6.float())
            inputs = torch.cat((self.products(v_BNK3), v_BNK3.flatten(-2)), -1)
            apart = differences(v_BNK3[:, :, -2])  # positions in the last frame
            squares = apart.square().sum(-1, keepdim=True)
            lengths = (squares + 1e-6).sqrt()
            harmonics = torch.cat((torch.ones_like(squares), 3**0.5 * apart / lengths), -1)
            h = inputs
            for layer in self.layers:
                h = layer(h, harmonics, torch.cat((lengths, squares), -1).asinh())
            return self.output(torch.cat((h, inputs), -1))
