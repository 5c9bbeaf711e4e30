"""Spectra and divergence against closed forms."""

import math

import pytest
import torch

from benchmark.cell import Grid
from benchmark.evaluation.flow import Box, FlowError, energy_spectrum, mean_divergence

CPU = torch.device("cpu")


def waves(size: int, number: int, amplitude: float) -> torch.Tensor:
    """A shear flow u = amplitude sin(2 pi number y / size): divergence-free, of energy amplitude^2 / 4."""
    y = torch.arange(size, dtype=torch.float64)
    u = amplitude * torch.sin(2 * math.pi * number * y / size).expand(size, size)
    return torch.stack((u, torch.zeros_like(u)))


def test_the_energy_of_a_wave_is_in_its_shell() -> None:
    spectrum = energy_spectrum(waves(16, 3, 2.0) + 5.0, periodic=True)
    expected = torch.zeros(8, dtype=torch.float64)
    expected[2] = 1.0
    assert torch.allclose(spectrum, expected, atol=1e-12), "the mean flow of 5 is in no shell"


def test_a_narrow_field_counts_waves_along_the_longer_side() -> None:
    field = torch.zeros(2, 16, 8, dtype=torch.float64)
    field[1] = torch.cos(2 * math.pi * 2 * torch.arange(8) / 8)
    spectrum = energy_spectrum(field, periodic=True)
    assert spectrum.argmax() == 3, "two waves over half the length are four over the whole"
    assert float(spectrum.sum()) == pytest.approx(0.25)


def test_the_window_keeps_a_step_at_the_wall_out_of_the_small_scales() -> None:
    x = torch.linspace(0, 1, 64, dtype=torch.float64)
    ramp = torch.stack((x.expand(64, 64), x.expand(64, 64)))
    walled, wrapped = energy_spectrum(ramp, periodic=False), energy_spectrum(ramp, periodic=True)
    assert walled[10:].sum() < 1e-4 * wrapped[10:].sum()


@pytest.mark.parametrize(
    ("grid", "periodic", "expected"),
    [
        ("staggered", True, (5 * 3 + 15) / 6),  # the jump back at the side of the box
        ("centered", True, (4 * 3 + 2 * 6) / 6),
        ("centered", False, 3.0),
    ],
)
def test_divergence_of_a_linear_expansion(grid: Grid, periodic: bool, expected: float) -> None:
    """u = 3 x, v = -x has divergence 3 wherever the stencil does not reach over a side of the box."""
    x = 0.5 * torch.arange(6, dtype=torch.float64)[:, None].expand(6, 6)
    field = torch.stack((3 * x, -x))[None]
    assert float(mean_divergence(field, Box(grid, 0.5, periodic))) == pytest.approx(expected)
    shear = waves(8, 1, 1.0)[None]
    assert float(mean_divergence(shear, Box(grid, 0.5, periodic=True))) == pytest.approx(0, abs=1e-12)


def test_walls_of_a_staggered_box_let_nothing_through() -> None:
    """A wind along x piles up at the upper wall: 1 / spacing in its last row of cells, 0 elsewhere."""
    wind = torch.zeros(1, 2, 4, 4)
    wind[:, 0] = 1.0
    assert float(mean_divergence(wind, Box("staggered", 0.5, periodic=False))) == pytest.approx(2.0 / 4)


def test_a_factor_of_ten_in_every_scale_is_an_error_of_one() -> None:
    truth = torch.randn(3, 2, 2, 16, 16, dtype=torch.float64)
    error = FlowError.zero(Box("centered", 1.0, True), 16, 16, CPU)
    error.add(math.sqrt(10) * truth, truth)
    assert error.spectrum_error() == pytest.approx(1.0, rel=1e-6)
    prediction, exact = error.divergences()
    assert prediction == pytest.approx(math.sqrt(10) * exact)


def test_batches_add_up_and_a_field_at_rest_has_a_finite_error() -> None:
    truth, prediction = torch.randn(2, 5, 3, 2, 12, 8)
    total, parts = (FlowError.zero(Box("staggered", 1.0, False), 12, 8, CPU) for _ in range(2))
    total.add(prediction, truth)
    for piece in (slice(0, 2), slice(2, 5)):
        parts.add(prediction[piece], truth[piece])
    assert parts.spectra()[0] == pytest.approx(total.spectra()[0])
    assert parts.divergences() == pytest.approx(total.divergences())
    rest = FlowError.zero(Box("staggered", 1.0, False), 12, 8, CPU)
    rest.add(torch.zeros_like(truth), torch.zeros_like(truth))
    assert rest.spectrum_error() == 0.0
