"""Turbulence with a steady source of vorticity at fixed places, which breaks translations."""

from dataclasses import replace

from benchmark.cell import Level
from benchmark.data.physics.spectral import Fluid
from benchmark.data.physics.turbulence import ISOTROPIC, TurbulenceDataset


class TurbulenceTranslation(TurbulenceDataset):
    """35 runs from random initial states; a steady source of vorticity stirs the box, stronger with the level.

    The source is level (drag + viscosity) (cos x + cos y). Alone, it sustains w = level (cos x + cos y), a pair of
    counter-rotating vortices of rms speed `level`, where the initial states have 1. Level 0 has no source, and a
    shifted initial state gives the shifted flow up to round-off. Quarter turns about the centre of the box stay exact
    at every level. From level 1 on the pair takes over, and the flow slowly comes to rest around it. See
    `TurbulenceDataset` for the runs and the data equivariance error.
    """

    group = "translation"
    level_meaning = "the rms speed that the source alone would sustain, in units of that of the initial state"

    def fluid(self, level: Level) -> Fluid:
        """Fluid with a source of vorticity."""
        return replace(ISOTROPIC, source=self.level_value(level) * (ISOTROPIC.drag + ISOTROPIC.viscosity[0]))
