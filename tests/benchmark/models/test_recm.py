"""Recurrent modulation: its state against the equations, and the limits of lambda."""

from typing import Any

import model_support
import pytest
import torch
import torch.nn.functional as F
from model_support import frames, orbit, rotation_error, train
from torch import Tensor, nn

from benchmark.models.baseline import Task
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.free_branch import (
    FreeBranch,
    add_free_branches,
    asymmetric_part,
    equivariant_filters,
    free_branch,
    steerable_layers,
)
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.recm import RECM, Modulation

TASK = Task("made_up", 2, 8, 8, periodic=True)


def build(**config: Any) -> RECM:
    model: RECM = model_support.build(RECM, TASK, **{"hidden": 3, "layers": 3, **config})
    return model


def branches_of(model: nn.Module) -> list[FreeBranch]:
    return [free_branch(layer) for layer in steerable_layers(model)]


def strengths(model: nn.Module) -> list[float]:
    return [branch.strength.item() for branch in branches_of(model)]


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_recm_starts_as_the_strict_network() -> None:
    model, x = build(), frames(TASK)
    assert strengths(model) == [1, 1, 1]
    twin = E2CNN(E2CNN.Config(hidden=3, layers=3), TASK)
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if key in twin.state_dict()})
    torch.testing.assert_close(model(x), twin(x))
    assert rotation_error(model, frames(TASK)) < 1e-5


def test_state_follows_its_equations() -> None:
    """Three steps, in double precision, with the gradient of the filter taken by autograd itself."""
    torch.manual_seed(0)
    rate, strength = 0.3, torch.tensor(0.7, dtype=torch.double)
    layer = SteerableConv2d(4, ("vector", 2), ("vector", 1), 3).double()
    (branch,) = add_free_branches(layer, strength.item(), in_evaluation=True)
    branch.double()
    nn.init.normal_(branch.filters)
    modulation = Modulation(branch.filters, rate).double()
    mean, square, norm = torch.zeros_like(branch.filters), torch.zeros(()), torch.zeros(())
    for _ in range(3):
        x, y = torch.randn(2, 4, 5, 5).double(), torch.randn(2, 2, 5, 5).double()
        equivariant, before = equivariant_filters(layer).detach(), branch.filters.detach().clone()
        filters = (equivariant + strength * before).requires_grad_()
        (F.conv2d(x, filters, padding=1) - y).square().mean().backward()
        gradient = gradient_of(filters)
        layer.zero_grad()
        (layer(x) - y).square().mean().backward()
        modulation.update(branch, equivariant)

        norm = (1 - rate) * norm + rate * gradient.norm()
        target = filters.detach() / filters.detach().norm() - gradient / max(norm, gradient.norm())
        d = asymmetric_part(target, (2, 2))
        mean, square = (1 - rate) * mean + rate * d, (1 - rate) * square + rate * d.norm() ** 2
        gap = (mean.norm() - (square * rate / (2 - rate)).sqrt()).clamp(0, 1)
        strength = (1 - rate) * strength + rate * gap
        torch.testing.assert_close(branch.strength, strength)
        torch.testing.assert_close(modulation.mean, mean)
        shrink = min(1.0, (equivariant.norm() / before.norm()).item())
        torch.testing.assert_close(branch.filters.detach(), shrink * before)


def test_noise_has_no_gap() -> None:
    """Gradients without a mean leave |h| at the length that is subtracted; with one, its share remains."""
    torch.manual_seed(0)
    layer = SteerableConv2d(4, ("regular", 4), ("regular", 4), 3)
    drift = torch.randn_like(layer.weight).detach()
    lambdas = []
    for mean in (0.0, 1.0):
        (branch,) = add_free_branches(SteerableConv2d(4, ("regular", 4), ("regular", 4), 3), 1.0, in_evaluation=True)
        modulation = Modulation(branch.filters, 0.1)
        for _ in range(150):
            branch.filters.grad = branch.strength * (torch.randn_like(drift) + mean * drift)
            modulation.update(branch, layer.weight.detach())
        lambdas.append(branch.strength.item())
    assert lambdas[0] < 0.02
    assert lambdas[1] > 0.3


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_one_layer_finds_the_share_that_breaks_the_symmetry(is_symmetric: bool) -> None:
    """y = T * x and noise for x: W starts free; lambda falls to zero where T is equivariant, and otherwise not below
    |N(T)| / |K|, what it takes with |W| <= |K|.
    """
    model = build(layers=1, rate=0.05)
    (layer,), (branch,) = steerable_layers(model), branches_of(model)
    torch.manual_seed(1)
    nn.init.normal_(branch.filters, std=0.2)
    target = SteerableConv2d(4, ("vector", 2), ("vector", 1), 3).weight.detach()
    broken = asymmetric_part(torch.randn_like(target), branch.fields)
    if not is_symmetric:
        target = target + 0.3 * target.norm() / broken.norm() * broken
    for _ in range(400):
        x = torch.randn(8, 2, 2, 8, 8)
        y = F.conv2d(F.pad(x.flatten(1, 2), (1, 1, 1, 1), "circular"), target)
        train(model, x, y, steps=1, learning_rate=0.2)
        assert branch.filters.norm() <= 1.1 * equivariant_filters(layer).norm()
    torch.testing.assert_close(layer.weight, target, rtol=0, atol=0.02)
    needed = asymmetric_part(target, branch.fields).norm() / equivariant_filters(layer).norm()
    assert 0.95 * needed <= branch.strength <= 1.5 * needed + 0.01


def test_symmetric_data_recover_equivariance_and_broken_data_do_not() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(4, 2, 2, 8, 8), torch.randn(4, 2, 8, 8)
    symmetric, broken = build(rate=0.05), build(rate=0.05)
    train(symmetric, orbit(x), orbit(y), steps=80)
    train(broken, x, torch.ones_like(y), steps=80)
    assert max(strengths(symmetric)) < 0.05
    assert rotation_error(symmetric.eval(), x) < 1e-4
    assert min(strengths(broken)) > 0.1
    assert rotation_error(broken.eval(), x) > 0.1


def test_gradients_of_zero_are_no_signal() -> None:
    model = build()
    (0 * model(torch.randn(1, 2, 2, 8, 8))).sum().backward()
    model.before_step(0.0)
    assert strengths(model) == pytest.approx([0.99, 0.99, 0.99])
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_modulation_stays_readable_when_lambda_is_gone() -> None:
    """At its least lambda adds nothing to the filter, and it comes back when the gradients ask for it."""
    layer = SteerableConv2d(4, ("vector", 1), ("vector", 1), 3)
    (branch,) = add_free_branches(layer, 1e-12, in_evaluation=True)
    modulation = Modulation(branch.filters, 0.5)
    equivariant = equivariant_filters(layer).detach()
    for wanted in (0.0, 1.0):
        for _ in range(20):
            layer.zero_grad()
            (layer.weight * wanted * torch.eye(3)).sum().backward()
            modulation.update(branch, equivariant)
        if not wanted:
            assert branch.strength.item() == pytest.approx(1e-12, rel=1e-3, abs=0)
            assert torch.equal(layer.weight, equivariant)
    assert branch.strength > 0.2
