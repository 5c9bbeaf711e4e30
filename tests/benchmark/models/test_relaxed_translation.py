"""The relaxed convolution against its definition, and what the relaxation does and leaves alone."""

from __future__ import annotations

import itertools
from typing import Any

import model_support
import pytest
import torch
import torch.nn.functional as F
from model_support import layers_of, parameter_count, train
from torch import Tensor, nn

from benchmark.groups import shift
from benchmark.models.baseline import Task
from benchmark.models.relaxed_group_translation import RelaxedConv2d, RelaxedGroupTranslation

GRID = (8, 6)


def build(periodic: bool = False, **config: Any) -> RelaxedGroupTranslation:
    task = Task("made_up", 2, 2, *GRID, periodic=periodic)
    model: RelaxedGroupTranslation = model_support.build(RelaxedGroupTranslation, task, hidden=3, layers=3, **config)
    return model


def shifted(field: Tensor) -> Tensor:
    """The windows in all places of a periodic box."""
    places = itertools.product(*map(range, GRID))
    return torch.cat([shift(field, x, y, periodic=True) for x, y in places])


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_layer_is_its_definition(mode: Any) -> None:
    """b + sum_l w_l(x) sum_y f(x + y) psi_l(y), pixel by pixel."""
    layer = RelaxedConv2d(GRID, 3, 2, 4, 3, mode)
    f = torch.randn(2, *GRID)
    with torch.no_grad():
        layer.w.normal_()
        layer.bias.normal_()
    around = F.pad(f[None], (1, 1, 1, 1), "circular" if mode == "circular" else "constant")[0]
    banks = layer.filters.reshape(3, 4, 2, 3, 3)
    g = layer(f[None])[0]
    for i, j in itertools.product(*map(range, GRID)):
        patches = torch.einsum("loixy,ixy->lo", banks, around[:, i : i + 3, j : j + 3])
        torch.testing.assert_close(g[:, i, j], layer.bias + layer.w[:, i, j] @ patches)


@pytest.mark.parametrize("banks", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_starts_as_a_plain_convolution(banks: int, mode: Any) -> None:
    layer = RelaxedConv2d(GRID, banks, 64, 64, 3, mode)
    plain = nn.Conv2d(64, 64, 3, padding=1, padding_mode=mode, bias=False)
    theirs = plain.weight.std().item()
    with torch.no_grad():
        plain.weight.copy_(layer.filters.unflatten(0, (banks, -1)).sum(0) / banks**0.5)
    x = torch.randn(2, 64, *GRID)
    torch.testing.assert_close(layer(x), plain(x))
    assert plain.weight.std().item() == pytest.approx(theirs, rel=0.02)


def test_banks_differ_at_the_start_and_go_apart() -> None:
    model = build(banks=2)
    for layer in layers_of(RelaxedConv2d, model):
        first, second = layer.filters.chunk(2)
        assert (first - second).abs().min() > 0
        assert torch.equal(*layer.w)
    train(model, torch.randn(4, 2, 2, *GRID), torch.randn(4, 2, *GRID))
    for layer in layers_of(RelaxedConv2d, model):
        assert (layer.w[0] - layer.w[1]).abs().min() > 0


def test_penalty_is_zero_only_for_constant_w() -> None:
    for periodic in (False, True):
        model = build(periodic, penalty=2.0)
        assert model.penalty() == 0
        for layer, bank in itertools.product(layers_of(RelaxedConv2d, model), range(2)):
            with torch.no_grad():
                layer.w[bank] += 0.5  # each bank may have its own constant
                assert model.penalty() == 0
        for layer, i, j in itertools.product(layers_of(RelaxedConv2d, model), *map(range, GRID)):
            with torch.no_grad():
                layer.w[1, i, j] += 0.5
                assert model.penalty() > 0
                layer.w[1, i, j] -= 0.5
        assert model.penalty() == 0
    assert build(penalty=0.0).penalty() == 0


def test_penalty_of_a_ramp() -> None:
    """w = 3 x + y: differences 3 and 1, mean 2, in each of three layers; round a periodic box the seam adds as much as
    all the others together, so the means are 3 (2 - 2 / H) and 2 - 2 / W. alpha is linear.
    """
    height, width = GRID
    ramp = 3 * torch.arange(float(height))[:, None] + torch.arange(float(width))
    seam = 0.5 * (3 * (2 - 2 / height) + (2 - 2 / width))
    for alpha, (periodic, expected) in itertools.product((0.1, 0.2), ((False, 2.0), (True, seam))):
        model = build(periodic, penalty=alpha)
        for layer in layers_of(RelaxedConv2d, model):
            with torch.no_grad():
                layer.w.copy_(ramp)
        assert model.penalty().item() == pytest.approx(alpha * expected * 3)


def test_symmetric_data_leave_w_constant() -> None:
    """On windows in all places of a periodic box the gradient of w is the same at all pixels."""
    model = build(periodic=True, penalty=1.0).double()
    x, y = torch.randn(1, 2, 2, *GRID).double(), torch.randn(1, 2, *GRID).double()
    before = [layer.w.detach().clone() for layer in layers_of(RelaxedConv2d, model)]
    train(model, shifted(x), shifted(y))
    assert all(
        (layer.w - w).abs().max() > 1e-5 for layer, w in zip(layers_of(RelaxedConv2d, model), before, strict=True)
    )
    assert model.penalty() < 1e-14


@pytest.mark.parametrize("grid", [(6, 8), (8, 7), (1, 1)], ids=str)
def test_another_grid_is_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"8 x 6 grid; the field is {grid[0]} x {grid[1]}"):
        build()(torch.randn(1, 2, 2, *grid))


def test_published_size() -> None:
    """h128, 5 layers, 2 banks on 64 x 64: twice the filters of the ConvNet, two maps a layer."""
    model = RelaxedGroupTranslation(RelaxedGroupTranslation.Config(), Task("smoke_translation", 10, 2, 64, 64))
    filters = 9 * (20 * 128 + 3 * 128**2 + 128 * 2)
    biases, maps = 4 * 128 + 2, 5 * 2 * 64**2
    assert parameter_count(model) == 2 * filters + biases + maps
