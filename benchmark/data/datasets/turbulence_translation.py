"""Turbulence that a steady source of vorticity stirs, at places that no shift respects."""

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


class TurbulenceTranslation(Dataset):
    """35 runs from random initial states; a steady source of vorticity stirs the box, stronger with the level.

    The source is level (drag + viscosity) (cos x + cos y). By itself it would sustain w = level (cos x + cos y), a pair
    of counter-rotating vortices with the rms speed `level`, where the initial states have 1. At level 0 there is none,
    and a shifted initial state gives the shifted flow to round-off. Quarter turns about the centre of the box stay
    exact at every level. From level 1 on the pair takes over, and the flow slowly comes to rest around it.

    The velocity is divergence-free as a Fourier series. That is no promise of the staggered stencil, and none is made.
    """

    group = "translation"
    periodic = True
    levels = (0, 0.2, 0.4, 0.6, 0.8)
    level_meaning = "the rms speed that the source alone would sustain, in units of that of the initial state"
    presets: ClassVar[Mapping[str, Preset]] = {"small": Preset(32, 32, 64), "full": Preset(64, 64, 310)}
    source = "symbench; method: Canuto, Hussaini, Quarteroni, Zang, Spectral Methods in Fluid Dynamics, 1988"

    def parts(self, level: Level, preset: str) -> list[Turbulence]:
        """Five of seven runs, and one for each shift."""
        return parts_of(self._flow(level, preset), self.group)

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """All runs in the order of their seeds."""
        return level_of(self._flow(level, preset), self.group, fields)

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """25 runs to train on and 10 unseen ones, which started from other seeds."""
        return divide(self.presets[preset], TRAINING_RUNS, UNSEEN_RUNS, protocol, PublishedWindows())

    def _flow(self, level: Level, preset: str) -> Turbulence:
        source = self.level_value(level) * (ISOTROPIC.drag + ISOTROPIC.viscosity[0])
        return flow_of(replace(ISOTROPIC, source=source), self.presets[preset])
