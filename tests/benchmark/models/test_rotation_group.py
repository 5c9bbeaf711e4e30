"""The contenders of the rotation group, and CLCNN: each against its definition and against its strict counterpart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.groups import rotate
from benchmark.models.baseline import Baseline, Task
from benchmark.models.clcnn import CLCNN, LocallyConnected2d
from benchmark.models.combo_rotation import ComboRotation
from benchmark.models.convnet import ConvNet
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import RotationGroupConv2d
from benchmark.models.layers.residual_pathway import SummedPathways
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.lift_rotation import LiftRotation
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation
from benchmark.models.rpp_rotation import RPPRotation, free_convolution

FRAMES = 2
TASK = Task("made_up", FRAMES, 2, 10, 10)
PERIODIC = Task("made_up", FRAMES, 2, 7, 9, periodic=True)
SQUARE, WIDE = (12, 12), (9, 14)
FIELDS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 1)),
]
MODELS: list[type[Baseline]] = [RelaxedGroupRotation, RPPRotation, ComboRotation, LiftRotation, CLCNN]

# e2cnn builds its masks so, whichever test comes first
pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8:UserWarning")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def build(model: type[Any], on: Task = TASK, **config: Any) -> Any:
    torch.manual_seed(0)
    return model(model.Config(**{"hidden": 4, **config}), on)


def frames(*grid: int, windows: int = 2) -> Tensor:
    return torch.randn(windows, FRAMES, 2, *(grid or (10, 10)))


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


def forecast_error(model: Baseline, x: Tensor) -> float:
    return equivariance_error(lambda v: model(v.unflatten(1, (-1, 2))), x.flatten(1, 2), "vector", "vector")


def group_convs(model: nn.Module) -> list[RotationGroupConv2d]:
    return [layer for layer in model.modules() if isinstance(layer, RotationGroupConv2d)]


def train(model: Baseline, x: Tensor, y: Tensor) -> None:
    """Three steps of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


# The relaxed group convolution


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
    whole = RotationGroupConv2d(("regular", 2), ("regular", 3), 3, 2, relaxed=True)
    lifting = RotationGroupConv2d(("vector", 2), ("regular", 3), 3, 2, relaxed=True)
    projecting = RotationGroupConv2d(("regular", 2), ("vector", 3), 3, 2, relaxed=True)
    with torch.no_grad():
        whole.w.normal_()
        for layer in (lifting, projecting):
            layer.coefficients.copy_(whole.coefficients)
            layer.w.copy_(whole.w)
        v = torch.randn(1, 2, 2, 8, 7)
        lifted = torch.einsum("bichw,nc->binhw", v, directions).flatten(1, 2)
        torch.testing.assert_close(lifting(v.flatten(1, 2)), whole(lifted))
        assert torch.equal(
            turn_functions(lifted, 1),
            torch.einsum("bichw,nc->binhw", rotate(v, 1, "centered"), directions).flatten(1, 2),
        )
        f = torch.randn(1, 8, 8, 7)
        projected = torch.einsum("bonhw,nc->bochw", whole(f).unflatten(1, (-1, 4)), directions).flatten(1, 2)
        torch.testing.assert_close(projecting(f), projected)
    assert projecting.bias is None


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("grid", [SQUARE, WIDE], ids=str)
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


@pytest.mark.parametrize("grid", [SQUARE, WIDE], ids=str)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_forecast_is_a_velocity(kernel_size: int, grid: tuple[int, int]) -> None:
    model = build(RelaxedGroupRotation, kernel_size=kernel_size)
    assert forecast_error(model, frames(*grid)) < 1e-5


def network(banks: int, relaxed: bool) -> nn.Sequential:
    return field_network(2, 3, 4, lambda *fields: RotationGroupConv2d(*fields, 3, banks, relaxed))


def test_relaxed_is_strict_where_w_is_constant() -> None:
    """The same weights give the same bits, and three banks the same function as their sum in one."""
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
        model = build(RelaxedGroupRotation, penalty=alpha)
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
    assert build(RelaxedGroupRotation).penalty() == 0


def test_symmetric_data_leave_the_relaxation_alone() -> None:
    """On data that hold all four turns of each window the loss does not change when all w are turned, so their gradient
    is constant over the turns where they are.
    """
    model = build(RelaxedGroupRotation, penalty=1.0).double()
    x, y = frames().double(), torch.randn(2, 2, 10, 10).double()
    turns = [(rotate(x, k, "centered"), rotate(y, k, "centered")) for k in range(4)]
    before = [layer.w.detach().clone() for layer in group_convs(model)]
    train(model, torch.cat([turn[0] for turn in turns]), torch.cat([turn[1] for turn in turns]))
    assert forecast_error(model, x) < 1e-12
    assert model.penalty() < 1e-12
    assert any((layer.w - w).abs().max() > 1e-6 for layer, w in zip(group_convs(model), before, strict=True))


def test_broken_data_move_the_relaxation() -> None:
    model = build(RelaxedGroupRotation, penalty=1.0)
    x = frames()
    train(model, x, torch.ones(2, 2, 10, 10))  # a wind along the diagonal
    assert model.penalty() > 1e-5
    assert forecast_error(model, x) > 1e-4


def test_filters_are_mixed_once_in_a_roll_out() -> None:
    model = build(RelaxedGroupRotation)
    calls: list[int] = []
    model.network[0].parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    with parametrize.cached():
        for _ in range(6):
            model(frames())
    assert len(calls) == 1


def test_small_relaxations_survive_bf16() -> None:
    """1 + 2^-10 is 1 in bf16; the filter must be mixed before it is rounded."""
    layer = RotationGroupConv2d(("regular", 1), ("regular", 1), 1, 2, relaxed=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer.w.fill_(1.0)
        layer.coefficients[0], layer.coefficients[1] = 1.0, -1.0
        layer.w[0, 2] += 2**-10
        assert layer.weight[0, :, 0, 0].tolist() == [0, 0, 2**-10, 0]


def test_published_size() -> None:
    model = build(RelaxedGroupRotation, Task("smoke_rotation", 10, 2, 64, 64), hidden=130)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(5.6e6, rel=0.01)


# All contenders


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("on", [TASK, PERIODIC], ids=["closed", "periodic"])
def test_every_parameter_gets_a_gradient(model: type[Baseline], on: Task) -> None:
    contender = build(model, on)
    (contender(frames(on.height, on.width)) - 1).square().mean().backward()
    for key, parameter in contender.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("model", [RelaxedGroupRotation, RPPRotation, ComboRotation, CLCNN])
def test_a_periodic_box_has_no_seam(model: type[Baseline]) -> None:
    contender, x = build(model, PERIODIC), frames(7, 9)
    with torch.no_grad():
        shifted = contender(x.roll((2, 3), (-2, -1)))
        torch.testing.assert_close(shifted, contender(x).roll((2, 3), (-2, -1)))


# Residual pathway prior


def pathways(model: nn.Module) -> list[SummedPathways]:
    return [layer for layer in model.modules() if isinstance(layer, SummedPathways)]


@pytest.mark.parametrize("order", [4, 8])
@pytest.mark.parametrize("on", [TASK, PERIODIC], ids=["closed", "periodic"])
def test_rpp_without_its_free_path_is_e2cnn(order: int, on: Task) -> None:
    rpp, strict, x = build(RPPRotation, on, order=order), build(E2CNN, on, order=order), frames(on.height, on.width)
    layers = [layer for layer in strict.modules() if isinstance(layer, SteerableConv2d)]
    with torch.no_grad():
        assert torch.equal(rpp(x), strict(x))  # the same random numbers, and the free path starts at zero
        for parameter in strict.parameters():
            parameter.add_(0.1)
        for ours, theirs in zip(pathways(rpp), layers, strict=True):
            ours.equivariant.load_state_dict(theirs.state_dict())
        assert torch.equal(rpp(x), strict(x))


def test_rpp_without_its_equivariant_path_is_the_convnet() -> None:
    rpp, x = build(RPPRotation, hidden=3), frames()
    convnet = build(ConvNet, hidden=12)
    with torch.no_grad():
        for ours, theirs in zip(pathways(rpp), convnet.network[::2], strict=True):
            for parameter in ours.equivariant.parameters():
                parameter.zero_()
            ours.free.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(rpp(x), convnet(x))


@pytest.mark.parametrize("fields", FIELDS)
def test_pathways_add_up(fields: Any) -> None:
    steerable = SteerableConv2d(4, *fields, 3)
    layer = SummedPathways(steerable, free_convolution(steerable))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        x = torch.randn(2, steerable.weight.shape[1], 8, 7)
        torch.testing.assert_close(layer(x), layer.equivariant(x) + layer.free(x), rtol=1e-4, atol=1e-4)


def test_penalty_of_rpp() -> None:
    """Two in every free number and three in every coefficient: 4 lambda_W and 9 lambda_K for each."""
    model = build(RPPRotation, equivariant_penalty=0.5, free_penalty=2.0)
    coefficients = [layer.equivariant.coefficients for layer in pathways(model)]
    free = [parameter for layer in pathways(model) for parameter in layer.free.parameters()]
    with torch.no_grad():
        for parameters, value in ((coefficients, 3.0), (free, 2.0)):
            for parameter in parameters:
                parameter.fill_(value)
    many, many_free = (sum(parameter.numel() for parameter in some) for some in (coefficients, free))
    assert model.penalty().item() == pytest.approx(0.5 * 9 * many + 2 * 4 * many_free)
    assert build(RPPRotation, equivariant_penalty=0.0).penalty() == 0  # the free path starts at zero


# Combo


def test_combo_with_equivariant_filters_is_e2cnn() -> None:
    combo, strict = build(ComboRotation, free_layers=2, equivariant_layers=3), build(E2CNN)
    with torch.no_grad():
        for index in (0, 2):
            assert type(combo.network[index]) is nn.Conv2d
            combo.network[index].weight.copy_(strict.network[index].weight)
            combo.network[index].bias.zero_()
        combo.network[4:].load_state_dict(strict.network[4:].state_dict())
        x = frames()
        torch.testing.assert_close(combo(x), strict(x))


@pytest.mark.parametrize("grid", [SQUARE, WIDE], ids=str)
def test_only_the_free_layers_of_combo_break_rotation(grid: tuple[int, int]) -> None:
    combo = build(ComboRotation, free_layers=1, equivariant_layers=3)
    features = torch.randn(2, 16, *grid)
    assert equivariance_error(combo.network[2:], features, "regular", "vector") < 1e-5
    assert forecast_error(combo, frames(*grid)) > 1e-2


# Lift expansion


def test_lift_without_its_encoder_is_e2cnn() -> None:
    lift, strict, x = build(LiftRotation), build(E2CNN), frames()
    with torch.no_grad():
        for parameter in lift.encoder[-1].parameters():
            parameter.zero_()
        ours = [layer for layer in lift.modules() if isinstance(layer, SteerableConv2d)]
        for layer, theirs in zip(ours, strict.network[::2], strict=True):
            layer.coefficients[:, : theirs.coefficients.shape[1]] = theirs.coefficients
        torch.testing.assert_close(lift(x), strict(x))


@pytest.mark.parametrize("grid", [SQUARE, WIDE], ids=str)
def test_only_the_encoder_of_lift_breaks_rotation(grid: tuple[int, int]) -> None:
    """If the lifted features turned as functions on the group do, the forecast would turn as a velocity."""
    lift, x = build(LiftRotation), frames(*grid)
    assert forecast_error(lift, x) > 1e-3
    features = lift.encoder(x.flatten(1, 2))
    lift.encoder = Given(features)
    with torch.no_grad():
        y = lift(x)
        for turns in (1, 2, 3):
            lift.encoder.features = turn_functions(features[..., None, None], turns)[..., 0, 0]
            expected = rotate(y, turns, "centered")
            torch.testing.assert_close(lift(rotate(x, turns, "centered")), expected, rtol=1e-5, atol=1e-6)


class Given(nn.Module):
    """An encoder that says what it is told."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features


def test_lift_runs_on_any_grid_with_the_same_weights() -> None:
    state = build(LiftRotation).state_dict()
    for grid in (SQUARE, WIDE, (62, 23), (5, 4)):
        other = build(LiftRotation, Task("made_up", FRAMES, 2, *grid))
        other.load_state_dict(state)
        assert other(frames(*grid)).shape == (2, 2, *grid)


# Constrained locally connected network


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("on", [TASK, PERIODIC], ids=["closed", "periodic"])
def test_clcnn_with_equal_filters_is_the_convnet(kernel_size: int, on: Task) -> None:
    clcnn, convnet = (build(model, on, kernel_size=kernel_size) for model in (CLCNN, ConvNet))
    x = frames(on.height, on.width)
    with torch.no_grad():
        torch.testing.assert_close(clcnn(x), convnet(x))  # it starts so, from the same random numbers
    assert clcnn.penalty() == 0


def test_each_pixel_has_filters_of_its_own() -> None:
    layer = LocallyConnected2d((6, 5), 3, 2, 3)
    x = torch.randn(2, 3, 6, 5)
    with torch.no_grad():
        layer.weight.normal_()
        seen = torch.nn.functional.pad(x, [1] * 4)[:, :, 4 : 4 + 3, 2 : 2 + 3]  # around the pixel (4, 2)
        filters = layer.weight[4, 2].unflatten(-1, (3, 3, 3))  # (O, K, K, I)
        expected = torch.einsum("bixy,oxyi->bo", seen, filters) + layer.bias
        torch.testing.assert_close(layer(x)[:, :, 4, 2], expected)


def test_penalty_of_clcnn() -> None:
    """W(x) = 3 x_0 + x_1: differences 3 and 1 along the axes, mean 2, in each of 5 layers; in a periodic box of n cells
    an axis has n - 1 of them and the way back, (n - 1) times as long.
    """
    closed, periodic = 2.0, 0.5 * (2 * 3 * 6 / 7 + 2 * 1 * 8 / 9)
    for on, mean in ((TASK, closed), (PERIODIC, periodic)):
        model = build(CLCNN, on, penalty=0.1)
        ramp = 3 * torch.arange(float(on.height))[:, None] + torch.arange(float(on.width))
        for layer in (one for one in model.network if isinstance(one, LocallyConnected2d)):
            with torch.no_grad():
                layer.weight[2, 3, 0, 0] += 0.5
                assert model.penalty() > 0
                layer.weight.copy_(ramp[:, :, None, None].expand_as(layer.weight))
        assert model.penalty().item() == pytest.approx(0.1 * mean * 5)


def test_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="each pixel of a 10 x 10 grid; the field is 10 x 9"):
        build(CLCNN)(frames(10, 9))
