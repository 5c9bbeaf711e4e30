"""Residual pathway, combo and lift for translation and scale: each against its definition and its strict network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.models.baseline import Baseline, Task
from benchmark.models.combo_scale import ComboScale
from benchmark.models.convnet import ConvNet
from benchmark.models.layers.residual_pathway import SummedPathways, squared_norm
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.lift_scale import LiftScale
from benchmark.models.lift_translation import LiftTranslation, hat_functions
from benchmark.models.rpp_scale import FreeScaleConv2d, RPPScale
from benchmark.models.rpp_translation import LowRankPathway, RPPTranslation
from benchmark.models.sesn import SESN

FRAMES = 2
SCALES = (1.0, 1.5, 2.0)
CLOSED = Task("made_up", FRAMES, 2, 10, 12)
PERIODIC = Task("made_up", FRAMES, 2, 8, 9, periodic=True)
SMOKE = Task("smoke", 10, 2, 64, 64)
SMALL = {"hidden": 4, "kernel_size": 3, "rank": 3, "scales": SCALES, "encoder_grid": 4, "encoder_hidden": 8}
MODELS: list[type[Baseline]] = [RPPTranslation, RPPScale, ComboScale, LiftTranslation, LiftScale]
LAYERS: list[tuple[Any, Any]] = [
    (("vector", 4), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 2)),
]
boxes = pytest.mark.parametrize("on", [CLOSED, PERIODIC], ids=["closed", "periodic"])
projections = pytest.mark.parametrize("projection", ["max", "mean"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def build(model: type[Any], on: Task = CLOSED, **config: Any) -> Any:
    torch.manual_seed(0)
    known = {key: value for key, value in SMALL.items() if key in model.Config.model_fields}
    return model(model.Config(**{**known, **config}), on)


def frames(on: Task = CLOSED, windows: int = 2) -> Tensor:
    return torch.randn(windows, on.input_frames, 2, on.height, on.width)


def fill(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


def layers(model: nn.Module, kind: type[Any]) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, kind)]


def parameters(model: type[Any], on: Task) -> int:
    """Of the default, which need not be there to be counted."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model(model.Config(), on).parameters())


class Given(nn.Module):
    """An encoder that says what it is told."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features


def entering(layer: nn.Module, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What `layer` is given when the model sees x."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    (one,) = seen
    return one


# All of them


@boxes
@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_gets_a_gradient(model: type[Baseline], on: Task) -> None:
    contender = build(model, on)
    (contender(frames(on)) - 1).square().mean().backward()
    for key, parameter in contender.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("model", [RPPScale, ComboScale])
def test_a_periodic_box_has_no_seam(model: type[Baseline]) -> None:
    contender, x = build(model, PERIODIC), frames(PERIODIC)
    fill(contender)
    with torch.no_grad():
        expected = contender(x).roll((2, 3), (-2, -1))
        torch.testing.assert_close(contender(x.roll((2, 3), (-2, -1))), expected)


@pytest.mark.parametrize("model", [LiftTranslation, LiftScale])
def test_lift_runs_on_any_grid_with_the_same_weights(model: type[Baseline]) -> None:
    state = build(model).state_dict()
    for grid in ((12, 12), (9, 14), (62, 23), (5, 4)):
        on = Task("made_up", FRAMES, 2, *grid)
        other = build(model, on)
        other.load_state_dict(state)
        assert other(frames(on)).shape == (2, 2, *grid)


@pytest.mark.parametrize("model", [LiftTranslation, LiftScale])
def test_the_encoder_knows_where_things_are(model: type[Baseline]) -> None:
    """A vortex elsewhere gives it other numbers; a field with the same averages over the tiles does not."""
    on = Task("made_up", FRAMES, 2, 8, 8)  # tiles of 2 x 2 cells
    encoder, x = build(model, on).encoder, torch.zeros(1, 2 * FRAMES, 8, 8)
    x[..., 2, 2] = 1.0
    with torch.no_grad():
        here = encoder(x)
        assert (encoder(x.roll(2, -1)) - here).abs().max() > 1e-3
        torch.testing.assert_close(encoder(x.roll(1, -1)), here)


# Residual pathway prior for translation


@boxes
def test_rpp_translation_without_its_free_path_is_the_convnet(on: Task) -> None:
    rpp, convnet, x = build(RPPTranslation, on), build(ConvNet, on), frames(on)
    with torch.no_grad():
        for ours, theirs in zip(layers(rpp, LowRankPathway), convnet.network[::2], strict=True):
            theirs.load_state_dict(ours.equivariant.state_dict())
        torch.testing.assert_close(rpp(x), convnet(x), rtol=0, atol=1e-2)  # it starts close to it
        for layer in layers(rpp, LowRankPathway):
            layer.u.zero_()
        assert torch.equal(rpp(x), convnet(x))


@boxes
def test_the_free_path_is_a_matrix_of_low_rank(on: Task) -> None:
    layer = LowRankPathway((on.height, on.width), 3, 2, 4, 3, padding_mode=on.padding_mode).double()
    fill(layer)
    x = torch.randn(2, 2, on.height, on.width).double()
    with torch.no_grad():
        w = torch.einsum("or,ri->oi", layer.u, layer.v)
        assert torch.linalg.matrix_rank(w) == 3
        whole = torch.stack([w @ one.flatten() + layer.c for one in x]).reshape(2, 4, on.height, on.width)
        torch.testing.assert_close(layer(x), layer.equivariant(x) + whole)


def test_the_free_path_starts_at_a_thousandth_of_the_convolution() -> None:
    layer, x = LowRankPathway((16, 16), 32, 8, 8, 3), torch.randn(64, 8, 16, 16)
    with torch.no_grad():
        convolved = layer.equivariant(x)
        ratio = (layer(x) - convolved).std() / convolved.std()
    assert ratio.item() == pytest.approx(1e-3, rel=0.2)


def test_penalty_of_rpp_translation() -> None:
    """lambda_K |K|^2 + lambda_W |W, c|^2 with W as the whole matrix; the biases b are free of it."""
    model = build(RPPTranslation, equivariant_penalty=0.5, free_penalty=2.0).double()
    fill(model)
    expected = 0.0
    for layer in layers(model, LowRankPathway):
        w = layer.u @ layer.v
        expected += 0.5 * layer.equivariant.weight.square().sum() + 2.0 * (w.square().sum() + layer.c.square().sum())
    torch.testing.assert_close(model.penalty(), expected)
    assert build(RPPTranslation, equivariant_penalty=0.0, free_penalty=0.0).penalty() == 0


def test_the_free_path_belongs_to_one_grid() -> None:
    model = build(RPPTranslation)
    for grid in ((12, 10), (11, 12), (10, 13)):
        with pytest.raises(ValueError, match=f"10 x 12 grid; the field is {grid[0]} x {grid[1]}"):
            model(torch.randn(1, FRAMES, 2, *grid))


def test_only_the_free_path_breaks_translation() -> None:
    model, x, shift = build(RPPTranslation, PERIODIC).double(), frames(PERIODIC).double(), ((2, 3), (-2, -1))

    def error() -> float:
        with torch.no_grad():
            y = model(x).roll(*shift)
            return float((model(x.roll(*shift)) - y).abs().max() / y.abs().max())

    assert error() > 1e-5
    for layer in layers(model, LowRankPathway):
        nn.init.zeros_(layer.u)
    assert error() < 1e-13
    for layer in layers(model, LowRankPathway):
        nn.init.normal_(layer.c)
    assert error() > 1e-2


def test_size_of_rpp_translation() -> None:
    """r H W (I + O) numbers in U and V of each layer, O H W in c, beside those of the ConvNet."""
    wide = [20, 32, 32, 32, 32, 2]
    ends = sum(wide[:-1]) + sum(wide[1:])
    convolutions = sum(o * (9 * i + 1) for i, o in pairwise(wide))
    total = 64 * 64 * (32 * ends + sum(wide[1:])) + convolutions
    assert parameters(RPPTranslation, SMOKE) == total
    assert total == pytest.approx(37.0e6, rel=0.01)


# Residual pathway prior for scale


@boxes
@projections
def test_rpp_scale_without_its_free_path_is_sesn(on: Task, projection: str) -> None:
    rpp, strict = (build(model, on, projection=projection) for model in (RPPScale, SESN))
    x = frames(on)
    with torch.no_grad():
        assert torch.equal(rpp(x), strict(x))  # the same random numbers, and the free path starts at zero
        for parameter in strict.parameters():
            parameter.add_(0.1)
        for ours, theirs in zip(layers(rpp, SummedPathways), layers(strict, ScaleConv2d), strict=True):
            ours.equivariant.load_state_dict(theirs.state_dict())
        assert torch.equal(rpp(x), strict(x))


@projections
def test_rpp_scale_without_its_equivariant_path_is_a_convnet_for_each_scale(projection: str) -> None:
    rpp, x = build(RPPScale, layers=3, projection=projection), frames()
    pathways = layers(rpp, SummedPathways)
    fill(rpp)
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


@boxes
@pytest.mark.parametrize("fields", LAYERS)
def test_pathways_on_scales_add_up(fields: Any, on: Task) -> None:
    strict = ScaleConv2d(SCALES, *fields, 3, padding_mode=on.padding_mode)
    layer = SummedPathways(strict, FreeScaleConv2d(strict))
    h = torch.randn(3, 2, fields[0][1], on.height, on.width)
    with torch.no_grad():
        assert torch.equal(layer(h), strict(h))
        fill(layer)
        assert layer.free(h).abs().max() > 1
        torch.testing.assert_close(layer(h), strict(h) + layer.free(h), rtol=1e-4, atol=1e-3)


def test_penalty_of_rpp_scale() -> None:
    """Two in every free number and three in every coefficient: 4 lambda_W and 9 lambda_K for each."""
    model = build(RPPScale, equivariant_penalty=0.5, free_penalty=2.0)
    coefficients = [layer.coefficients for layer in layers(model, ScaleConv2d)]
    free = [parameter for layer in layers(model, FreeScaleConv2d) for parameter in layer.parameters()]
    with torch.no_grad():
        for some, value in ((coefficients, 3.0), (free, 2.0)):
            for parameter in some:
                parameter.fill_(value)
    many, many_free = (sum(parameter.numel() for parameter in some) for some in (coefficients, free))
    assert model.penalty().item() == pytest.approx(0.5 * 9 * many + 2 * 4 * many_free)
    assert build(RPPScale, equivariant_penalty=0.0).penalty() == 0  # the free path starts at zero


def test_squared_norm() -> None:
    assert squared_norm([torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]) == 169


def test_size_of_rpp_scale() -> None:
    """25 shared coefficients for a pair of channels, and 25 + 81 + 121 + 169 free ones; 1 and 4 biases."""
    pairs = 20 * 64 + 3 * 64**2 + 64 * 2
    assert parameters(RPPScale, SMOKE) == (25 + 396) * pairs + 4 * 64 + 4 * (4 * 64 + 2)


# Combo for scale


@boxes
def test_combo_scale_with_equivariant_filters_is_sesn(on: Task) -> None:
    """At scale 1 a free filter has the size of a steerable one."""
    combo, strict = build(ComboScale, on, scales=(1.0,)), build(SESN, on, scales=(1.0,))
    convolutions = layers(strict, ScaleConv2d)
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
    x = frames()
    seen = entering(combo.equivariant.layers[0], combo, x)
    with torch.no_grad():
        features = combo.free(x.flatten(1, 2))
        assert torch.equal(seen, torch.stack([features[:, s :: len(SCALES)] for s in range(len(SCALES))]))
        assert features.shape[1] == 4 * len(SCALES)
        assert len(combo.equivariant.layers) == 3
        for ours, theirs in zip(combo.equivariant.layers, strict.network.layers[2:], strict=True):
            ours.load_state_dict(theirs.state_dict())
        h = strict.network.before(x.flatten(1, 2), 2)
        combo.free = Given(h.movedim(0, 2).flatten(1, 2))
        assert torch.equal(combo(x), strict(x))


# Lift expansion for translation


@boxes
def test_lift_translation_without_its_encoder_is_the_convnet(on: Task) -> None:
    lift, convnet, x = build(LiftTranslation, on), build(ConvNet, on), frames(on)
    with torch.no_grad():
        for parameter in lift.encoder[-1].parameters():
            parameter.zero_()
        for layer, theirs in zip(layers(lift, nn.Conv2d), convnet.network[::2], strict=True):
            layer.weight[:, : theirs.weight.shape[1]] = theirs.weight
            layer.bias.copy_(theirs.bias)
        torch.testing.assert_close(lift(x), convnet(x))


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
    on = Task("made_up", FRAMES, 2, 8, 12, periodic=True)  # tiles of 2 x 3 cells
    lift, x, shift = build(LiftTranslation, on), frames(on), ((2, 3), (-2, -1))
    with torch.no_grad():
        features, expected = lift.encoder(x.flatten(1, 2)), lift(x).roll(*shift)
        assert (lift(x.roll(*shift)) - expected).abs().max() > 1e-4 * expected.abs().max()
        moved = features.unflatten(1, (-1, 4, 4)).roll((1, 1), (-2, -1)).flatten(1)
        lift.encoder = Given(moved)
        torch.testing.assert_close(lift(x.roll(*shift)), expected)


# Lift expansion for scale


@boxes
@projections
def test_lift_scale_without_its_encoder_is_sesn(on: Task, projection: str) -> None:
    lift, strict = (build(model, on, projection=projection) for model in (LiftScale, SESN))
    x = frames(on)
    with torch.no_grad():
        for parameter in lift.encoder[-1].parameters():
            parameter.zero_()
        for layer, theirs in zip(lift.network.layers, strict.network.layers, strict=True):
            layer.coefficients[:, : theirs.coefficients.shape[1]] = theirs.coefficients
        torch.testing.assert_close(lift(x), strict(x))


def test_lifted_functions_on_scales_are_constant_over_the_grid() -> None:
    """Number e S + s of the encoder is the function e at the scale s; they join the features of the first layers."""
    lift, x = build(LiftScale, hidden=8), frames()
    features = torch.randn(2, 2 * len(SCALES))
    lift.encoder = Given(features)
    seen = entering(lift.network.layers[2], lift, x)
    assert seen.shape == (len(SCALES), 2, 8 + 2, 10, 12)
    with torch.no_grad():
        assert torch.equal(seen[:, :, :8], lift.network.before(x.flatten(1, 2), 2))
    for s in range(len(SCALES)):
        for e in range(2):
            expected = features[:, e * len(SCALES) + s, None, None].expand(-1, 10, 12)
            assert torch.equal(seen[s, :, 8 + e], expected)
