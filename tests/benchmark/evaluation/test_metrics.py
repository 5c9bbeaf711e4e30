"""Metrics against closed forms."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from benchmark.evaluation.metrics import ForecastError, ModelEquivarianceError
from benchmark.evaluation.regions import by_walls, defined
from benchmark.groups import Element, elements, rotate

CPU = torch.device("cpu")


def test_rmse_of_a_constant_offset() -> None:
    truth = torch.randn(5, 3, 2, 6, 4)
    error = ForecastError.zero(3, CPU)
    offsets = torch.tensor([1.0, 2.0, 3.0])
    error.add(truth + offsets[None, :, None, None, None], truth)
    assert error.rmse_by_step() == pytest.approx([1.0, 2.0, 3.0], rel=1e-6)
    assert error.rmse() == pytest.approx(math.sqrt((1 + 4 + 9) / 3), rel=1e-6)


def test_vrmse_of_the_spatial_mean_is_one() -> None:
    truth = torch.randn(7, 2, 2, 16, 16)
    error = ForecastError.zero(2, CPU)
    error.add(truth.mean((-2, -1), keepdim=True).expand_as(truth), truth)
    assert error.vrmse() == pytest.approx(1.0, rel=1e-6)


def test_uneven_batches_add_up_exactly() -> None:
    truth, prediction = torch.randn(7, 2, 2, 5, 5), torch.randn(7, 2, 2, 5, 5)
    total, parts = ForecastError.zero(2, CPU), ForecastError.zero(2, CPU)
    total.add(prediction, truth)
    for piece in (slice(0, 4), slice(4, 6), slice(6, 7)):
        parts.add(prediction[piece], truth[piece])
    assert parts.rmse() == pytest.approx(total.rmse(), rel=1e-12)
    assert parts.vrmse() == pytest.approx(total.vrmse(), rel=1e-12)


def test_each_run_has_the_error_of_its_own_windows() -> None:
    truth = torch.randn(6, 3, 2, 4, 4)
    offset = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0, 3.0])
    error = ForecastError.zero(3, CPU, runs=3)
    error.add(truth + offset[:, None, None, None, None], truth, torch.tensor([0, 0, 1, 2, 2, 2]))
    assert error.rmse_by_run() == pytest.approx([1.0, 2.0, 3.0], rel=1e-6)
    assert error.rmse() == pytest.approx(math.sqrt((2 * 1 + 4 + 3 * 9) / 6), rel=1e-6)


def equivariance_error(
    model: Callable[[Tensor], Tensor], x: Tensor, group: Sequence[Element], regions: Tensor | None = None
) -> ModelEquivarianceError:
    """Error of one step of `model`, which maps a window to a frame."""
    error = ModelEquivarianceError.zero(defined(group, *x.shape[-2:]) if regions is None else regions)
    error.add(lambda window: model(window)[:, None], x, group)
    return error


def test_equivariance_error_of_known_maps() -> None:
    x = torch.randn(4, 3, 2, 6, 6)
    turns = elements("C4", "centered", False, 6, 6)
    assert equivariance_error(lambda window: window[:, -1], x, turns).absolute() == 0.0

    # Adding a constant wind (1, 0) turns into (0, 1), (-1, 0), (0, -1): mean |difference| is 1 for every turn.
    wind = torch.tensor([1.0, 0.0])[:, None, None]
    windy = equivariance_error(lambda window: 0 * window[:, -1] + wind, x, turns)
    expected = [(wind - rotate(wind.expand(2, 1, 1), turns, "centered")).abs().mean() for turns in (1, 2, 3)]
    assert [float(value) for value in expected] == [1.0, 1.0, 1.0]
    assert windy.absolute() == pytest.approx(1.0, rel=1e-6)
    assert windy.relative() == pytest.approx(2.0, rel=1e-6)  # mean |f(x)| over both components is 1 / 2


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_error_over_the_change_does_not_depend_on_its_size(size: float) -> None:
    """A wind that the model adds: |difference| 1 and |change| 1 / 2 for every turn, in units of the wind."""
    x = torch.randn(4, 3, 2, 6, 6)
    turns = elements("C4", "centered", False, 6, 6)
    wind = size * torch.tensor([1.0, 0.0])[:, None, None]
    windy = equivariance_error(lambda window: window[:, -1] + wind, x, turns)
    assert windy.changes.ratio() == pytest.approx(2.0, rel=1e-3)
    assert equivariance_error(lambda window: window[:, -1], x, turns).changes.ratio() is None, "nothing changes"


def test_batches_of_changes_add_up() -> None:
    x = torch.randn(5, 2, 2, 8, 8)
    group = elements("translation", "centered", False, 8, 8)
    noise = torch.randn(2, 8, 8)

    def model(window: Tensor) -> Tensor:
        return (window[:, -1] + noise * window[:, 0])[:, None]

    one, parts = (ModelEquivarianceError.zero(by_walls(group, 8, 8, 1)) for _ in range(2))
    one.add(model, x, group)
    for piece in (x[:2], x[2:]):
        parts.add(model, piece, group)
    for region in (0, 1):
        assert parts.changes.ratio(region) == pytest.approx(one.changes.ratio(region), rel=1e-12)


def test_equivariance_error_of_a_position_leaves_out_what_comes_from_outside() -> None:
    """f adds the x position: moved by s cells it is s short, wherever the box is still seen."""
    x = torch.randn(3, 2, 2, 8, 8)
    places = torch.arange(8.0)[:, None].expand(2, 8, 8)
    for periodic in (False, True):
        (element,) = [one for one in elements("translation", "centered", periodic, 8, 8) if one.name == "shift+1+0"]
        moved = equivariance_error(lambda window: window[:, -1] + places, x, [element])
        assert moved.absolute() == pytest.approx(1.0 if not periodic else (7 * 1 + 7) / 8, rel=1e-6)
    for group in ("translation", "scale"):
        group_elements = elements(group, "staggered", False, 8, 8)
        assert equivariance_error(lambda w: w[:, -1], x, group_elements).absolute() == pytest.approx(0, abs=1e-6)
