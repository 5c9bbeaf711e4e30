"""Metrics against closed forms."""

import math

import pytest
import torch

from benchmark.evaluation.metrics import ForecastError, ModelEquivarianceError
from benchmark.groups import elements, rotate

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


def test_equivariance_error_of_known_maps() -> None:
    x = torch.randn(4, 3, 2, 6, 6)
    turns = elements("C4", "centered", False, 6, 6)
    last = ModelEquivarianceError.zero(CPU)
    last.add(lambda window: window[:, -1], x, turns)
    assert last.absolute() == 0.0

    # Adding a constant wind (1, 0) turns into (0, 1), (-1, 0), (0, -1): mean |difference| is 1 for every turn.
    wind = torch.tensor([1.0, 0.0])[:, None, None]
    windy = ModelEquivarianceError.zero(CPU)
    windy.add(lambda window: 0 * window[:, -1] + wind, x, turns)
    expected = [(wind - rotate(wind.expand(2, 1, 1), turns, "centered")).abs().mean() for turns in (1, 2, 3)]
    assert [float(value) for value in expected] == [1.0, 1.0, 1.0]
    assert windy.absolute() == pytest.approx(1.0, rel=1e-6)
    assert windy.relative() == pytest.approx(2.0, rel=1e-6)  # mean |f(x)| over both components is 1 / 2


def test_equivariance_error_of_a_position_leaves_out_what_comes_from_outside() -> None:
    """f adds the x position: moved by s cells it is s short, wherever the box is still seen."""
    x = torch.randn(3, 2, 2, 8, 8)
    places = torch.arange(8.0)[:, None].expand(2, 8, 8)
    for periodic in (False, True):
        moved = ModelEquivarianceError.zero(CPU)
        (element,) = [one for one in elements("translation", "centered", periodic, 8, 8) if one.name == "shift+1+0"]
        moved.add(lambda window: window[:, -1] + places, x, [element])
        assert moved.absolute() == pytest.approx(1.0 if not periodic else (7 * 1 + 7) / 8, rel=1e-6)
    last = ModelEquivarianceError.zero(CPU)
    for group in ("translation", "scale"):
        last.add(lambda window: window[:, -1], x, elements(group, "staggered", False, 8, 8))
    assert last.absolute() == pytest.approx(0, abs=1e-6)
