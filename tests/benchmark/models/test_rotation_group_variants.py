"""Relaxed translation and rotation, and non-stationary filters, against their definitions and the strict network."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import model_support
import pytest
import torch
from model_support import deviation, frames, layers_of, orbit, rotation_error, train
from torch import Tensor, nn

from benchmark.groups import shift
from benchmark.models.baseline import Baseline, Task
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import GroupConv2d, RotationGroupConv2d
from benchmark.models.nonstationary_filters import ContinuousFilter, NonstationaryFilters
from benchmark.models.partial_gcnn import PartialGCNN
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation
from benchmark.models.relaxed_group_translation_rotation import RelaxedGroupConv2d, RelaxedGroupTranslationRotation

FRAMES = 2
GRID = (6, 8)
TASK = Task("made_up", FRAMES, *GRID)
PERIODIC = Task("made_up", FRAMES, *GRID, periodic=True)
SQUARE = Task("made_up", FRAMES, 8, 8)
DIRECTIONS = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
FIELDS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 2), ("regular", 3)),
    (("regular", 2), ("vector", 2)),
]
MODELS: list[type[Baseline]] = [
    RelaxedGroupRotation,
    RelaxedGroupTranslationRotation,
    NonstationaryFilters,
    PartialGCNN,
]


def build(model: type[Any], on: Task = TASK, **config: Any) -> Any:
    return model_support.build(model, on, **{"hidden": 4, **config})


def strict_network(on: Task = TASK) -> nn.Sequential:
    def layer(before: Fields, after: Fields) -> RotationGroupConv2d:
        return RotationGroupConv2d(before, after, 3, 1, relaxed=False, padding_mode=on.padding_mode)

    return field_network(TASK, 4, 5, layer)


def banks_of(layer: RelaxedGroupConv2d) -> Tensor:
    """Filter banks (L, O, I, N, K, K)."""
    return layer.convolution.coefficients[0].unflatten(1, (len(layer.w), -1)).movedim(1, 0)


def set_bias(layer: GroupConv2d) -> None:
    if layer.bias is not None:
        with torch.no_grad():
            layer.get_parameter("parametrizations.bias.original").normal_()


def on_group(x: Tensor, fields: Fields) -> Tensor:
    """(B, I b, H, W) -> (B, I, N, H, W): as functions on the group, a velocity as v(x) . e_h."""
    if fields[0] == "regular":
        return x.unflatten(1, (-1, 4))
    return torch.einsum("bichw,nc->binhw", x.unflatten(1, (-1, 2)), DIRECTIONS.to(x))


def from_group(f: Tensor, fields: Fields) -> Tensor:
    """(B, O, N, H, W) -> (B, O a, H, W): a velocity is sum_h f(x, h) e_h."""
    return (f if fields[0] == "regular" else torch.einsum("bonhw,nc->bochw", f, DIRECTIONS.to(f))).flatten(1, 2)


def by_definition(f: Tensor, kernel: Callable[[int, int, int, int], Tensor], half: int) -> Tensor:
    """sum over cells y and turns h of kernel(g, h, R_g^-1 y) f(x + y, h), on a torus.

    (B, I, N, H, W) -> (B, O, N, H, W); kernel gives (O, I) at the turns g and h and the place R_g^-1 y.
    """
    turned = []
    for g in range(4):
        total: Any = 0.0
        for h, i, j in itertools.product(range(4), *2 * [range(-half, half + 1)]):
            x, y = i, j
            for _ in range(g):
                x, y = -y, x  # R_g (i, j)
            total = total + torch.einsum("oi,bihw->bohw", kernel(g, h, i, j), f[:, :, h].roll((-x, -y), (-2, -1)))
        turned.append(total)
    return torch.stack(turned, 2)


# All of them


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_starts_equivariant_and_leaves_it_for_broken_data(model: type[Baseline], kernel_size: int) -> None:
    contender = build(model, SQUARE, kernel_size=kernel_size).double()
    x = frames(SQUARE).double()
    assert rotation_error(contender, x) < 1e-12
    train(contender, x, torch.ones_like(x[:, 0]))  # a wind along the diagonal
    assert rotation_error(contender, x) > 1e-5


@pytest.mark.parametrize("model", [NonstationaryFilters, PartialGCNN])
def test_wide_grids_turn(model: type[Baseline]) -> None:
    assert rotation_error(build(model).double(), frames(TASK).double()) < 1e-12


@pytest.mark.parametrize("model", MODELS)
def test_symmetric_data_leave_rotation_alone(model: type[Baseline]) -> None:
    """On data that hold all four turns of each window the loss is the same for a turned relaxation."""
    contender = build(model, SQUARE).double()
    x, y = frames(SQUARE).double(), torch.randn(2, 2, 8, 8).double()
    before = [parameter.detach().clone() for parameter in contender.parameters()]
    train(contender, orbit(x), orbit(y))
    assert rotation_error(contender, x) < 1e-12
    assert any((now - then).abs().max() > 1e-6 for now, then in zip(contender.parameters(), before, strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_one_layer_is_enough(model: type[Baseline]) -> None:
    contender = build(model, layers=1, penalty=0.1)
    assert contender(frames(TASK)).shape == (2, 2, *GRID)
    assert contender.penalty() == 0


# Translation and rotation relaxed together


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("fields", FIELDS)
def test_relaxed_convolution_is_its_definition(kernel_size: int, fields: tuple[Fields, Fields]) -> None:
    """sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), h running over cells and turns."""
    before, after = fields
    layer = RelaxedGroupConv2d(GRID, before, after, kernel_size, 2, "circular")
    components, half = {"vector": 2, "regular": 4}, kernel_size // 2
    x = torch.randn(2, before[1] * components[before[0]], *GRID)
    set_bias(layer.convolution)
    with torch.no_grad():
        deviation(layer).normal_()
        f, expected = on_group(x, before), torch.zeros(())
        for w, bank in zip(layer.w, banks_of(layer), strict=True):

            def kernel(g: int, h: int, i: int, j: int, psi: Tensor = bank) -> Tensor:
                return psi[:, :, (h - g) % 4, half + i, half + j]

            expected = expected + from_group(by_definition(f * w, kernel, half), after)
        if layer.convolution.bias is not None:
            expected = expected + layer.convolution.bias[:, None, None]
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("banks", [1, 2, 3])
@pytest.mark.parametrize("on", [TASK, PERIODIC], ids=["closed", "periodic"])
def test_relaxed_starts_as_the_strict_network(banks: int, on: Task) -> None:
    model = build(RelaxedGroupTranslationRotation, on, banks=banks)
    strict = strict_network(on)
    with torch.no_grad():
        for ours, theirs in zip(
            layers_of(RelaxedGroupConv2d, model), layers_of(RotationGroupConv2d, strict), strict=True
        ):
            theirs.coefficients.copy_(banks_of(ours).sum(0, keepdim=True) / banks)
        x = frames(on)
        torch.testing.assert_close(model(x), strict(x.flatten(1, 2)))


def test_banks_start_with_the_deviation_of_the_strict_filter() -> None:
    layer = RelaxedGroupConv2d(GRID, ("regular", 32), ("regular", 32), 3, 4)
    mixed = (layer.w[:, 0, 0, 0, None, None, None, None, None] * banks_of(layer)).sum(0)
    assert mixed.std().item() == pytest.approx(math.sqrt(1 / (32 * 4 * 9)), rel=0.02)


@pytest.mark.parametrize("breaks", ["rotation", "translation"])
def test_w_breaks_what_it_depends_on(breaks: str) -> None:
    """A w of the turn alone keeps translation, and a w that is the same round the centre of the box keeps rotation."""
    on = Task("made_up", FRAMES, 8, 8, periodic=True)
    model, x = build(RelaxedGroupTranslationRotation, on), frames(on)
    with torch.no_grad():
        for layer in layers_of(RelaxedGroupConv2d, model):
            if breaks == "rotation":
                deviation(layer).add_(torch.randn(2, 4, 1, 1))
            else:
                bumps = torch.randn(2, 1, 8, 8)
                deviation(layer).add_(torch.stack([bumps.rot90(k, (-2, -1)) for k in range(4)]).sum(0))
        y = model(x)
        translation = (model(shift(x, 1, 2, periodic=True)) - shift(y, 1, 2, periodic=True)).abs().max() / y.abs().max()
    rotation = rotation_error(model, x)
    kept, broken = (translation, rotation) if breaks == "rotation" else (rotation, translation)
    assert kept < 1e-5
    assert broken > 1e-2


def test_symmetric_data_leave_translation_alone() -> None:
    """On windows in all places of a periodic box the gradient of w is the same at all pixels."""
    model = build(RelaxedGroupTranslationRotation, PERIODIC, layers=3).double()
    x, y = frames(TASK, 1).double(), torch.randn(1, 2, *GRID).double()
    places = list(itertools.product(*map(range, GRID)))
    train(model, *(torch.cat([shift(z, i, j, periodic=True) for i, j in places]) for z in (x, y)))
    for layer in layers_of(RelaxedGroupConv2d, model):
        assert (layer.w - layer.w[:, :, :1, :1]).abs().max() < 1e-12
        assert (layer.w - layer.w[:, :1]).abs().max() > 1e-7  # the turns differ, as in these data


# Non-stationary filters


def continuous(
    fields: tuple[Fields, Fields], kernel_size: int, hidden: int = 8
) -> tuple[GroupConv2d, ContinuousFilter]:
    (field_in, many_in), (field_out, many_out) = fields
    make = ContinuousFilter(field_in, field_out, kernel_size, hidden, 2.0)
    last = torch.randn(many_out, many_in, hidden)
    return GroupConv2d(*fields, kernel_size, last, make, "circular"), make


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("fields", FIELDS)
def test_continuous_filter_is_its_definition(kernel_size: int, fields: tuple[Fields, Fields]) -> None:
    """k_g(r, s) = V sin(W phi + c) / M at each place and turn, evaluated one by one."""
    layer, make = continuous(fields, kernel_size)
    half = kernel_size // 2
    set_bias(layer)
    with torch.no_grad():
        make.omega.fill_(0.7)
        make.bias.normal_()
        frequencies = torch.linalg.pinv(coordinates(kernel_size)) @ make.relative
        turn_frequencies = torch.linalg.pinv(angles(range(4))) @ make.absolute

        def kernel(g: int, h: int, i: int, j: int) -> Tensor:
            relative = torch.cat((torch.tensor([float(i), float(j)]), angles([h - g])[0])) @ frequencies
            phi = torch.sin(relative + 0.7 * angles([g])[0] @ turn_frequencies + make.phases)
            return layer.coefficients @ torch.sin(make.weight @ phi + make.bias) / len(make.bias)

        x = torch.randn(2, layer.in_channels, *GRID)
        expected = from_group(by_definition(on_group(x, fields[0]), kernel, half), fields[1])
        if layer.bias is not None:
            expected = expected + layer.bias[:, None, None]
        torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-4)


def angles(turns: Any) -> Tensor:
    return torch.tensor([[math.cos(math.pi / 2 * turn), math.sin(math.pi / 2 * turn)] for turn in turns])


def coordinates(kernel_size: int) -> Tensor:
    """(s K K, 4): the places and turns round the unit."""
    axis = range(-(kernel_size // 2), kernel_size // 2 + 1)
    places = [torch.tensor([float(i), float(j)]) for i, j in itertools.product(axis, axis)]
    return torch.stack([torch.cat((place, turn)) for turn in angles(range(4)) for place in places])


def test_nonstationary_at_omega_zero_is_the_strict_network() -> None:
    """The sampled filters in a group convolution give the same forecast."""
    model = build(NonstationaryFilters)
    strict = strict_network()
    with torch.no_grad():
        for ours, theirs in zip(layers_of(GroupConv2d, model), layers_of(RotationGroupConv2d, strict), strict=True):
            make = ours.expansion
            assert isinstance(make, ContinuousFilter)
            assert make.omega == 0
            make.bias.normal_()
            theirs.coefficients.copy_((ours.coefficients @ make.features()[0].T).unflatten(-1, (4, 3, 3))[None])
        x = frames(TASK)
        torch.testing.assert_close(model(x), strict(x.flatten(1, 2)))
        for layer in layers_of(ContinuousFilter, model):
            layer.omega.fill_(0.1)
    assert rotation_error(model, x) > 1e-4


@pytest.mark.parametrize(("kernel_size", "frequency"), [(3, 2.0), (5, 1.5)])
def test_continuous_filters_start_with_the_variance_of_a_convolution(kernel_size: int, frequency: float) -> None:
    config: dict[str, Any] = {"hidden": 64, "kernel_size": kernel_size, "frequency": frequency, "layers": 4}
    _, *inner, _ = layers_of(GroupConv2d, build(NonstationaryFilters, **config))
    for layer in inner:
        expected = math.sqrt(1 / (64 * 4 * kernel_size**2))
        assert layer.weight.square().mean().sqrt().item() == pytest.approx(expected, rel=0.05)
    assert build(NonstationaryFilters, **config)(frames(TASK)).abs().max() < 1


def test_penalty_of_the_nonstationary_filters() -> None:
    model = build(NonstationaryFilters, penalty=0.1)
    assert model.penalty() == 0
    with torch.no_grad():
        for value, layer in enumerate(layers_of(ContinuousFilter, model)):
            layer.omega.fill_(value)
    assert model.penalty().item() == pytest.approx(0.1 * (1 + 4 + 9 + 16))
    model.penalty().backward()
    assert layers_of(ContinuousFilter, model)[3].omega.grad == pytest.approx(0.6)
    assert build(NonstationaryFilters).penalty() == 0
