"""Strict floor: the error of the best strictly equivariant forecast, where all transformed states are equally likely.

With F the true map over some frames and G the group, (P F)(x) = mean over g of g^-1 F(g x) is the best such forecast
(Petrache, Trivedi 2023, arXiv 2305.17592). F(g x) is simulated from the transformed state, with everything that breaks
the symmetry left as it is. Where a state reveals its orientation, a strict model may do better: the floor is what
strictness can cost at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.cell import VELOCITY, Components, Grid
from benchmark.groups import to_cell_centers

FLOOR_STEPS = 20
"""Frames that F is simulated over, the longest published roll-out."""
FLOOR_RUNS, FLOOR_TIMES = 8, 4
"""States x: that many runs, and each run at one of so many times."""


@dataclass(frozen=True)
class StrictFloor:
    """Strict floor of a level: the root mean square of F(x) - (P F)(x) over states and components, in field units.

    `by_step` has it after 1, 2, ... frames for each grid. `recipe` identifies the simulations.
    """

    by_step: Mapping[Grid, tuple[float, ...]]
    states: int
    recipe: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "StrictFloor":
        """The floor of a JSON object. KeyError, TypeError, ValueError: another content."""
        by_step = {grid: tuple(map(float, steps)) for grid, steps in dict(document["by_step"]).items()}
        if not all(isfinite(step) and step >= 0 for steps in by_step.values() for step in steps):
            raise ValueError("a strict floor is a number, 0 or more")
        return cls(by_step, int(document["states"]), str(document["recipe"]))

    def over(self, steps: int, grid: Grid) -> float | None:
        """Root mean square over the first `steps` frames, to compare with the RMSE of a roll-out.

        None if fewer frames were simulated, or none on that grid.
        """
        squares = [step * step for step in self.by_step.get(grid, ())[:steps]]
        return sqrt(fsum(squares) / steps) if len(squares) == steps else None


def floor_frames(frames: int) -> tuple[int, ...]:
    """Frames of the states, evenly spread over the `frames` of a run."""
    return tuple(frames * (2 * i + 1) // (2 * FLOOR_TIMES) for i in range(FLOOR_TIMES))


def deviation(forecasts: Tensor) -> Tensor:
    """F(x) - (P F)(x) from the g^-1 F(g x) of all elements g, the identity first: (element, ...) -> (...)."""
    return forecasts[0] - forecasts.mean(dim=0)


def measure(
    deviations: Sequence[NDArray[np.float32]], grid: Grid, recipe: str, components: Components = VELOCITY
) -> StrictFloor:
    """Floor from `deviations` F(x) - (P F)(x), arrays (state, step, ...) on `grid`.

    A staggered field has a floor on the cell centres, too.
    """
    fields = torch.from_numpy(np.concatenate(deviations)).double()
    by_grid = {grid: fields} | ({"centered": to_cell_centers(fields, components)} if grid == "staggered" else {})
    return StrictFloor(
        {
            name: tuple(field.square().mean((0, *range(2, field.ndim))).sqrt().tolist())
            for name, field in by_grid.items()
        },
        len(fields),
        recipe,
    )
