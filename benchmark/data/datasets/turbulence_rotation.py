"""Turbulence that is more viscous along one axis than along the other, which no quarter turn respects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level, Protocol
from benchmark.data.dataset import Dataset, Preset, PublishedWindows, Simulation, Split, SplitName, divide
from benchmark.data.physics.spectral import (
    ISOTROPIC,
    TRAINING_RUNS,
    UNSEEN_RUNS,
    Turbulence,
    flow_of,
    level_of,
    parts_of,
)


class TurbulenceRotation(Dataset):
    """35 runs from random initial states; the viscosity is 0.015 (1 + level) along x and 0.015 (1 - level) along y.

    At level 0 a turned initial state gives the turned flow to round-off. Above it quarter turns are broken, while
    half turns, shifts and mirror images stay exact, so that of the three measured errors that of rot180 stays at
    round-off. The band that grows and the drag are the same in all directions (`spectral`), and keep the flow going.

    The velocity is divergence-free as a Fourier series. That is no promise of the staggered stencil, and none is made.
    """

    group = "C4"
    periodic = True
    levels = (0, 0.2, 0.4, 0.6, 0.8)
    level_meaning = "by which fraction the viscosity along x is above its mean, and that along y below it"
    presets: ClassVar[Mapping[str, Preset]] = {"small": Preset(32, 32, 64), "full": Preset(64, 64, 310)}
    source = "symbench; method: Canuto, Hussaini, Quarteroni, Zang, Spectral Methods in Fluid Dynamics, 1988"

    def parts(self, level: Level, preset: str) -> list[Turbulence]:
        """Five of seven runs, and one for each quarter turn."""
        return parts_of(self._flow(level, preset), self.group)

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """All runs in the order of their seeds."""
        return level_of(self._flow(level, preset), self.group, fields)

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """25 runs to train on and 10 unseen ones, which started from other seeds."""
        return divide(self.presets[preset], TRAINING_RUNS, UNSEEN_RUNS, protocol, PublishedWindows())

    def _flow(self, level: Level, preset: str) -> Turbulence:
        anisotropy = self.level_value(level)
        along_x, along_y = ISOTROPIC.viscosity
        viscosity = (along_x * (1 + anisotropy), along_y * (1 - anisotropy))
        return flow_of(replace(ISOTROPIC, viscosity=viscosity), self.presets[preset])
