"""Methods that train or call a network in another way, each against its equation."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.cell import Grid, Training
from benchmark.groups import rotate
from benchmark.models.augmentation import Augmentation
from benchmark.models.baseline import Baseline, Task
from benchmark.models.e2cnn import E2CNN
from benchmark.models.frame_averaging import FrameAveraging, quarter
from benchmark.models.layers.group_draws import choose, other_draws, regions, task_elements, transformed
from benchmark.models.layers.projection import (
    HALF_TURN,
    MIRROR_X,
    MIRROR_Y,
    ROTATIONS,
    Group,
    Motion,
    PlainLayer,
    plain_layers,
    represent,
)
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.layers.wrapper import Wrapper
from benchmark.models.per import PER
from benchmark.models.projection_penalty import ProjectionPenalty
from benchmark.models.remul import Remul
from benchmark.training.loss import RolledOutLoss

FRAMES = 2
TASK = Task("made_up", FRAMES, 2, 8, 8)
WIDE, TALL = replace(TASK, height=6, width=9), replace(TASK, height=9, width=6)
PERIODIC = replace(TASK, periodic=True)
CONVNET = {"convnet": {"hidden": 8, "layers": 3}}
GROUPS = {"rotations": ROTATIONS, "half turn": HALF_TURN, "mirror x": MIRROR_X, "mirror y": MIRROR_Y}
SIX = torch.arange(6) / 6 + 0.01

pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8:UserWarning")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def build(model: type[Any], on: Task = TASK, **config: Any) -> Any:
    torch.manual_seed(0)
    return model(model.Config.model_validate({"network": CONVNET, **config}), on)


def frames(on: Task = TASK, windows: int = 2) -> Tensor:
    return torch.randn(windows, on.input_frames, 2, on.height, on.width)


class Given(Baseline):
    """Any function of the last frame, as a network."""

    def __init__(self, function: Any, on: Task = TASK) -> None:
        super().__init__(None, on)
        self.function = function

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return self.function(x_BTCHW[:, -1])


def wind(v: Tensor) -> Tensor:
    """Blows along x, whatever the flow: turned k times it is off by |e_0 - R^k e_0|."""
    return torch.tensor([1.0, 0.0])[:, None, None].expand_as(v)


# The wrapper itself


class Watched(Given):
    """A network with something of its own at every place of the contract."""

    def penalty(self) -> Tensor:
        return torch.tensor(3.0)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        return draws_B.sum()

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x_BTCHW, 3 * y_BSCHW

    def before_step(self, progress: float) -> None:
        self.seen = progress


@pytest.mark.parametrize("model", [Augmentation, Remul, ProjectionPenalty, PER, FrameAveraging])
@pytest.mark.parametrize("on", [TASK, WIDE], ids=["square", "wide"])
def test_the_network_keeps_what_is_its_own(model: type[Wrapper], on: Task) -> None:
    wrapper = build(model, on)
    before = wrapper.penalty() - wrapper.network.penalty()
    wrapper.network = Watched(lambda v: v, on)  # the layers of a projection stay those of the old network
    x, draws = frames(on), torch.tensor([0.5, 0.999])  # the last element of an augmentation is the identity
    torch.testing.assert_close(wrapper.penalty(), 3 + before)
    torch.testing.assert_close(wrapper.regularization(x, draws), draws.sum())  # REMUL: the identity is equivariant
    augmented = wrapper.augment(x, x, torch.full((2,), 0.999))
    assert torch.equal(augmented[0], 2 * x)
    assert torch.equal(augmented[1], 3 * x)
    wrapper.before_step(0.25)
    assert wrapper.network.seen == 0.25


def test_penalty_of_a_relaxed_network_is_kept() -> None:
    relaxed = {"relaxed_group_rotation": {"hidden": 2, "layers": 3, "penalty": 0.5}}
    for model, extra in ((Remul, {}), (Augmentation, {}), (FrameAveraging, {}), (ProjectionPenalty, {"penalty": 0.0})):
        wrapper = build(model, network=relaxed, **extra)
        assert wrapper.penalty() == 0
        with torch.no_grad():
            wrapper.network.network[0].w[0, 0] += 1.0
        assert wrapper.penalty() == wrapper.network.penalty() > 0


def test_an_augmentation_of_an_augmentation_is_refused() -> None:
    """Both would pick by the same draws."""
    config = Augmentation.Config.model_validate({"network": "augmentation"})
    assert "the same numbers" in (Augmentation.refusal(config, TASK) or "")


# Random elements


@pytest.mark.parametrize("many", [1, 3, 4, 7])
def test_draws_pick_all_alike(many: int) -> None:
    draws = torch.arange(8400) / 8400
    for which in (choose(draws, many), choose(other_draws(torch.arange(2**13) / 2**24), many)):
        counts = which.bincount() / len(which)
        torch.testing.assert_close(counts, torch.full((many,), 1 / many), rtol=2e-3, atol=0)
    assert choose(torch.tensor([1 - 2**-24]), many) == many - 1


def test_other_draws_are_independent() -> None:
    draws = torch.rand(60000)
    pairs = choose(draws, 4) * 3 + choose(other_draws(draws), 3)
    torch.testing.assert_close(pairs.bincount() / 60000, torch.full((12,), 1 / 12), rtol=0.06, atol=0)


@pytest.mark.parametrize("group", ["C4", "translation", "scale"])
@pytest.mark.parametrize("grid", ["centered", "staggered"])
def test_each_window_is_transformed_by_its_own_element(group: Any, grid: Grid) -> None:
    on = replace(PERIODIC, grid=grid)
    found, x = task_elements(group, on), frames(on, 4)
    result = transformed(x, found, torch.tensor([2, 0, 3, 1]))
    for window, index in ((0, 2), (1, 0), (3, 1)):
        assert torch.equal(result[window], found[index].act(x[window]))
        assert not torch.equal(result[window], x[window])
    assert torch.equal(result[2], x[2])


def test_regions_leave_out_what_comes_from_outside() -> None:
    masks = regions(task_elements("translation", TASK), 8, 8)
    assert [int(mask.sum()) for mask in masks] == [7 * 8, 8 * 7, 6 * 6]
    assert masks[0, 0].sum() == masks[1, :, 0].sum() == masks[2, 1].sum() == 0
    assert regions(task_elements("translation", PERIODIC), 8, 8).all()


# Augmentation


@pytest.mark.parametrize("group", ["C4", "translation", "scale"])
def test_augmentation_keeps_pairs(group: Any) -> None:
    """Truth of the windows, here twice their last frame, is one of the transformed. Every element and none is used."""
    on = PERIODIC
    model, x = build(Augmentation, on, group=group), frames(on, 4)
    draws = torch.tensor([0.1, 0.3, 0.6, 0.9])
    new_x, new_y = model.augment(x, 2 * x[:, -1:].repeat(1, 3, 1, 1, 1), draws)
    torch.testing.assert_close(new_y, 2 * new_x[:, -1:].repeat(1, 3, 1, 1, 1))
    for window, element in enumerate(task_elements(group, on)):
        assert torch.equal(new_x[window], element.act(x[window]))
    assert torch.equal(new_x[3], x[3])


def test_two_ranks_augment_as_one() -> None:
    model, x = build(Augmentation), frames(windows=6)
    whole = model.augment(x, x, SIX)
    parts = [model.augment(x[part], x[part], SIX[part]) for part in (slice(0, 3), slice(3, 6))]
    for index, field in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), field)


def test_augmentation_of_a_wide_grid_keeps_its_shape() -> None:
    x = frames(WIDE)
    turned, _ = build(Augmentation, WIDE).augment(x, x, torch.tensor([0.1, 0.6]))
    assert torch.equal(turned[0], rotate(x[0], 2, "centered"))
    assert torch.equal(turned[1], x[1])


def test_shifts_need_a_periodic_box() -> None:
    config = Augmentation.Config(group="translation")
    assert "walls" in (Augmentation.refusal(config, TASK) or "")
    assert Augmentation.refusal(config, PERIODIC) is None
    for model in (Augmentation, Remul, ProjectionPenalty, PER, FrameAveraging):
        assert "2 velocity components" in (model.refusal(model.Config(), replace(TASK, channels=3)) or "")


# REMUL


def test_remul_is_zero_for_an_equivariant_network() -> None:
    x = frames(windows=6)
    for network in ({"e2cnn": {"hidden": 2, "layers": 3}}, {"convnet": {"hidden": 4, "layers": 3}}):
        model = build(Remul, network=network)
        loss, size = model.regularization(x, SIX).item(), model(x).square().mean().item()
        assert loss < 1e-10 * size if "e2cnn" in network else loss > 1e-2 * size


def test_remul_of_a_wind() -> None:
    """|e_0 - R^k e_0|^2 over the two components: 1 for a quarter turn, either way, and 2 for a half turn."""
    model = build(Remul, penalty=0.5)
    model.network = Given(wind)
    x = frames(windows=600)
    draws = torch.rand(600)
    for window, which in enumerate(choose(other_draws(draws), 3)[:20]):
        loss = model.regularization(x[window : window + 1], draws[window : window + 1])
        assert loss == 0.5 * (2.0 if which == 1 else 1.0)
    assert model.regularization(x, draws).item() == pytest.approx(0.5 * 4 / 3, rel=0.1)
    halves = [model.regularization(x[part], draws[part]) for part in (slice(0, 300), slice(300, 600))]
    torch.testing.assert_close(torch.stack(halves).mean(), model.regularization(x, draws))


def test_remul_looks_at_defined_cells_alone() -> None:
    """The forecast 1 everywhere is equivariant under shifts but for the cells that come from outside the box."""
    model = build(Remul, group="translation")
    model.network = Given(torch.ones_like)
    assert model.regularization(frames(windows=6), SIX) == 0
    model.network = Given(lambda v: torch.arange(8.0)[:, None].expand_as(v))  # the x of the cell: off by the shift
    losses = [model.regularization(frames(windows=1), draw[None]).item() for draw in torch.rand(40)]
    assert {round(loss, 4) for loss in losses} == {1.0, 0.0, 4.0}


def test_remul_teaches_the_symmetry() -> None:
    model, x = build(Remul), frames(windows=6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    before = model.regularization(x, SIX).item()
    for _ in range(10):
        optimizer.zero_grad()
        model.regularization(x, SIX).backward()
        optimizer.step()
    assert model.regularization(x, SIX).item() < 0.5 * before
    assert build(Remul, penalty=0.0).regularization(x, SIX) == 0


def test_remul_and_augmentation_together() -> None:
    model = build(Remul, network={"augmentation": {"network": CONVNET}})
    x = frames(windows=6)
    assert not torch.equal(model.augment(x, x, SIX)[0], x)
    loss = RolledOutLoss(model, Training(), torch.device("cpu"), cache_filters=True)
    total, error = loss(x, x[:, :1], SIX)
    assert total > error


# Projections


def matrix(channels: Any, motion: Motion, size: int) -> Tensor:
    return represent(channels, motion, torch.eye(size), 0)


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


LAYERS = {
    "in": (nn.Conv2d(4, 9, 3), "vector", "directions"),
    "inner": (nn.Conv2d(9, 8, 3), "directions", "directions"),
    "pointwise": (nn.Conv2d(8, 8, 1), "directions", "directions"),
    "up": (nn.ConvTranspose2d(8, 4, 2, stride=2), "directions", "directions"),
    "out": (nn.Conv2d(8, 2, 3), "directions", "vector"),
    "up and out": (nn.ConvTranspose2d(8, 2, 2, stride=2), "directions", "vector"),
}


def layer(name: str) -> PlainLayer:
    convolution, channels_in, channels_out = LAYERS[name]
    return PlainLayer(copy.deepcopy(convolution).double(), channels_in, channels_out)  # type: ignore[arg-type]


def put(one: PlainLayer, parts: list[Tensor]) -> None:
    with torch.no_grad():
        for ours, theirs in zip(one.parts(), parts, strict=True):
            ours.copy_(theirs)


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


def error(one: PlainLayer, group: Group) -> float:
    x = torch.randn(2, one.convolution.in_channels, 6, 6).double()
    worst = 0.0
    with torch.no_grad():
        for motion in group:
            of_moved = one.convolution(represent(one.channels_in, motion, motion.cells(x), 1))
            moved = represent(one.channels_out, motion, motion.cells(one.convolution(x)), 1)
            worst = max(worst, float((of_moved - moved).abs().max()))
    return worst


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
    convnet = build(ProjectionPenalty, network={"convnet": {"hidden": 8, "layers": 3}})
    filters = [module for module in strict.modules() if isinstance(module, SteerableConv2d)]
    for one, steerable in zip(convnet.layers, filters, strict=True):
        bias = torch.zeros(len(steerable.weight)) if steerable.bias is None else steerable.bias
        assert one.deviation(ROTATIONS) > 0.1
        put(one, [steerable.weight, bias])
        assert one.deviation(ROTATIONS) < 1e-6
        if steerable.bias is None:
            put(one, [steerable.weight, bias + 1])  # a velocity that stands still under rotation is zero
            torch.testing.assert_close(one.deviation(ROTATIONS), torch.tensor(2.0).sqrt())


def test_projected_networks_are_equivariant() -> None:
    """All layers projected: the ConvNet and the U-Net commute with quarter turns, also with channels left over."""
    for network in ({"convnet": {"hidden": 10, "layers": 3}}, {"unet": {"hidden": 4, "depth": 2}}, CONVNET):
        model, x = build(ProjectionPenalty, network=network).double(), frames().double()
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
        model.network.network[2].w[0, 0] += 1.0
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


# Frame averaging


def walls(x: Tensor, on: Task) -> Tensor:
    if on.grid == "staggered":
        x[..., 0, 0, :] = 0
        x[..., 1, :, 0] = 0
    return x


@pytest.mark.parametrize("frame", ["group", "flux"])
@pytest.mark.parametrize("grid", ["centered", "staggered"])
@pytest.mark.parametrize("shape", [(8, 8), (6, 9), (9, 6)], ids=str)
@pytest.mark.parametrize("network", [CONVNET, "clcnn"], ids=["convnet", "clcnn"])
def test_frame_averages_are_equivariant(frame: str, grid: Grid, shape: tuple[int, int], network: Any) -> None:
    on = replace(TASK, height=shape[0], width=shape[1], grid=grid)
    on_turned = replace(on, height=shape[1], width=shape[0])
    model, turned = (build(FrameAveraging, one, frame=frame, network=network) for one in (on, on_turned))
    turned.load_state_dict(model.state_dict())
    x = walls(frames(on, 12), on)
    with torch.no_grad():
        y = model(x)
        for turns in (1, 2, 3):
            other = turned if turns % 2 else model
            expected = rotate(y, turns, grid)
            torch.testing.assert_close(other(rotate(x, turns, grid)), expected, rtol=1e-5, atol=1e-6)
        plain = model.network
        if shape[0] >= shape[1]:
            assert (plain(rotate(x, 2, grid)) - rotate(plain(x), 2, grid)).abs().max() > 1e-2


def test_group_average_is_its_sum() -> None:
    model, x = build(FrameAveraging, frame="group"), frames()
    terms = [rotate(model.network(rotate(x, -k, "centered")), k, "centered") for k in range(4)]
    torch.testing.assert_close(model(x), sum(terms) / 4)


def stream(angle: float, on: Task = TASK, side: float = 0.0) -> Tensor:
    """A jet at this angle in degrees, and a little of something else."""
    direction = torch.tensor([angle]).deg2rad()
    jet = torch.stack((direction.cos(), direction.sin()))[:, 0, None, None]
    return jet + side * torch.randn(1, FRAMES, 2, on.height, on.width)


@pytest.mark.parametrize(
    ("angle", "turns"), [(0, 0), (44, 0), (46, 1), (90, 1), (180, 2), (-134, 3), (-90, 3), (-46, 3)]
)
def test_the_flux_picks_the_turn(angle: float, turns: int) -> None:
    model, x = build(FrameAveraging), stream(angle, side=0.01)
    expected = rotate(model.network(rotate(x, -turns, "centered")), turns, "centered")
    torch.testing.assert_close(model(x), expected)
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    model(torch.cat([stream(a) for a in (0, 90, 180, 270)]))
    assert len(calls) == 1


def test_sectors_have_one_owner_on_their_borders() -> None:
    steps = torch.tensor(
        [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0], [-1.0, 0.0], [-1.0, -1.0], [0.0, -1.0], [1.0, -1.0]]
    )
    assert quarter(steps).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    vectors = torch.cat((steps, torch.randn(100, 2)))
    turned = torch.stack((-vectors[:, 1], vectors[:, 0]), 1)
    assert torch.equal(quarter(turned), (quarter(vectors) + 1) % 4)


@pytest.mark.parametrize("target", ["frame", "change"])
def test_where_nothing_has_a_direction_nothing_changes(target: Any) -> None:
    """At rest, and in a vortex around the centre, which every quarter turn leaves alone."""
    model = build(FrameAveraging, replace(TASK, target=target))
    x_place, y_place = torch.meshgrid(*2 * [torch.arange(8.0) - 3.5], indexing="ij")
    vortex = torch.stack((-y_place, x_place)).expand(1, FRAMES, -1, -1, -1)
    jet = stream(0.0)
    x = torch.cat((vortex, torch.zeros_like(vortex), jet))
    with torch.no_grad():
        assert torch.equal(model.next_frame(x)[:2], x[:2, -1])
        torch.testing.assert_close(model(x)[2:], model.network(jet))
        assert torch.equal(model(rotate(x, 1, "centered"))[:2], rotate(model(x), 1, "centered")[:2])


def test_frame_averages_of_wide_grids_call_the_network_upright() -> None:
    model = build(FrameAveraging, WIDE, network={"remul": {"network": "mlp"}})
    x = frames(WIDE, 6)
    assert model.network.task == TALL
    assert model(x).shape == (6, 2, 6, 9)
    loss = RolledOutLoss(model, Training(), torch.device("cpu"), cache_filters=True)
    total, error_of_forecast = loss(x, x[:, :1], SIX)
    assert total > error_of_forecast


@pytest.mark.parametrize("model", [Augmentation, Remul, ProjectionPenalty, PER, FrameAveraging])
def test_windows_may_be_rounded_to_bf16(model: type[Wrapper]) -> None:
    settings = Training(precision="bf16")
    loss = RolledOutLoss(build(model), settings, torch.device("cpu"), cache_filters=True)
    total, _ = loss(frames(windows=6), torch.randn(6, 2, 2, 8, 8), SIX)
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()


def test_layers_are_found_in_order() -> None:
    found = plain_layers(build(ProjectionPenalty, network={"unet": {"hidden": 4, "depth": 1}}).network)
    assert [one.channels_in for one in found] == ["vector"] + ["directions"] * (len(found) - 1)
    assert [one.channels_out for one in found] == ["directions"] * (len(found) - 1) + ["vector"]
