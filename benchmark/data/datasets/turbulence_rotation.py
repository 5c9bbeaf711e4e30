"""Turbulence whose viscosity differs between the axes, which breaks quarter turns."""

from dataclasses import replace

from benchmark.cell import Level
from benchmark.data.physics.spectral import Fluid
from benchmark.data.physics.turbulence import ISOTROPIC, TurbulenceDataset


class TurbulenceRotation(TurbulenceDataset):
    """35 runs from random initial states; the viscosity is 0.015 (1 + level) along x and 0.015 (1 - level) along y.

    At level 0 a turned initial state gives the turned flow up to round-off. Above it quarter turns are broken, while
    half turns, shifts and mirror images stay exact: the error of rot180 stays at round-off. Growth and drag are the
    same in all directions (see `spectral`). See `TurbulenceDataset` for the runs and the data equivariance error.
    """

    group = "C4"
    level_meaning = "by which fraction the viscosity along x is above its mean, and that along y below it"

    def fluid(self, level: Level) -> Fluid:
        """Fluid with an anisotropic viscosity."""
        anisotropy = self.level_value(level)
        along_x, along_y = ISOTROPIC.viscosity
        return replace(ISOTROPIC, viscosity=(along_x * (1 + anisotropy), along_y * (1 - anisotropy)))
