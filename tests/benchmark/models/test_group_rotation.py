"""Group convolutions of C4, strict and relaxed, against their definition."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_support import deviation, layers_of, set_w
from torch import Tensor, nn

from benchmark.groups import rotate
from benchmark.models.baseline import Task
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import RotationGroupConv2d, group_filter

TASK = Task("made_up", 2, 10, 10)
FIELDS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 1)),
]


def turn_functions(f: Tensor, turns: int) -> Tensor:
    """Functions on Z^2 x C4, (B, I N, H, W): (g f)(h) = f(g^-1 h)."""
    return f.unflatten(1, (-1, 4)).roll(turns, 2).rot90(turns, (-2, -1)).flatten(1, 2)


def turn_velocities(v: Tensor, turns: int) -> Tensor:
    """Velocities as channels, (B, I 2, H, W)."""
    return rotate(v.unflatten(1, (-1, 2)), turns, "centered").flatten(1, 2)


ACTION = {"vector": turn_velocities, "regular": turn_functions}


def equivariance_error(model: Callable[[Tensor], Tensor], x: Tensor, field_in: str, field_out: str) -> float:
    """max |f(g x) - g f(x)| / max |f(x)| over the quarter turns."""
    with torch.no_grad():
        y = model(x)
        errors = [(model(ACTION[field_in](x, k)) - ACTION[field_out](y, k)).abs().max() for k in (1, 2, 3)]
    return float(max(errors) / y.abs().max())


def group_convs(model: nn.Module) -> list[RotationGroupConv2d]:
    return layers_of(RotationGroupConv2d, model)


def test_filter_of_the_group_by_hand() -> None:
    """One number s + 10 for the turn s, at the place (1, 2) of a 3 x 3 filter, which is one cell along y."""
    k = torch.zeros(1, 1, 4, 3, 3)
    k[..., 1, 2] = torch.arange(10.0, 14.0)
    filters = group_filter([k] * 4, "regular", "regular")
    for g, h in itertools.product(range(4), range(4)):
        expected = torch.zeros(3, 3)
        expected[((1, 2), (0, 1), (1, 0), (2, 1))[g]] = 10 + (h - g) % 4  # along y, -x, -y, x
        assert torch.equal(filters[g, h], expected)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_group_convolution_is_its_definition(kernel_size: int) -> None:
    """[f ~* psi](x, g) = sum over cells z and turns h of f(z, h) w_l(h) psi_l(R_g^-1 (z - x), h - g), on a torus."""
    size, half = 6, kernel_size // 2
    layer = RotationGroupConv2d(("regular", 1), ("regular", 1), kernel_size, 2, relaxed=True, padding_mode="circular")
    with torch.no_grad():
        deviation(layer).normal_()
    f = torch.randn(1, 4, size, size)
    psi, w = layer.coefficients.detach()[:, 0, 0], layer.w.detach()
    expected = torch.zeros(4, size, size)
    for g, h, i, j in itertools.product(range(4), range(4), *2 * [range(-half, half + 1)]):
        x, y = i, j
        for _ in range(g):
            x, y = -y, x  # the cell R_g (i, j) of the turned filter
        weight = (w[:, h] * psi[:, (h - g) % 4, half + i, half + j]).sum()
        expected[g] += weight * f[0, h].roll((-x, -y), (0, 1))
    torch.testing.assert_close(layer(f)[0], expected)


def test_velocities_are_lifted_and_projected_as_functions_on_the_group() -> None:
    """f(x, h) = v(x) . e_h on the way in, v(x) = sum_h f(x, h) e_h on the way out."""
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    regular = RotationGroupConv2d(("regular", 2), ("regular", 3), 3, 2, relaxed=True)
    lifting = RotationGroupConv2d(("vector", 2), ("regular", 3), 3, 2, relaxed=True)
    projecting = RotationGroupConv2d(("regular", 2), ("vector", 3), 3, 2, relaxed=True)
    with torch.no_grad():
        deviation(regular).normal_()
        for layer in (lifting, projecting):
            layer.coefficients.copy_(regular.coefficients)
            deviation(layer).copy_(deviation(regular))
        v = torch.randn(1, 2, 2, 8, 7)
        lifted = torch.einsum("bichw,nc->binhw", v, directions).flatten(1, 2)
        torch.testing.assert_close(lifting(v.flatten(1, 2)), regular(lifted))
        assert torch.equal(
            turn_functions(lifted, 1),
            torch.einsum("bichw,nc->binhw", rotate(v, 1, "centered"), directions).flatten(1, 2),
        )
        f = torch.randn(1, 8, 8, 7)
        projected = torch.einsum("bonhw,nc->bochw", regular(f).unflatten(1, (-1, 4)), directions).flatten(1, 2)
        torch.testing.assert_close(projecting(f), projected)
    assert projecting.bias is None


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("grid", [(12, 12), (9, 14)], ids=str)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_layer_is_equivariant_where_w_is_constant(
    kernel_size: int, fields: Any, grid: tuple[int, int], padding_mode: Any
) -> None:
    layer = RotationGroupConv2d(*fields, kernel_size, 3, relaxed=True, padding_mode=padding_mode).double()
    x = torch.randn(2, layer.in_channels, *grid).double()
    with torch.no_grad():
        set_w(layer, torch.randn(3, 1).expand(3, 4))
        if layer.bias is not None:
            layer.get_parameter("parametrizations.bias.original").normal_()
    assert equivariance_error(layer, x, fields[0][0], fields[1][0]) < 1e-13
    with torch.no_grad():
        deviation(layer)[0, 0] += 0.1
    assert equivariance_error(layer, x, fields[0][0], fields[1][0]) > 1e-3


def network(banks: int, relaxed: bool) -> nn.Sequential:
    return field_network(TASK, 3, 4, lambda *fields: RotationGroupConv2d(*fields, 3, banks, relaxed))


def test_relaxed_is_strict_where_w_is_constant() -> None:
    """Equal weights give equal bits, and three banks the function of one bank with their sum."""
    relaxed, strict, one = (network(*kind) for kind in ((3, True), (3, False), (1, False)))
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        for ours, theirs in zip(group_convs(relaxed), group_convs(one), strict=True):
            set_w(ours, torch.randn(3, 1).expand(3, 4))
            theirs.coefficients.copy_(
                (ours.w[:, 0, None, None, None, None, None] * ours.coefficients).sum(0, keepdim=True)
            )
        for ours, theirs in zip(group_convs(relaxed), group_convs(strict), strict=True):
            theirs.coefficients.copy_(ours.coefficients)
            theirs.w.copy_(ours.w)
        assert torch.equal(relaxed(x), strict(x))
        torch.testing.assert_close(relaxed(x), one(x))
    assert not any(layer.w.requires_grad for layer in group_convs(strict))
    assert all(layer.w.requires_grad for layer in group_convs(relaxed))
