"""Energy spectrum and divergence of a forecast, beside those of the truth.

Shape letters are those of baseline.py. Sums add up exactly over batches and ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.cell import Grid
from benchmark.data.dataset import SplitName
from benchmark.groups import divergence

FLOOR = 1e-10
"""Fraction of the total energy that is added to each shell before its logarithm, so that round-off does not count."""


@dataclass(frozen=True)
class Box:
    """Geometry of a field: `spacing` is the width of a cell in units of length."""

    grid: Grid
    spacing: float
    periodic: bool


@dataclass
class FlowError:
    """Sums over windows; row 0 is the prediction, row 1 the truth. `velocity` are the channels of the velocity.

    `spectrum` (2, K) sums the energy spectra of the last rolled-out step, `divergence` (2,) the mean |divergence| over
    all steps. `count` is the number of windows.
    """

    box: Box
    velocity: slice
    spectrum: Tensor
    divergence: Tensor
    count: Tensor

    @classmethod
    def zero(cls, box: Box, height: int, width: int, device: torch.device, velocity: slice = slice(2)) -> FlowError:
        shapes = ((2, max(height, width) // 2), (2,), ())
        spectrum, divergence, count = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(box, velocity, spectrum, divergence, count)

    def add(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of roll-outs."""
        for row, states in enumerate((prediction, truth)):
            field = states[:, :, self.velocity]
            self.spectrum[row] += energy_spectrum(field[:, -1].double(), self.box.periodic).sum(0)
            self.divergence[row] += mean_divergence(field, self.box).sum()
        self.count += len(truth)

    def sums(self) -> tuple[Tensor, ...]:
        """Sums over windows, which are added over ranks in place."""
        return self.spectrum, self.divergence, self.count

    def metrics(self, split: SplitName) -> dict[str, Any]:
        """Spectra and divergences of a test split, by their names in a record."""
        spectrum, spectrum_truth = self.spectra()
        divergence, divergence_truth = self.divergences()
        return {
            f"spectrum_{split}": spectrum,
            f"spectrum_truth_{split}": spectrum_truth,
            f"spectrum_error_{split}": self.spectrum_error(),
            f"divergence_{split}": divergence,
            f"divergence_truth_{split}": divergence_truth,
        }

    def spectra(self) -> tuple[list[float], list[float]]:
        """E(k) of prediction and truth in (field units)^2, for k = 1, 2, ... waves along the longer side of the box."""
        prediction, truth = (self.spectrum / self.count).tolist()
        return prediction, truth

    def spectrum_error(self) -> float:
        """Root of the mean over shells of log10(E_prediction / E_truth)^2; 1 is a factor of ten in every shell."""
        floor = torch.clamp(FLOOR * self.spectrum[1].sum(), min=torch.finfo(torch.float64).tiny)
        prediction, truth = (self.spectrum + floor).log10()
        return float((prediction - truth).square().mean().sqrt())

    def divergences(self) -> tuple[float, float]:
        """Mean |divergence| of prediction and truth, in 1 / time."""
        prediction, truth = (self.divergence / self.count).tolist()
        return prediction, truth


def energy_spectrum(field: Tensor, periodic: bool) -> Tensor:
    """Kinetic energy |u|^2 / 2 in shells of wave numbers: (..., 2, H, W) -> (..., K), K = max(H, W) // 2.

    Shell k holds the waves whose number along the longer side rounds to k; the mean flow is in no shell. A field
    between walls is not periodic, and the jump from wall to wall would appear in every shell. Therefore its mean is
    subtracted and the rest is multiplied by a Hann window of mean square 1, which keeps the energy.
    """
    height, width = field.shape[-2:]
    if not periodic:
        window_x, window_y = (
            torch.hann_window(n, False, dtype=field.dtype, device=field.device) for n in (height, width)
        )
        window = window_x[:, None] * window_y
        field = (field - field.mean((-2, -1), keepdim=True)) * (window / window.square().mean().sqrt())
    waves = torch.fft.fft2(field, norm="forward")
    energy = 0.5 * (waves.real.square() + waves.imag.square()).sum(-3)
    longest = max(height, width)
    x, y = (torch.fft.fftfreq(size, device=field.device, dtype=field.dtype) * longest for size in (height, width))
    shell = (x[:, None].square() + y.square()).sqrt().round().long()
    inside = (shell[None] == torch.arange(1, longest // 2 + 1, device=field.device)[:, None, None]).to(field.dtype)
    return torch.einsum("...hw,khw->...k", energy, inside)


def mean_divergence(field_BSCHW: Tensor, box: Box) -> Tensor:
    """Mean |div u| over steps and cells: (..., S, 2, H, W) -> (...) in float64.

    On a staggered grid, differences between the faces of each cell. At cell centres, central differences; a box with
    walls is taken without its outermost cells.
    """
    u, v = field_BSCHW[..., 0, :, :], field_BSCHW[..., 1, :, :]
    if box.grid == "staggered" and not box.periodic:
        total = divergence(field_BSCHW, box.spacing)
    elif box.grid == "staggered":
        total = (u.roll(-1, -2) - u + v.roll(-1, -1) - v) / box.spacing
    else:
        total = (u.roll(-1, -2) - u.roll(1, -2) + v.roll(-1, -1) - v.roll(1, -1)) / (2 * box.spacing)
        if not box.periodic:
            total = total[..., 1:-1, 1:-1]
    return total.abs().mean((-3, -2, -1), dtype=torch.float64)
