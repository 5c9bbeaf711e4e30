"""Vortices that a wind carries and friction ends: a complete dataset, which `symbench new-dataset` copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.equivariance import measure
from benchmark.groups import rotate
from symbench import Dataset, Part, Preset, Simulation

FRAME_INTERVAL, VISCOSITY, LARGEST_WAVE_NUMBER = 0.1, 0.02, 4


@dataclass(frozen=True)
class Vortices(Part):
    """Runs from random vortices, one for each of `seeds`, which are turned by `turns` quarter turns first."""

    wind: float
    cells: int
    frames: int
    seeds: tuple[int, ...]
    turns: int = 0

    @property
    def work(self) -> int:
        """Runs times frames times cells."""
        return len(self.seeds) * self.frames * self.cells**2

    def simulate(self) -> NDArray[np.float32]:
        """Velocity (run, time, 2, H, W) of the stream function s, s_t + wind s_x = viscosity (s_xx + s_yy), exactly."""
        number = np.fft.fftfreq(self.cells, 1 / self.cells)
        kx, ky = np.meshgrid(number, number, indexing="ij")
        squared = kx**2 + ky**2
        kept = (squared > 0) & (squared <= LARGEST_WAVE_NUMBER**2)
        times = FRAME_INTERVAL * np.arange(self.frames)[:, None, None]
        change = np.exp(-(VISCOSITY * squared + 1j * self.wind * kx) * times)
        runs = []
        for seed in self.seeds:
            noise = np.random.default_rng(seed).standard_normal((self.cells, self.cells))
            stream = np.fft.fft2(np.rot90(noise, self.turns)) * kept / LARGEST_WAVE_NUMBER
            velocity = (1j * ky * stream * change, -1j * kx * stream * change)
            runs.append(np.stack([np.fft.ifft2(component).real for component in velocity], axis=1))
        return np.stack(runs).astype(np.float32)


class NewDataset(Dataset):
    """12 runs in a periodic box. At level 0 the equation commutes with quarter turns; the wind along x breaks them.

    No single state shows the wind.
    """

    group = "C4"
    periodic = True
    levels = (0, 0.5, 1)
    level_meaning = "speed of the wind along x"
    presets: ClassVar[Mapping[str, Preset]] = {"small": Preset(32, 32, 48), "tiny": Preset(16, 16, 24)}
    training_runs, unseen_runs = range(8), range(8, 12)
    test_runs = "sampled"
    no_floor = "it is not simulated from turned states"
    source = "your paper (arXiv ...), section ..."

    def parts(self, level: Level, preset: str) -> list[Vortices]:
        """The runs, and the same from initial states turned by 90, 180 and 270 degrees."""
        size = self.presets[preset]
        seeds = (*self.training_runs, *self.unseen_runs)
        return [Vortices(self.level_value(level), size.height, size.frames, seeds, turns) for turns in range(4)]

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """The runs, with the error of each turn: the distance of the turned runs, turned back."""
        field, *turned = fields
        errors = []
        for turns, other in enumerate(turned, start=1):
            back = rotate(torch.from_numpy(other), -turns, "centered").numpy()
            errors.append(measure(f"rot{90 * turns}", zip(field, back, strict=True)))
        return Simulation(
            field=field,
            grid="centered",
            divergence_free=False,
            spacing=2 * np.pi / self.presets[preset].height,
            time_step=FRAME_INTERVAL,
            parameters={"wind": self.level_value(level), "viscosity": VISCOSITY},
            run_parameters=[{"seed": seed} for seed in range(len(field))],
            equivariance_errors=errors,
        )
