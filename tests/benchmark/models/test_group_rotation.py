"""Group convolutions of C4, strict and relaxed, against their definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import model_support
import pytest
import torch
from model_support import frames, layers_of, orbit, parameter_count, rotation_error, train
from torch import Tensor, nn

from benchmark.groups import rotate
from benchmark.models.baseline import Task
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import RotationGroupConv2d, group_filter
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation

TASK = Task("made_up", 2, 2, 10, 10)
FIELDS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 1)),
]


def build(on: Task = TASK, **config: Any) -> RelaxedGroupRotation:
    model: RelaxedGroupRotation = model_support.build(RelaxedGroupRotation, on, **{"hidden": 4, **config})
    return model


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
        layer.w.normal_()
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
        regular.w.normal_()
        for layer in (lifting, projecting):
            layer.coefficients.copy_(regular.coefficients)
            layer.w.copy_(regular.w)
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
        layer.w.copy_(torch.randn(3, 1).expand(3, 4))
        if layer.bias is not None:
            layer.get_parameter("parametrizations.bias.original").normal_()
    assert equivariance_error(layer, x, fields[0][0], fields[1][0]) < 1e-13
    with torch.no_grad():
        layer.w[0, 0] += 0.1
    assert equivariance_error(layer, x, fields[0][0], fields[1][0]) > 1e-3


def network(banks: int, relaxed: bool) -> nn.Sequential:
    return field_network(2, 3, 4, lambda *fields: RotationGroupConv2d(*fields, 3, banks, relaxed))


def test_relaxed_is_strict_where_w_is_constant() -> None:
    """Equal weights give equal bits, and three banks the function of one bank with their sum."""
    relaxed, strict, one = (network(*kind) for kind in ((3, True), (3, False), (1, False)))
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        for ours, theirs in zip(group_convs(relaxed), group_convs(one), strict=True):
            ours.w.copy_(torch.randn(3, 1).expand(3, 4))
            theirs.coefficients.copy_(
                (ours.w[:, 0, None, None, None, None, None] * ours.coefficients).sum(0, keepdim=True)
            )
        strict.load_state_dict(relaxed.state_dict())
        assert torch.equal(relaxed(x), strict(x))
        torch.testing.assert_close(relaxed(x), one(x))
    assert not any(layer.w.requires_grad for layer in group_convs(strict))
    assert all(layer.w.requires_grad for layer in group_convs(relaxed))


def test_penalty_of_the_relaxed_group_convolution() -> None:
    """w_l(h) = h: differences 1, 1, 1 and, from the last turn to the first, 3; the mean is 1.5 in each of 5 layers."""
    for alpha in (0.1, 0.2):
        model = build(penalty=alpha)
        assert model.penalty() == 0
        for layer in group_convs(model):
            for turn in range(4):
                with torch.no_grad():
                    layer.w[1, turn] += 0.5
                    assert model.penalty() > 0
                    layer.w[1, turn] -= 0.5
        assert model.penalty() == 0
        with torch.no_grad():
            for layer in group_convs(model):
                layer.w.copy_(torch.arange(4.0).expand(3, 4))
        assert model.penalty().item() == pytest.approx(alpha * 1.5 * 5)
    assert build().penalty() == 0


def test_symmetric_data_leave_the_relaxation_alone() -> None:
    """On data that hold all four turns of each window the loss does not change when all w are turned, so their gradient
    is constant over the turns where they are.
    """
    model = build(penalty=1.0).double()
    x, y = frames(TASK).double(), torch.randn(2, 2, 10, 10).double()
    before = [layer.w.detach().clone() for layer in group_convs(model)]
    train(model, orbit(x), orbit(y))
    assert rotation_error(model, x) < 1e-12
    assert model.penalty() < 1e-12
    assert any((layer.w - w).abs().max() > 1e-6 for layer, w in zip(group_convs(model), before, strict=True))


def test_small_relaxations_survive_bf16() -> None:
    """1 + 2^-10 is 1 in bf16; the filter must be mixed before it is rounded."""
    layer = RotationGroupConv2d(("regular", 1), ("regular", 1), 1, 2, relaxed=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer.w.fill_(1.0)
        layer.coefficients[0], layer.coefficients[1] = 1.0, -1.0
        layer.w[0, 2] += 2**-10
        assert layer.weight[0, :, 0, 0].tolist() == [0, 0, 2**-10, 0]


def test_published_size() -> None:
    model = build(Task("smoke_rotation", 10, 2, 64, 64), hidden=130)
    assert parameter_count(model) == pytest.approx(5.6e6, rel=0.01)
