"""Residual pathway priors for translation, rotation and scale, against their definitions and strict networks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_support import CLOSED, PERIODIC, SCALES, boxes, frames, layers_of, projections, randomise
from model_support import small as build
from torch import nn

from benchmark.models.baseline import Task
from benchmark.models.convnet import ConvNet
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.residual_pathway import SummedPathways
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.rpp_rotation import RPPRotation, free_convolution
from benchmark.models.rpp_scale import FreeScaleConv2d, RPPScale
from benchmark.models.rpp_translation import LowRankPathway, RPPTranslation
from benchmark.models.sesn import SESN

LAYERS: list[tuple[Any, Any]] = [
    (("vector", 4), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 2)),
]


# Translation


@boxes
def test_rpp_translation_without_its_free_path_is_the_convnet(on: Task) -> None:
    rpp, convnet, x = build(RPPTranslation, on), build(ConvNet, on), frames(on)
    with torch.no_grad():
        for ours, theirs in zip(layers_of(LowRankPathway, rpp), convnet.network[::2], strict=True):
            theirs.load_state_dict(ours.equivariant.state_dict())
        torch.testing.assert_close(rpp(x), convnet(x), rtol=0, atol=1e-2)  # it starts close to it
        for layer in layers_of(LowRankPathway, rpp):
            layer.u.zero_()
        assert torch.equal(rpp(x), convnet(x))


@boxes
def test_the_free_path_is_a_matrix_of_low_rank(on: Task) -> None:
    layer = LowRankPathway((on.height, on.width), 3, 2, 4, 3, padding_mode=on.padding_mode).double()
    randomise(layer)
    x = torch.randn(2, 2, on.height, on.width).double()
    with torch.no_grad():
        w = torch.einsum("or,ri->oi", layer.u, layer.v) / (3 * layer.v.shape[1]) ** 0.5
        assert torch.linalg.matrix_rank(w) == 3
        free = torch.stack([w @ one.flatten() + layer.c for one in x]).reshape(2, 4, on.height, on.width)
        torch.testing.assert_close(layer(x), layer.equivariant(x) + free)


def test_the_free_path_starts_at_a_thousandth_of_the_convolution() -> None:
    layer, x = LowRankPathway((16, 16), 32, 8, 8, 3), torch.randn(64, 8, 16, 16)
    with torch.no_grad():
        convolved = layer.equivariant(x)
        ratio = (layer(x) - convolved).std() / convolved.std()
    assert ratio.item() == pytest.approx(1e-3, rel=0.2)


def test_penalty_of_rpp_translation() -> None:
    """lambda_K |K|^2 + lambda_W |W, c|^2 with W as the whole matrix; the biases b are free of it."""
    model = build(RPPTranslation, equivariant_penalty=0.5, free_penalty=2.0).double()
    randomise(model)
    expected = 0.0
    for layer in layers_of(LowRankPathway, model):
        w = layer.u @ layer.v / layer.v.numel() ** 0.5
        expected += 0.5 * layer.equivariant.weight.square().sum() + 2.0 * (w.square().sum() + layer.c.square().sum())
    torch.testing.assert_close(model.penalty(), expected)
    assert build(RPPTranslation, equivariant_penalty=0.0, free_penalty=0.0).penalty() == 0


def test_only_the_free_path_breaks_translation() -> None:
    model, x, shift = build(RPPTranslation, PERIODIC).double(), frames(PERIODIC).double(), ((2, 3), (-2, -1))

    def error() -> float:
        with torch.no_grad():
            y = model(x).roll(*shift)
            return float((model(x.roll(*shift)) - y).abs().max() / y.abs().max())

    assert error() > 1e-5
    for layer in layers_of(LowRankPathway, model):
        nn.init.zeros_(layer.u)
    assert error() < 1e-13
    for layer in layers_of(LowRankPathway, model):
        nn.init.normal_(layer.c)
    assert error() > 1e-2


# Rotation and scale


@boxes
@pytest.mark.parametrize(
    ("rpp", "strict", "layer", "config"),
    [
        (RPPScale, SESN, ScaleConv2d, {"projection": "max"}),
        (RPPScale, SESN, ScaleConv2d, {"projection": "mean"}),
        (RPPRotation, E2CNN, SteerableConv2d, {"order": 4}),
        (RPPRotation, E2CNN, SteerableConv2d, {"order": 8}),
    ],
)
def test_without_its_free_path_it_is_the_strict_network(
    rpp: Any, strict: Any, layer: Any, config: Any, on: Task
) -> None:
    ours, theirs, x = build(rpp, on, **config), build(strict, on, **config), frames(on)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))  # the same random numbers, and the free path starts at zero
        for parameter in theirs.parameters():
            parameter.add_(0.1)
        for pathway, convolution in zip(layers_of(SummedPathways, ours), layers_of(layer, theirs), strict=True):
            pathway.equivariant.load_state_dict(convolution.state_dict())
        assert torch.equal(ours(x), theirs(x))


@boxes
@pytest.mark.parametrize("fields", LAYERS)
def test_pathways_add_up(fields: Any, on: Task) -> None:
    scaled = ScaleConv2d(SCALES, *fields, 3, padding_mode=on.padding_mode)
    steerable = SteerableConv2d(4, *fields, 3, padding_mode=on.padding_mode)
    h = torch.randn(3, 2, fields[0][1], on.height, on.width)
    x = torch.randn(2, steerable.weight.shape[1], on.height, on.width)
    for strict, free, inputs in ((scaled, FreeScaleConv2d(scaled), h), (steerable, free_convolution(steerable), x)):
        layer = SummedPathways(strict, free)
        with torch.no_grad():
            assert torch.equal(layer(inputs), strict(inputs))
            randomise(layer)
            assert free(inputs).abs().max() > 1
            torch.testing.assert_close(layer(inputs), strict(inputs) + free(inputs), rtol=1e-4, atol=1e-3)


@projections
def test_rpp_scale_without_its_equivariant_path_is_a_convnet_for_each_scale(projection: str) -> None:
    rpp, x = build(RPPScale, layers=3, projection=projection), frames(CLOSED)
    pathways = layers_of(SummedPathways, rpp)
    randomise(rpp)
    velocities = []
    with torch.no_grad():
        for layer in pathways:
            for parameter in layer.equivariant.parameters():
                parameter.zero_()
        begin = 0
        for s, size in enumerate((3, 5, 7)):  # 3 s cells, and as many more as their square touches
            h = x.flatten(1, 2)
            for layer in pathways:
                kernel = layer.free.weight[..., begin : begin + size**2].unflatten(-1, (size, size))
                h = F.conv2d(h.relu() if layer is not pathways[0] else h, kernel, layer.free.bias[s], padding=size // 2)
            velocities.append(h)
            begin += size**2
        together = torch.stack(velocities)
        expected = together.amax(0) if projection == "max" else together.mean(0)
        torch.testing.assert_close(rpp(x), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("model", [RPPScale, RPPRotation])
def test_penalty_of_both_paths(model: type[Any]) -> None:
    """Two in every free number and three in every coefficient: 4 lambda_W and 9 lambda_K for each."""
    rpp = build(model, equivariant_penalty=0.5, free_penalty=2.0)
    pathways = layers_of(SummedPathways, rpp)
    coefficients = [layer.equivariant.coefficients for layer in pathways]
    free = [parameter for layer in pathways for parameter in layer.free.parameters()]
    with torch.no_grad():
        for some, value in ((coefficients, 3.0), (free, 2.0)):
            for parameter in some:
                parameter.fill_(value)
    many, many_free = (sum(parameter.numel() for parameter in some) for some in (coefficients, free))
    assert rpp.penalty().item() == pytest.approx(0.5 * 9 * many + 2 * 4 * many_free)
    assert build(model, equivariant_penalty=0.0).penalty() == 0  # the free path starts at zero


def test_rpp_rotation_without_its_equivariant_path_is_the_convnet() -> None:
    rpp, x = build(RPPRotation, hidden=3), frames(CLOSED)
    convnet = build(ConvNet, hidden=12)
    with torch.no_grad():
        for ours, theirs in zip(layers_of(SummedPathways, rpp), convnet.network[::2], strict=True):
            for parameter in ours.equivariant.parameters():
                parameter.zero_()
            ours.free.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(rpp(x), convnet(x))
