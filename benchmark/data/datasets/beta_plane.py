"""Turbulence on a beta plane, whose waves drift one way: it breaks turns, and no single state shows it."""

from benchmark.cell import Level
from benchmark.data.physics.spectral import BetaPlane
from benchmark.data.physics.turbulence import ISOTROPIC, TurbulenceDataset


class BetaPlaneTurbulence(TurbulenceDataset):
    """35 runs from random initial states; the planetary vorticity grows by `level` along y.

    The term - level u_y lets waves drift towards -x, the longer the faster: at -level / |k|^2. At level 0 a turned
    initial state gives the turned flow up to round-off. Above it every turn is broken, half turns too, while shifts and
    the mirror image y -> -y stay exact. The direction is hidden: a state and its turned copy are equally likely at the
    start, and the drift shows in time only. A strictly equivariant network of one frame cannot know it.

    Apart from the term, the flow is that of `turbulence_rotation` at level 0. See `TurbulenceDataset` for the runs and
    the data equivariance error.
    """

    group = "C4"
    levels = (0, 0.25, 0.5, 1, 2, 5)
    level_meaning = "gradient of the planetary vorticity along y, in units of the initial rms speed / length^2"

    def fluid(self, level: Level) -> BetaPlane:
        """Isotropic fluid on a beta plane."""
        return BetaPlane(**vars(ISOTROPIC), beta=self.level_value(level))
