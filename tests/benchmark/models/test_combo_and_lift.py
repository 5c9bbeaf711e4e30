"""Combo and lift expansion for translation, rotation and scale, against their definitions and strict networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_support import CLOSED, SCALES, Constant, boxes, frames, layers_of, projections, rotation_error
from model_support import small as build
from torch import Tensor, nn

from benchmark.groups import rotate
from benchmark.models.baseline import Baseline, Task
from benchmark.models.combo_rotation import ComboRotation
from benchmark.models.combo_scale import ComboScale
from benchmark.models.convnet import ConvNet
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.lift_rotation import LiftRotation
from benchmark.models.lift_scale import LiftScale
from benchmark.models.lift_translation import LiftTranslation, hat_functions
from benchmark.models.sesn import SESN

LIFTS: list[type[Baseline]] = [LiftTranslation, LiftRotation, LiftScale]
grids = pytest.mark.parametrize("on", [Task("made_up", 2, 12, 12), Task("made_up", 2, 9, 14)], ids=["square", "wide"])


def entering(layer: nn.Module, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Input of `layer` when the model reads x."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    (one,) = seen
    return one


def turn_functions(f: Tensor, turns: int) -> Tensor:
    """Functions on Z^2 x C4, (B, I N, H, W): (g f)(h) = f(g^-1 h)."""
    return f.unflatten(1, (-1, 4)).roll(turns, 2).rot90(turns, (-2, -1)).flatten(1, 2)


# Combo


@boxes
def test_combo_scale_with_equivariant_filters_is_sesn(on: Task) -> None:
    """At scale 1 a free filter has the size of a steerable one."""
    combo, strict = build(ComboScale, on, scales=(1.0,)), build(SESN, on, scales=(1.0,))
    convolutions = layers_of(ScaleConv2d, strict)
    with torch.no_grad():
        for ours, theirs in zip(combo.free[::2], convolutions[:2], strict=True):
            (kernel,) = theirs.filters()
            ours.weight.copy_(kernel)
            ours.bias.zero_()
        for ours, theirs in zip(combo.equivariant.layers, convolutions[2:], strict=True):
            ours.load_state_dict(theirs.state_dict())
        x = frames(on)
        torch.testing.assert_close(combo(x), strict(x))


@projections
def test_free_features_are_taken_for_functions_on_scales(projection: str) -> None:
    """Channel c S + s is the function c at the scale s; from there on the network is that of sesn."""
    combo, strict = (build(model, projection=projection) for model in (ComboScale, SESN))
    x = frames(CLOSED)
    seen = entering(combo.equivariant.layers[0], combo, x)
    with torch.no_grad():
        features = combo.free(x.flatten(1, 2))
        assert torch.equal(seen, torch.stack([features[:, s :: len(SCALES)] for s in range(len(SCALES))]))
        assert features.shape[1] == 4 * len(SCALES)
        assert len(combo.equivariant.layers) == 3
        for ours, theirs in zip(combo.equivariant.layers, strict.network.layers[2:], strict=True):
            ours.load_state_dict(theirs.state_dict())
        h = strict.network.before(x.flatten(1, 2), 2)
        combo.free = Constant(h.movedim(0, 2).flatten(1, 2))
        assert torch.equal(combo(x), strict(x))


def test_combo_rotation_with_equivariant_filters_is_e2cnn() -> None:
    combo, strict = build(ComboRotation, free_layers=2, equivariant_layers=3), build(E2CNN)
    with torch.no_grad():
        for index in (0, 2):
            assert type(combo.network[index]) is nn.Conv2d
            combo.network[index].weight.copy_(strict.network[index].weight)
            combo.network[index].bias.zero_()
        combo.network[4:].load_state_dict(strict.network[4:].state_dict())
        x = frames(CLOSED)
        torch.testing.assert_close(combo(x), strict(x))


@grids
def test_only_the_free_layers_of_combo_break_rotation(on: Task) -> None:
    combo = build(ComboRotation, free_layers=1, equivariant_layers=3)
    features = torch.randn(2, 16, on.height, on.width)
    with torch.no_grad():
        y = combo.network[2:](features)
        for turns in (1, 2, 3):
            difference = combo.network[2:](turn_functions(features, turns)) - rotate(y, turns, "centered")
            assert difference.abs().max() < 1e-5 * y.abs().max()
    assert rotation_error(combo, frames(on)) > 1e-2


# Lift


@boxes
@pytest.mark.parametrize(
    ("lift", "strict", "layer", "tensor", "config"),
    [
        (LiftTranslation, ConvNet, nn.Conv2d, "weight", {}),
        (LiftRotation, E2CNN, SteerableConv2d, "coefficients", {}),
        (LiftScale, SESN, ScaleConv2d, "coefficients", {"projection": "max"}),
        (LiftScale, SESN, ScaleConv2d, "coefficients", {"projection": "mean"}),
    ],
)
def test_without_its_encoder_it_is_the_other_network(
    lift: Any, strict: Any, layer: Any, tensor: str, config: Any, on: Task
) -> None:
    ours, theirs, x = build(lift, on, **config), build(strict, on, **config), frames(on)
    with torch.no_grad():
        for parameter in ours.encoder[-1].parameters():
            parameter.zero_()
        for one, other in zip(layers_of(layer, ours), layers_of(layer, theirs), strict=True):
            weights = getattr(other, tensor)
            getattr(one, tensor)[:, : weights.shape[1]] = weights
            if layer is nn.Conv2d:
                one.bias.copy_(other.bias)
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("model", LIFTS)
def test_lift_runs_on_any_grid_with_the_same_weights(model: type[Baseline]) -> None:
    state = build(model).state_dict()
    for grid in ((12, 12), (9, 14), (62, 23), (5, 4)):
        on = Task("made_up", 2, *grid)
        other = build(model, on)
        other.load_state_dict(state)
        assert other(frames(on)).shape == (2, 2, *grid)


@pytest.mark.parametrize("model", LIFTS)
def test_the_encoder_knows_where_things_are(model: type[Baseline]) -> None:
    """A vortex elsewhere gives it other numbers; a field with the same averages over the tiles does not."""
    on = Task("made_up", 2, 8, 8)  # tiles of 2 x 2 cells
    encoder, x = build(model, on).encoder, torch.zeros(1, 4, 8, 8)
    x[..., 2, 2] = 1.0
    with torch.no_grad():
        here = encoder(x)
        assert (encoder(x.roll(2, -1)) - here).abs().max() > 1e-3
        torch.testing.assert_close(encoder(x.roll(1, -1)), here)


def test_interpolation_in_a_closed_box_is_that_of_torch() -> None:
    lift, tiles = build(LiftTranslation, hidden=8), torch.randn(3, 2, 4, 4)
    for grid in ((4, 4), (10, 12), (62, 23), (5, 3)):
        expected = F.interpolate(tiles, grid, mode="bilinear", align_corners=False)
        torch.testing.assert_close(lift.at_pixels(tiles.flatten(1), torch.Size(grid)), expected)


def test_hat_functions_around_a_periodic_box() -> None:
    """Two cells to a tile: their centres are a quarter of a tile off, over the seam as anywhere."""
    hats = hat_functions(6, 3, True, torch.device("cpu"))
    expected = torch.tensor(
        [[0.75, 0, 0.25], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75], [0.25, 0, 0.75]]
    )
    torch.testing.assert_close(hats, expected)
    for cells, nodes in ((7, 4), (12, 5), (3, 8), (5, 1)):
        torch.testing.assert_close(hat_functions(cells, nodes, True, torch.device("cpu")).sum(1), torch.ones(cells))


def test_only_the_encoder_of_lift_breaks_translation() -> None:
    """If the lifted features moved with the field, by whole tiles in a periodic box, so would the forecast."""
    on = Task("made_up", 2, 8, 12, periodic=True)  # tiles of 2 x 3 cells
    lift, x, shift = build(LiftTranslation, on), frames(on), ((2, 3), (-2, -1))
    with torch.no_grad():
        features, expected = lift.encoder(x.flatten(1, 2)), lift(x).roll(*shift)
        assert (lift(x.roll(*shift)) - expected).abs().max() > 1e-4 * expected.abs().max()
        moved = features.unflatten(1, (-1, 4, 4)).roll((1, 1), (-2, -1)).flatten(1)
        lift.encoder = Constant(moved)
        torch.testing.assert_close(lift(x.roll(*shift)), expected)


def test_lifted_functions_on_scales_are_constant_over_the_grid() -> None:
    """Number e S + s of the encoder is the function e at the scale s; they join the features of the first layers."""
    lift, x = build(LiftScale, hidden=8), frames(CLOSED)
    features = torch.randn(2, 2 * len(SCALES))
    lift.encoder = Constant(features)
    seen = entering(lift.network.layers[2], lift, x)
    assert seen.shape == (len(SCALES), 2, 8 + 2, 10, 12)
    with torch.no_grad():
        assert torch.equal(seen[:, :, :8], lift.network.before(x.flatten(1, 2), 2))
    for s in range(len(SCALES)):
        for e in range(2):
            expected = features[:, e * len(SCALES) + s, None, None].expand(-1, 10, 12)
            assert torch.equal(seen[s, :, 8 + e], expected)


@grids
def test_only_the_encoder_of_lift_breaks_rotation(on: Task) -> None:
    """If the lifted features turned as functions on the group do, the forecast would turn as a velocity."""
    lift, x = build(LiftRotation), frames(on)
    assert rotation_error(lift, x) > 1e-3
    features = lift.encoder(x.flatten(1, 2))
    lift.encoder = Constant(features)
    with torch.no_grad():
        y = lift(x)
        for turns in (1, 2, 3):
            lift.encoder.features = turn_functions(features[..., None, None], turns)[..., 0, 0]
            expected = rotate(y, turns, "centered")
            torch.testing.assert_close(lift(rotate(x, turns, "centered")), expected, rtol=1e-5, atol=1e-6)
