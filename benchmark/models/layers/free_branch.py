"""Free filters added to those of steerable convolutions, and the action of a quarter turn on filters.

The branch is a second parametrization of the convolution's weight, after the expansion of the equivariant filter. Both
paths are linear, so their sum is one convolution, and `parametrize.cached()` adds the filters once in a roll-out.

Letters as in `steerable`: O, I fields out and in; a, b components within a field (2 for a vector, 1 for a scalar, N for
the regular representation of C_N); K kernel size.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.models.layers.relaxation import Deviating
from benchmark.models.layers.steerable import SteerableConv2d


def _turn_components(fields: Tensor, axis: int) -> Tensor:
    """Action rho of a quarter turn on an axis of 2 components (a vector), 1 (a scalar) or N (a regular field)."""
    components = fields.shape[axis]
    if components == 2:
        first, second = fields.unbind(axis)
        return torch.stack((-second, first), axis)
    return fields.roll(components // 4, axis)


def quarter_turn(filters: Tensor, fields: tuple[int, int]) -> Tensor:
    """g W: y -> rho_out(g) W(g^-1 y) rho_in(g^-1), (O a, I b, K, K), with (a, b) = `fields`; a permutation with signs.

    It holds for C_8, too, whose quarter turns are exact on a square grid.
    """
    blocks = filters.unflatten(1, (-1, fields[1])).unflatten(0, (-1, fields[0])).rot90(1, (-2, -1))
    return _turn_components(_turn_components(blocks, 1), 3).flatten(2, 3).flatten(0, 1)


def asymmetric_part(filters: Tensor, fields: tuple[int, int]) -> Tensor:
    """W - P(W), P(W) the mean of g W over the four turns: zero if and only if W is equivariant under quarter turns."""
    half = filters + quarter_turn(quarter_turn(filters, fields), fields)
    return filters - (half + quarter_turn(half, fields)) / 4


class FreeBranch(Deviating):
    """K -> K + s W, with W (O a, I b, K, K) trained and `strength` s set by the baseline.

    s is a buffer, so that a new value needs no recompilation and checkpoints keep it. Unless `in_evaluation`, the
    branch acts in train mode only. W starts at zero.
    """

    strength: Tensor

    def own_deviations(self) -> tuple[nn.Parameter, ...]:
        """W."""
        return (self.filters,)

    def __init__(self, layer: SteerableConv2d, strength: float, in_evaluation: bool) -> None:
        super().__init__()
        components_out, components_in = layer.get_buffer("parametrizations.weight.0.kernels").shape[-2:]
        self.fields = components_out, components_in
        self.in_evaluation = in_evaluation
        self.filters = nn.Parameter(torch.zeros_like(layer.weight))
        self.register_buffer("strength", torch.tensor(strength))

    def forward(self, equivariant: Tensor) -> Tensor:
        """K -> K + s W, or K."""
        if self.training or self.in_evaluation:
            return equivariant + self.strength * self.filters
        return equivariant


def steerable_layers(network: nn.Module) -> list[SteerableConv2d]:
    """Steerable convolutions of `network`, in their order."""
    return [layer for layer in network.modules() if isinstance(layer, SteerableConv2d)]


def add_free_branches(network: nn.Module, strength: float, in_evaluation: bool) -> list[FreeBranch]:
    """Add a branch to each steerable convolution of `network`, whose `weight` is then K + s W; returns the branches."""
    layers = steerable_layers(network)
    branches = [FreeBranch(layer, strength, in_evaluation) for layer in layers]
    for layer, branch in zip(layers, branches, strict=True):
        register_parametrization(layer, "weight", branch, unsafe=True)
    return branches


def free_branch(layer: SteerableConv2d) -> FreeBranch:
    """The branch that was added to `layer`."""
    branch = layer.get_submodule("parametrizations.weight.1")
    assert isinstance(branch, FreeBranch)
    return branch


def equivariant_filters(layer: SteerableConv2d) -> Tensor:
    """Equivariant filter K of a layer with a branch."""
    filters: Tensor = layer.expansion(layer.coefficients)
    return filters
