"""Steerable layers against e2cnn itself, and what the relaxation does and leaves alone."""

import copy
from typing import Any

import model_support
import pytest
import torch
from e2cnn import nn as e2nn
from e2cnn.nn.init import generalized_he_init
from model_support import frames, layers_of, orbit, rotation_error, train
from torch.nn.utils import parametrize

from benchmark.models.baseline import Task
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.fields import Fields
from benchmark.models.layers.steerable import (
    SteerableConfig,
    SteerableConv2d,
    field_type,
    kernel_basis,
    r2conv,
    steerable_network,
)
from benchmark.models.relaxed_steerable_rotation import RelaxedSteerableRotation

TASK = Task("made_up", 2, 10, 10)
LAYERS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 1)),
]
SMALL = {"hidden": 3, "layers": 3}


def e2cnn_layer(layer: SteerableConv2d, order: int, fields: Any, kernel_size: int) -> e2nn.R2Conv:
    """e2cnn's own module with the coefficients of ours."""
    types = (field_type(order, *one) for one in fields)
    theirs = e2nn.R2Conv(*types, kernel_size, padding=kernel_size // 2, initialize=False)
    with torch.no_grad():
        theirs.weights.copy_(layer.coefficients.flatten())
        if layer.bias is not None:
            bias = torch.randn(fields[1][1])
            theirs.bias.copy_(bias)
            layer.get_parameter("parametrizations.bias.original").copy_(bias)
    return theirs


def relaxed(**config: Any) -> RelaxedSteerableRotation:
    model: RelaxedSteerableRotation = model_support.build(RelaxedSteerableRotation, TASK, **{**SMALL, **config})
    return model


def coefficients(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [layer.coefficients for layer in layers_of(SteerableConv2d, model)]


@pytest.mark.parametrize("order", [4, 8])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("fields", LAYERS)
def test_layer_is_that_of_e2cnn(order: int, kernel_size: int, fields: Any) -> None:
    layer = SteerableConv2d(order, *fields, kernel_size)
    theirs = e2cnn_layer(layer, order, fields, kernel_size)
    x = torch.randn(2, theirs.in_type.size, 9, 7)
    torch.testing.assert_close(layer(x), theirs(e2nn.GeometricTensor(x, theirs.in_type)).tensor)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_r2conv_is_that_of_e2cnn(mode: str) -> None:
    """Also after a copy, within a cache and in either mode; test_adding_a_baseline.py has a network of D4."""
    types = field_type(4, "vector", 2), field_type(4, "regular", 3)
    options = {"padding": 2, "stride": 2, "padding_mode": mode}
    ours, theirs = r2conv(*types, 5, **options), e2nn.R2Conv(*types, 5, **options)
    with torch.no_grad():
        theirs.weights.copy_(ours.get_parameter("parametrizations.weights.original"))
        ours.bias.copy_(theirs.bias.normal_())
    x = e2nn.GeometricTensor(torch.randn(2, types[0].size, 9, 7), types[0])
    expected = theirs(x).tensor
    torch.testing.assert_close(ours(x).tensor, expected)
    with parametrize.cached():
        torch.testing.assert_close(copy.deepcopy(ours.eval())(x).tensor, expected)


@pytest.mark.parametrize("fields", LAYERS)
def test_start_has_the_variance_of_e2cnn(fields: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (field_in, many_in), (field_out, many_out) = fields
    expansion = e2nn.R2Conv(*(field_type(4, *one) for one in fields), 3, initialize=False).basisexpansion
    theirs = torch.zeros(expansion.dimension())
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    generalized_he_init(theirs, expansion)
    ours = kernel_basis(4, field_in, field_out, 3).deviation / many_in**0.5
    torch.testing.assert_close(ours.expand(many_out, many_in, -1).flatten(), theirs)


def test_size_of_the_basis() -> None:
    assert kernel_basis(4, "regular", "regular", 3).kernels.shape == (3, 3, 24, 4, 4)
    assert kernel_basis(4, "vector", "regular", 3).kernels.shape == (3, 3, 12, 4, 2)


@pytest.mark.parametrize("order", [4, 8])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("is_relaxed", [False, True])
@pytest.mark.parametrize("grid", [(12, 12), (9, 14)], ids=str)
def test_quarter_turns_are_exact(order: int, kernel_size: int, is_relaxed: bool, grid: tuple[int, int]) -> None:
    sizes = SteerableConfig.model_validate({"order": order, "hidden": 3, "layers": 4, "kernel_size": kernel_size})
    network = steerable_network(sizes, TASK, is_relaxed)
    x = torch.randn(2, 2, 2, *grid)
    assert rotation_error(lambda field: network(field.flatten(1, 2)), x) < 1e-5


def test_symmetric_data_leave_the_function_equivariant() -> None:
    """On data that hold all four turns of each window the loss is invariant, so the filter's gradient is equivariant,
    and that of w(y) = <dK(y), Phi(y)> is the same along each orbit of positions: centre, edges, corners. w may differ
    between orbits, so the penalty grows, while K(g y) = rho K(y) rho^-1 remains.
    """
    model = relaxed(penalty=1.0).double()
    x, y = frames(TASK).double(), torch.randn(2, 2, 10, 10).double()
    train(model, orbit(x), orbit(y))
    assert rotation_error(model, x) < 1e-6  # e2cnn's basis is single precision
    for layer in layers_of(SteerableConv2d, model):
        w = layer.expansion.relaxation(layer.coefficients)
        torch.testing.assert_close(w.rot90(1, (2, 3)), w, rtol=0, atol=1e-6)
    assert model.penalty() > 1e-5


@pytest.mark.parametrize("kernel_size", [0, 2, -1])
def test_even_kernels_are_refused(kernel_size: int) -> None:
    with pytest.raises(ValueError, match="kernel_size"):
        E2CNN.Config(kernel_size=kernel_size)
