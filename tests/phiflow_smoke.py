"""Smoke simulation of the published code, by PhiFlow: the reference of the tests."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from phi import math
from phi.field import CenteredGrid, StaggeredGrid, resample
from phi.geom import Box as PhiBox
from phi.geom import Sphere
from phi.math import Solve, batch, channel, spatial
from phi.math.extrapolation import ZERO, ZERO_GRADIENT
from phi.physics import advect, fluid
from torch import Tensor

from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume

PUBLISHED_SOLVE = ("auto", 1e-5, 0)


def frames(box: Box, plumes: Sequence[Plume], steps: int, solve: tuple[Any, ...] = PUBLISHED_SOLVE) -> Iterator[Tensor]:
    """Velocity (run, 2, X, Y) float64 after each step, as `smoke.frames_of`, with `Solve(*solve)` for the pressure."""
    bounds = PhiBox(x=box.size, y=box.size)

    def vectors(rows: Sequence[tuple[float, float]]) -> Any:
        return math.wrap(np.array(rows, np.float64), batch("run"), channel(vector="x,y"))

    with math.precision(64):
        right_half = (np.arange(box.cells) + 0.5 > box.cells / 2).astype(np.float64)
        is_right = math.wrap(right_half, spatial("x"))
        left_half = vectors([plume.buoyancy for plume in plumes])
        right_half = vectors([plume.right_buoyancy or plume.buoyancy for plume in plumes])
        buoyancy = left_half * (1 - is_right) + right_half * is_right
        smoke = CenteredGrid(math.zeros(left_half.shape["run"]), ZERO_GRADIENT, x=box.cells, y=box.cells, bounds=bounds)
        inflow = resample(Sphere(vectors([plume.inflow for plume in plumes]), radius=box.inflow_radius), to=smoke)
        velocity = StaggeredGrid(math.zeros(left_half.shape["run"]), ZERO, x=box.cells, y=box.cells, bounds=bounds)
        for _ in range(steps):
            smoke = advect.mac_cormack(smoke, velocity, SMOKE_TIME_STEP) + inflow
            lift = resample(smoke * buoyancy, to=velocity)
            velocity = advect.semi_lagrangian(velocity, velocity, box.velocity_time_step) + lift
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PhiFlow warns that the pressure of a closed box is undetermined
                velocity, _ = fluid.make_incompressible(velocity, (), Solve(*solve))
            yield _faces(velocity, len(plumes), box.cells)


def _faces(velocity: Any, runs: int, cells: int) -> Tensor:
    """Faces (run, 2, X, Y) with the lower walls, which PhiFlow does not store."""
    faces = torch.zeros(runs, 2, cells, cells, dtype=torch.float64)
    faces[:, 0, 1:] = torch.from_numpy(velocity.vector["x"].values.numpy("run,x,y"))
    faces[:, 1, :, 1:] = torch.from_numpy(velocity.vector["y"].values.numpy("run,x,y"))
    return faces
