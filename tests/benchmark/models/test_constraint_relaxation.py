"""Free branches of steerable convolutions, and their schedule in constraint relaxation."""

import itertools
from typing import Any

import model_support
import pytest
import torch
import torch.nn.functional as F
from model_support import frames, rotation_error, train
from torch import nn

from benchmark.groups import rotate
from benchmark.models.baseline import Task
from benchmark.models.constraint_relaxation import ConstraintRelaxation, theta
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.fields import Fields
from benchmark.models.layers.free_branch import add_free_branches, asymmetric_part, equivariant_filters, quarter_turn
from benchmark.models.layers.steerable import SteerableConv2d

TASK = Task("made_up", 2, 8, 8, periodic=True)
SMALL = {"hidden": 3, "layers": 3}
LAYERS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 1)),
    (("vector", 2), ("vector", 1)),
]


def build(**config: Any) -> ConstraintRelaxation:
    model: ConstraintRelaxation = model_support.build(ConstraintRelaxation, TASK, **SMALL, **config)
    return model


def strengths(model: ConstraintRelaxation) -> list[float]:
    return [branch.strength.item() for branch in model.branches]


def strict_twin(model: ConstraintRelaxation) -> E2CNN:
    """`e2cnn` with the coefficients and biases of `model`."""
    twin = E2CNN(E2CNN.Config.model_validate(SMALL), TASK)
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if key in twin.state_dict()})
    return twin


# Free branches


@pytest.mark.parametrize("order", [4, 8])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("fields", LAYERS)
def test_steerable_filters_are_those_that_a_turn_leaves_alone(order: Any, kernel_size: int, fields: Any) -> None:
    before, after = fields
    layer = SteerableConv2d(order, before, after, kernel_size)
    (branch,) = add_free_branches(layer, 0.5, in_evaluation=True)
    steerable, free = equivariant_filters(layer).detach(), torch.randn_like(branch.filters)
    torch.testing.assert_close(quarter_turn(steerable, branch.fields), steerable)
    torch.testing.assert_close(asymmetric_part(steerable, branch.fields), torch.zeros_like(steerable))
    turns = [free]
    for _ in range(4):
        turns.append(quarter_turn(turns[-1], branch.fields))
    assert (turns[1] - free).norm() > 0.3 * free.norm()
    torch.testing.assert_close(turns[4], free)
    asymmetric = asymmetric_part(free, branch.fields)
    torch.testing.assert_close(asymmetric, free - torch.stack(turns[:4]).mean(0))
    torch.testing.assert_close(asymmetric_part(asymmetric, branch.fields), asymmetric)


def test_turned_filters_give_the_turned_field() -> None:
    """(g W) * (g f) = g (W * f), for vectors in and out."""
    filters, f = torch.randn(2, 4, 3, 3), torch.randn(1, 2, 2, 7, 7)
    turned = F.conv2d(rotate(f, 1, "centered").flatten(1, 2), quarter_turn(filters, (2, 2)), padding=1)
    torch.testing.assert_close(turned, rotate(F.conv2d(f.flatten(1, 2), filters, padding=1), 1, "centered"))


@pytest.mark.parametrize(("in_evaluation", "training"), list(itertools.product((True, False), repeat=2)))
def test_both_paths_are_one_convolution(in_evaluation: bool, training: bool) -> None:
    layer = SteerableConv2d(4, ("vector", 2), ("regular", 3), 3)
    x = torch.randn(2, 4, 6, 5)
    strict = layer(x)
    (branch,) = add_free_branches(layer, 0.25, in_evaluation)
    torch.testing.assert_close(layer(x), strict)
    nn.init.normal_(branch.filters)
    there = 0.25 if training or in_evaluation else 0.0
    expected = strict + there * F.conv2d(x, branch.filters, padding=1)
    torch.testing.assert_close(layer.train(training)(x), expected)


# Constraint relaxation


def test_theta_rises_over_the_first_half_and_falls_over_the_second() -> None:
    expected = {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}
    model = build()
    assert strengths(model) == [0, 0, 0]
    for progress, value in expected.items():
        assert theta(progress) == pytest.approx(value)
        model.before_step(progress)
        assert strengths(model) == pytest.approx(3 * [value])


def test_relaxed_in_training_and_strict_in_evaluation() -> None:
    model = build()
    x = frames(TASK)
    torch.testing.assert_close(model(x), strict_twin(model)(x), rtol=0, atol=0)
    train(model, x, torch.ones(2, 2, 8, 8), steps=6)  # a wind along the diagonal
    model.before_step(0.5)
    assert rotation_error(model, frames(TASK)) > 0.1
    assert rotation_error(model.eval(), frames(TASK)) < 1e-5
    torch.testing.assert_close(model(x), strict_twin(model)(x), rtol=0, atol=0)


def test_theta_stands_in_checkpoints() -> None:
    model, other = build(), build()
    model.before_step(0.4)
    other.load_state_dict(model.state_dict())
    assert strengths(other) == pytest.approx([0.8, 0.8, 0.8])


def test_penalty_of_the_free_filters() -> None:
    """|W| + |W - g W|: the second is zero for an equivariant W, and 2 |W| for one that a turn gives the other sign."""
    for alpha, sign in itertools.product((0.1, 0.2), (1, -1)):
        model = build(penalty=alpha)
        total = 0.0
        for branch in model.branches:
            with torch.no_grad():
                part = torch.randn_like(branch.filters)
                for _ in range(2):  # twice the projection on filters with g W = sign W
                    turn = quarter_turn(part, branch.fields)
                    half = part + quarter_turn(turn, branch.fields)
                    part = (half + sign * quarter_turn(half, branch.fields)) / 4
                branch.filters.copy_(part)
                total += part.norm().item() * (1 if sign == 1 else 3)
        assert model.penalty().item() == pytest.approx(alpha * total, rel=1e-5)
    assert build(penalty=0.0).penalty() == 0
