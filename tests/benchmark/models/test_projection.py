"""Projections to equivariant convolutions, and the two penalties that use them."""

import copy
from typing import Any

import model_support
import pytest
import torch
from model_support import deviation, frames, layers_of
from torch import Tensor, nn

from benchmark.groups import rotate
from benchmark.models.baseline import Task
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.projection import (
    HALF_TURN,
    MIRROR_X,
    MIRROR_Y,
    ROTATIONS,
    Group,
    Motion,
    PlainLayer,
    represent,
)
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.layers.wrapper import Wrapper
from benchmark.models.per import PER
from benchmark.models.projection_penalty import ProjectionPenalty

TASK = Task("made_up", 2, 8, 8)
CONVNET = {"convnet": {"hidden": 8, "layers": 3}}
GROUPS = {"rotations": ROTATIONS, "half turn": HALF_TURN, "mirror x": MIRROR_X, "mirror y": MIRROR_Y}
LAYERS = {
    "in": (nn.Conv2d(4, 9, 3), "vector", "directions"),
    "inner": (nn.Conv2d(9, 8, 3), "directions", "directions"),
    "pointwise": (nn.Conv2d(8, 8, 1), "directions", "directions"),
    "up": (nn.ConvTranspose2d(8, 4, 2, stride=2), "directions", "directions"),
    "out": (nn.Conv2d(8, 2, 3), "directions", "vector"),
    "up and out": (nn.ConvTranspose2d(8, 2, 2, stride=2), "directions", "vector"),
}


def build(model: type[Any], **config: Any) -> Any:
    return model_support.build(model, TASK, **{"network": CONVNET, **config})


def matrix(channels: Any, motion: Motion, size: int) -> Tensor:
    return represent(channels, motion, torch.eye(size), 0)


def layer(name: str) -> PlainLayer:
    convolution, channels_in, channels_out = LAYERS[name]
    return PlainLayer(copy.deepcopy(convolution).double(), channels_in, channels_out)  # type: ignore[arg-type]


def put(one: PlainLayer, parts: list[Tensor]) -> None:
    with torch.no_grad():
        for ours, theirs in zip(one.parts(), parts, strict=True):
            ours.copy_(theirs)


def error(one: PlainLayer, group: Group) -> float:
    x = torch.randn(2, one.convolution.in_channels, 6, 6).double()
    worst = 0.0
    with torch.no_grad():
        for motion in group:
            of_moved = one.convolution(represent(one.channels_in, motion, motion.cells(x), 1))
            moved = represent(one.channels_out, motion, motion.cells(one.convolution(x)), 1)
            worst = max(worst, float((of_moved - moved).abs().max()))
    return worst


@pytest.mark.parametrize("channels", ["vector", "directions"])
def test_motions_are_represented(channels: Any) -> None:
    """A homomorphism of the group of the square: products of motions are products of their matrices."""
    turn, mirror = ROTATIONS[1], MIRROR_X[1]
    size = 4 if channels == "vector" else 10
    r, m = matrix(channels, turn, size), matrix(channels, mirror, size)
    for k, motion in enumerate(ROTATIONS):
        assert torch.equal(matrix(channels, motion, size), torch.linalg.matrix_power(r, k))
    assert torch.equal(m @ r @ m, r.T)
    assert torch.equal(matrix(channels, MIRROR_Y[1], size), r @ r @ m)
    assert torch.equal(matrix(channels, HALF_TURN[1], size), r @ r)
    t = torch.randn(3, size)
    torch.testing.assert_close(represent(channels, turn, t, 1), t @ r.T)
    if channels == "directions":
        assert torch.equal(r[8:, 8:], torch.eye(2))  # the channels that are left over
    else:
        x = torch.randn(1, 4, 5, 5)
        moved = represent("vector", turn, turn.cells(x), 1)
        assert torch.equal(moved.unflatten(1, (2, 2)), rotate(x.unflatten(1, (2, 2)), 1, "centered"))


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_motions_move_cells_as_vectors(group: Group) -> None:
    """The field v(p) = p, with p from the centre, is left alone by all of them, and so is the function p . e_h."""
    place = torch.arange(5.0) - 2
    x, y = torch.meshgrid(place, place, indexing="ij")
    for motion in group:
        for channels, field in (("vector", torch.stack((x, y))), ("directions", torch.stack((x, y, -x, -y)))):
            assert torch.equal(represent(channels, motion, motion.cells(field), 0), field)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("name", LAYERS)
def test_projection_is_one_and_makes_equivariant(name: str, group: Group) -> None:
    """P P = P, P(T) is orthogonal to T - P(T), and the layer P(T) commutes with the group on any field."""
    one = layer(name)
    before = [part.detach().clone() for part in one.parts()]
    projection = [part.detach().clone() for part in one.projection(group)]
    inner = sum(((part - mean) * mean).sum() for part, mean in zip(before, projection, strict=True))
    assert abs(float(inner)) < 1e-12
    assert one.deviation(group) > 0.1
    squares = sum(part.square().sum() for part in before)
    torch.testing.assert_close(one.deviation(group).square() + one.equivariant_norm(group).square(), squares)
    assert error(one, group) > 1e-2
    put(one, projection)
    assert one.deviation(group) < 1e-15
    assert error(one, group) < 1e-14


def test_projection_is_its_matrix_form() -> None:
    """A pointwise layer is a matrix: P(T) = mean of rho T rho^-1, and P(b) = mean of rho b."""
    one = layer("pointwise")
    filters, bias = one.parts()
    matrices = [matrix("directions", motion, 8).double() for motion in ROTATIONS]
    expected = torch.stack([rho @ filters[:, :, 0, 0] @ torch.linalg.inv(rho) for rho in matrices]).mean(0)
    projected, projected_bias = one.projection(ROTATIONS)
    torch.testing.assert_close(projected[:, :, 0, 0], expected)
    torch.testing.assert_close(projected_bias, bias.unflatten(0, (2, 4)).mean(1, keepdim=True).expand(2, 4).flatten())


def test_steerable_filters_are_their_own_projection() -> None:
    strict = E2CNN(E2CNN.Config(hidden=2, layers=3), TASK)
    convnet = build(ProjectionPenalty)
    for one, steerable in zip(convnet.layers, layers_of(SteerableConv2d, strict), strict=True):
        bias = torch.zeros(len(steerable.weight)) if steerable.bias is None else steerable.bias
        assert one.deviation(ROTATIONS) > 0.01
        put(one, [steerable.weight, bias])
        assert one.deviation(ROTATIONS) < 1e-6
        if steerable.bias is None:
            put(one, [steerable.weight, bias + 1])  # a velocity that stands still under rotation is zero
            torch.testing.assert_close(one.deviation(ROTATIONS), torch.tensor(2.0).sqrt())


# The projection penalty


def test_projected_networks_are_equivariant() -> None:
    """All layers projected: the ConvNet and the U-Net commute with quarter turns, also with channels left over."""
    for network in ({"convnet": {"hidden": 10, "layers": 3}}, {"unet": {"hidden": 4, "depth": 2}}, CONVNET):
        model, x = build(ProjectionPenalty, network=network).double(), frames(TASK).double()
        with torch.no_grad():
            for one in model.layers:
                put(one, one.projection(ROTATIONS))
            y = model(x)
            difference = model(rotate(x, 1, "centered")) - rotate(y, 1, "centered")
        assert difference.abs().max() < 1e-13 * (1 + y.abs().max())
        assert y.abs().max() > 1e-4
        assert model.penalty() < 1e-13


def test_projection_penalty_is_the_sum_of_norms() -> None:
    model = build(ProjectionPenalty, penalty=0.5, equivariant_penalty=2.0)
    expected = 0.0
    for one in model.layers:
        rests, means = [], []
        for part, mean in zip(one.parts(), one.projection(ROTATIONS), strict=True):
            rests += (part - mean).flatten().tolist()
            means += mean.flatten().tolist()
        expected += 0.5 * sum(n * n for n in rests) ** 0.5 + 2.0 * sum(n * n for n in means) ** 0.5
    assert len(model.layers) == 3
    assert model.penalty().item() == pytest.approx(expected)
    assert build(ProjectionPenalty, penalty=0.0).penalty() == 0


def test_projection_penalty_pulls_towards_the_symmetry_and_rests_there() -> None:
    model = build(ProjectionPenalty, penalty=1.0)
    for one in model.layers:
        put(one, one.projection(ROTATIONS))
    model.penalty().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    free = build(ProjectionPenalty, penalty=1.0)
    free.penalty().backward()
    for one in free.layers:
        rest, distance = one.convolution.weight - one.projection(ROTATIONS)[0], one.deviation(ROTATIONS)
        torch.testing.assert_close(one.convolution.weight.grad, rest / distance)


def test_penalty_of_a_copy_is_that_of_its_own_weights() -> None:
    model = build(ProjectionPenalty)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert model.penalty() == 0
    assert twin.penalty() > 0
    assert model.state_dict().keys() == {f"network.{key}" for key in model.network.state_dict()}


def test_group_convolutions_pay_for_their_relaxation_alone() -> None:
    model = build(ProjectionPenalty, network={"relaxed_group_rotation": {"hidden": 2, "layers": 3}}, penalty=1.0)
    assert model.penalty() < 1e-5
    with torch.no_grad():
        deviation(model.network.network[2])[0, 0] += 1.0
    assert model.penalty() > 0.1


@pytest.mark.parametrize("model", [ProjectionPenalty, PER])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("mlp", "mlp: Linear is"),
        ("fno", "fno: SpectralConv2d is"),
        ("coordconv", "coordconv: CoordConv2d is"),
        ("e2cnn", "e2cnn: SteerableConv2d is"),
        ({"unet": {"hidden": 6}}, "multiples of 4"),
    ],
)
def test_other_networks_are_refused(model: type[Wrapper], network: Any, reason: str) -> None:
    state = torch.get_rng_state()
    assert reason in (model.refusal(model.Config.model_validate({"network": network}), TASK) or "")
    assert torch.equal(torch.get_rng_state(), state)
    assert model.refusal(model.Config.model_validate({"network": {"unet": {"hidden": 4}}}), TASK) is None


# PER


def test_per_is_its_sum() -> None:
    lambdas = {"rotation": 0.5, "half_turn": 1.0, "mirror_x": 2.0, "mirror_y": 0.0}
    model = build(PER, **{f"{key}_penalty": value for key, value in lambdas.items()})
    expected = torch.zeros(())
    for one in model.layers:
        for group, coefficient in zip(GROUPS.values(), lambdas.values(), strict=True):
            for part, mean in zip(one.parts(), one.projection(group), strict=True):
                expected = expected + coefficient * (part - mean).square().sum()
    torch.testing.assert_close(model.penalty(), expected)
    none = build(PER, **{f"{key}_penalty": 0.0 for key in lambdas})
    assert none.penalty() == 0
    none.before_step(0.5)


def test_per_weakens_the_symmetry_that_the_weights_break() -> None:
    """Weights that break the mirror of x more than that of y, and the half turn most, by a known sum of squares."""
    model = build(PER, tuned_at=0.1, rotation_penalty=0.0)
    with torch.no_grad():
        for one in model.layers:
            for parameter in one.convolution.parameters():
                parameter.zero_()
        model.layers[0].convolution.bias[0] = 2.0  # +x without -x: breaks the half turn and the mirror of x
        model.layers[0].convolution.bias[1] = 1.0  # +y without -y: breaks the half turn and the mirror of y
    squares = torch.tensor([2.0 + 0.5, 2.0, 0.5])  # (a/2)^2 + (a/2)^2 for each pair
    torch.testing.assert_close(model.squares().detach(), squares)
    model.before_step(0.05)
    torch.testing.assert_close(model.coefficients, torch.tensor([0.0, 1e-3, 1e-3, 1e-3]))
    model.before_step(0.1)
    tuned = torch.tensor([0.0, 1e-3 / 5, 1e-3 / 4, 1e-3])
    torch.testing.assert_close(model.coefficients, tuned)
    torch.testing.assert_close(model.penalty().detach(), torch.tensor(3 * 1e-3 * 0.5))
    resumed = build(PER, tuned_at=0.1, rotation_penalty=0.0)
    resumed.load_state_dict(model.state_dict())
    with torch.no_grad():
        for again in (model, resumed):
            again.layers[0].convolution.bias[3] = 7.0
            again.before_step(0.2)
            torch.testing.assert_close(again.coefficients, tuned)


def test_per_keeps_the_price_of_a_symmetry_that_holds() -> None:
    """A network that starts equivariant keeps it; random weights prefer no group, not the smaller ones either."""
    model = build(PER, network={"relaxed_group_rotation": {"hidden": 4}})
    model.before_step(0.5)
    torch.testing.assert_close(model.coefficients[:2], torch.full((2,), 1e-3))
    assert (model.coefficients[2:] > 0).all()
    assert (model.coefficients[2:] < 5e-4).all()
    plain = build(PER, network={"convnet": {"hidden": 32}})
    plain.before_step(0.5)
    assert plain.coefficients.min() > 0.9e-3


def test_per_of_an_equivariant_network_is_not_tuned_to_nothing() -> None:
    model = build(PER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.before_step(0.5)
    assert model.coefficients.isfinite().all()
    assert model.penalty() == 0
    fixed = build(PER, tuned_at=None)
    fixed.before_step(0.99)
    torch.testing.assert_close(fixed.coefficients, torch.full((4,), 1e-3))
