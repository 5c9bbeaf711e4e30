"""Closed forms for the networks that the equivariant ones are compared with: MLP, FNO, U-Net, CoordConv, ConvNet."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import model_support
import pytest
import torch
import torch.nn.functional as F
from model_support import parameter_count
from torch import Tensor, nn

from benchmark.cell import Target
from benchmark.evaluation.evaluate import roll_out
from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.coordconv import CoordConv, CoordConv2d, coordinates
from benchmark.models.fno import FNO, SpectralConv2d
from benchmark.models.layers.convolutions import LAST_LAYER_GAIN
from benchmark.models.linear import Linear
from benchmark.models.mlp import MLP
from benchmark.models.unet import UNet

GRIDS = [(12, 12), (12, 9), (11, 13)]
PERIODIC = pytest.mark.parametrize("periodic", [False, True], ids=["walls", "periodic"])


def task(height: int, width: int, periodic: bool = False, frames: int = 3) -> Task:
    return Task("made_up", frames, height, width, periodic=periodic)


def build(baseline: type[Baseline], on: Task, **config: Any) -> Any:
    return model_support.build(baseline, on, **config)


def noise(on: Task, windows: int = 2) -> Tensor:
    shape = (windows, on.input_frames, on.channels, on.height, on.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def angles(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y of each cell, (H, 1) and (1, W), as angles once around the box."""
    x, y = (2 * math.pi * torch.arange(size).double() / size for size in (height, width))
    return x[:, None], y[None]


def relative(difference: Tensor, scale: Tensor) -> float:
    return float(difference.abs().max() / scale.abs().max())


@PERIODIC
@pytest.mark.parametrize(
    ("baseline", "config"),
    [(MLP, {}), (FNO, {}), (UNet, {"hidden": 16}), (CoordConv, {}), (ConvNet, {})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_first_forecast_is_near_zero(baseline: type[Baseline], config: Mapping[str, Any], periodic: bool) -> None:
    on = task(32, 32, periodic, frames=10)
    with torch.no_grad():
        assert build(baseline, on, **config)(noise(on)).std() < 0.15, "of a field of deviation 1"


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_mlp_parameters(layers: int) -> None:
    frame, hidden = 2 * 9 * 7, 5
    matrices = 3 * frame * hidden + (layers - 2) * hidden**2 + hidden * frame if layers > 1 else 3 * frame * frame
    assert (
        parameter_count(build(MLP, task(9, 7), hidden=hidden, layers=layers))
        == matrices + (layers - 1) * hidden + frame
    )


def test_mlp_matrix_that_copies_the_last_frame_is_persistence() -> None:
    on = task(5, 4)
    model, frame, x = build(MLP, on, layers=1), 2 * 5 * 4, noise(on)
    with torch.no_grad():
        model.network[0].weight.copy_(torch.eye(3 * frame)[-frame:])
        model.network[0].bias.zero_()
        assert torch.equal(model(x), x[:, -1])


@pytest.mark.parametrize("target", ["frame", "change"])
def test_linear_rolls_out_along_the_line_through_the_last_two_frames(target: Target) -> None:
    on = Task("made_up", 2, 6, 5, target=target)
    x, k = noise(on), torch.arange(1, 9).view(1, -1, 1, 1, 1)
    forecast = roll_out(build(Linear, on), x, 8, "cpu", bf16=False)
    assert torch.allclose(forecast, x[:, -1:] + k * (x[:, -1:] - x[:, -2:-1]), atol=1e-4)
    assert Linear.supports(on) is None
    assert Linear.supports(replace(on, input_frames=1)) == "needs 2 input frames, the protocol gives 1"


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_spectral_layer_with_ik_is_the_derivative(grid: tuple[int, int], axis: int) -> None:
    """One multiplier on every grid gives one function of x and y, independent of the resolution."""
    layer = SpectralConv2d(1, (4, 5)).double()
    x, y = angles(*grid)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0, 0, 1] = layer.wave_numbers()[:, axis]
        derivative = layer((2 + (3 * x).sin() * (y + 1).cos() + x.cos() + (4 * y).sin())[None, None])[0, 0]
    expected = (
        3 * (3 * x).cos() * (y + 1).cos() - x.sin() + 0 * y,
        -(3 * x).sin() * (y + 1).sin() + 4 * (4 * y).cos(),
    )
    torch.testing.assert_close(derivative, expected[axis])


def test_spectral_layer_mixes_channels_and_cuts_high_wave_numbers_off() -> None:
    layer = SpectralConv2d(2, (3, 3)).double()
    x, y = angles(12, 9)
    kept, lost = (2 * x).cos() * (2 * y).sin(), (3 * x).cos() + (3 * y).cos()
    mixing = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[..., 0] = mixing
        out = layer(torch.stack((kept + lost, 5 * kept))[None])[0]
    torch.testing.assert_close(out, torch.stack((16 * kept, 22 * kept)))


def test_spectral_layer_on_the_axis_takes_the_hermitian_part() -> None:
    """R(1, 0) = 2 and R(-1, 0) = 2 i make (2 - 2 i) / 2 of cos x, thus cos x + sin x."""
    layer = SpectralConv2d(1, (2, 1)).double()
    x, y = angles(8, 6)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1, 0, 0, 0] = 2
        layer.weight[2, 0, 0, 1] = 2
        out = layer((x.cos() + 0 * y)[None, None])[0, 0]
    assert layer.wave_numbers().tolist() == [[0, 0], [1, 0], [-1, 0]]
    torch.testing.assert_close(out, x.cos() + x.sin() + 0 * y)


def test_fno_with_one_mode_sees_the_mean_alone() -> None:
    """One layer, m = 1, no pointwise path: y = Q(R^T mean(P x)) in every cell, with the real part of R."""
    on = task(7, 10, periodic=True)
    model, x = build(FNO, on, hidden=3, layers=1, modes=1), noise(on)
    with torch.no_grad():
        for parameter in model.pointwise.parameters():
            parameter.zero_()
        mean = model.lifting(x.flatten(1, 2)).mean((2, 3))
        expected = model.projection((mean @ model.spectral[0].weight[0, :, :, 0])[:, :, None, None])
        torch.testing.assert_close(model(x), expected.expand(-1, -1, 7, 10))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_fno_keeps_every_shift_of_a_periodic_box(grid: tuple[int, int]) -> None:
    on = task(*grid, periodic=True)
    model, x = build(FNO, on, hidden=4).double(), noise(on).double()
    with torch.no_grad():
        expected = model(x)
        for shift in ((1, 0), (0, 1), (5, 3)):
            assert relative(model(x.roll(shift, (-2, -1))) - expected.roll(shift, (-2, -1)), expected) < 1e-12


@pytest.mark.parametrize("grid", [*GRIDS, (62, 23)], ids=str)
def test_fno_between_walls_is_the_periodic_one_on_an_extended_box(grid: tuple[int, int]) -> None:
    height, width = grid
    more_x, more_y = (math.ceil(size / 8) for size in grid)
    walls, unpadded = (build(FNO, task(height, width), hidden=4, modes=5, domain_padding=p) for p in (0.125, 0.0))
    periodic = build(FNO, task(height + more_x, width + more_y, periodic=True), hidden=4, modes=5)
    with torch.no_grad():
        walls.lifting.bias.zero_()  # it would fill the cells that are added to x, and not those added to P x
        for other in (unpadded, periodic):
            other.load_state_dict(walls.state_dict())
        x = noise(task(height, width))
        y = walls(x)
        torch.testing.assert_close(y, periodic(F.pad(x, (0, more_y, 0, more_x)))[..., :height, :width])
        assert relative(unpadded(x) - y, y) > 1e-3


def test_fno_converges_with_the_resolution() -> None:
    """On finer grids only the aliasing of gelu changes, which falls off spectrally."""
    model = build(FNO, task(16, 16, periodic=True, frames=1), hidden=6, modes=4).double()

    def forecast(size: int) -> Tensor:
        x, y = angles(size, size)
        field = 10 * torch.stack((x.sin() * (y + 1).cos(), (2 * x + y).cos()))
        with torch.no_grad():
            return model(field[None, None])[..., :: size // 16, :: size // 16]

    exact = forecast(128)
    errors = [relative(forecast(size) - exact, exact) for size in (16, 32, 64)]
    assert errors[0] > 100 * errors[1] > 10_000 * errors[2]
    assert 0 < errors[2] < 1e-7


def test_spectral_layer_transforms_half_precision_in_single() -> None:
    """On a GPU, autocast hands bf16 to the transform, which has none."""
    layer, v = SpectralConv2d(3, (4, 4)), torch.randn(2, 3, 12, 9).bfloat16()
    assert torch.equal(layer(v), layer(v.float()))


def test_fno_has_real_parameters_in_any_memory_format() -> None:
    on = task(12, 9)
    model, x = build(FNO, on, hidden=4), noise(on)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model.to(memory_format=torch.channels_last)(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert relative(model(x).float() - expected, expected) < 0.05


@pytest.mark.parametrize("grid", [*GRIDS, (1, 5)], ids=str)
def test_unet_that_only_passes_on_gives_block_maxima(grid: tuple[int, int]) -> None:
    """One halving, every convolution an identity, the skip ignored: y(i, j) is the maximum of x over the block of
    (i, j), on odd grids, too, where the last block is cut.
    """
    height, width = grid
    model = build(UNet, Task("made_up", 1, height, width), hidden=2, depth=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for convolution in (model.down[0][0], model.down[0][2], model.down[1][0], model.down[1][2], model.merge[0][2]):
            convolution.weight[(0, 1), (0, 1), 1, 1] = 1
        model.up[0].weight[(0, 1), (0, 1)] = 1
        model.merge[0][0].weight[(0, 1), (2, 3), 1, 1] = 1  # 0 and 1 are the skip
        model.last.weight[(0, 1), (0, 1)] = 1
        x = noise(Task("made_up", 1, height, width)).abs()
        y = model(x)
    for i in range(height):
        for j in range(width):
            rows, columns = slice(i // 2 * 2, i // 2 * 2 + 2), slice(j // 2 * 2, j // 2 * 2 + 2)
            assert torch.equal(y[..., i, j], x[:, 0, :, rows, columns].amax((-2, -1)))


@pytest.mark.parametrize("depth", [1, 3])
def test_unet_keeps_the_shifts_of_its_coarsest_grid(depth: int) -> None:
    on = task(16, 24, periodic=True)
    model, x = build(UNet, on, hidden=4, depth=depth), noise(on)
    with torch.no_grad():
        expected = model(x)
        errors = [
            relative(model(x.roll(shift, axis)) - expected.roll(shift, axis), expected)
            for axis in (-2, -1)
            for shift in (2**depth, 2 ** (depth - 1))
        ]
    assert max(errors[::2]) < 1e-5
    assert min(errors[1::2]) > 1e-3


@pytest.mark.parametrize("depth", [1, 4])
def test_unet_parameters(depth: int) -> None:
    def block(wide_in: int, wide_out: int) -> int:
        return 9 * wide_in * wide_out + 9 * wide_out**2 + 2 * wide_out

    widths = [3 * 2**level for level in range(depth + 1)]
    coarser = pairwise(widths)
    expected = block(6, 3) + sum(
        block(fine, coarse) + block(coarse, fine) + 4 * coarse * fine + fine for fine, coarse in coarser
    )
    assert parameter_count(build(UNet, task(16, 16), hidden=3, depth=depth)) == expected + 3 * 2 + 2


@PERIODIC
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_coordconv_without_coordinate_weights_is_the_convnet(periodic: bool, kernel_size: int) -> None:
    on, config = task(11, 13, periodic), {"hidden": 4, "kernel_size": kernel_size}
    model, plain, x = build(CoordConv, on, **config), build(ConvNet, on, **config), noise(on)
    with torch.no_grad():
        for ours, theirs in zip(model.network, plain.network, strict=True):
            if isinstance(theirs, nn.Conv2d):
                ours.weight.zero_()[:, : theirs.in_channels] = theirs.weight
                ours.bias.copy_(theirs.bias)
        torch.testing.assert_close(model(x), plain(x))
        model.network[0].weight[0, -1] = 1
        assert relative(model(x) - plain(x), plain(x)) > 1e-3


@PERIODIC
def test_coordconv_layer_is_a_convolution_of_features_and_coordinates(periodic: bool) -> None:
    where, mode = coordinates(6, 9, periodic), task(6, 9, periodic).padding_mode
    layer = CoordConv2d(where, 2, 5, 3, mode)
    plain = nn.Conv2d(2 + where.shape[1], 5, 3, padding=1, padding_mode=mode)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 2, 6, 9)
    torch.testing.assert_close(layer(x), plain(torch.cat((x, where.expand(3, -1, -1, -1)), dim=1)))


def test_coordinates_between_walls_go_from_end_to_end() -> None:
    x, y = coordinates(3, 5, periodic=False)[0]
    assert torch.equal(x, torch.tensor([-1.0, 0.0, 1.0])[:, None].expand(3, 5))
    assert torch.equal(y, torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).expand(3, 5))


def test_coordinates_of_a_periodic_box_do_not_jump() -> None:
    """Neighbours are one chord apart, over the edge, too; along the other axis nothing changes."""
    where = coordinates(6, 8, periodic=True)[0]
    for axis, size, pair, other in ((1, 6, where[:2], where[2:]), (2, 8, where[2:], where[:2])):
        chord = (pair - pair.roll(1, axis)).norm(dim=0)
        torch.testing.assert_close(chord, torch.full((6, 8), 2 * math.sin(math.pi / size)))
        assert torch.equal(other, other.roll(1, axis))


@PERIODIC
def test_convnet_is_the_plain_stack(periodic: bool) -> None:
    on = task(9, 7, periodic)
    model = build(ConvNet, on, hidden=5, layers=3, kernel_size=5)
    torch.manual_seed(0)
    settings = {"padding": 2, "padding_mode": "circular" if periodic else "zeros"}
    wide = (nn.Conv2d(6, 5, 5, **settings), nn.Conv2d(5, 5, 5, **settings), nn.Conv2d(5, 2, 5, **settings))
    stack = nn.Sequential(wide[0], nn.ReLU(), wide[1], nn.ReLU(), wide[2])
    with torch.no_grad():
        for layer in wide:  # torch draws uniform weights of variance 1 / (3 fan-in)
            layer.weight.mul_(3**0.5)
            layer.bias.zero_()
        wide[-1].weight.mul_(LAST_LAYER_GAIN)
    assert list(model.state_dict()) == [f"network.{key}" for key in stack.state_dict()]
    assert torch.equal(model(noise(on)), stack(noise(on).flatten(1, 2)))
