"""Buoyant smoke in a closed box, the simulation that the smoke datasets share (Wang, Walters, Yu 2022, section 5).

    smoke    <- advect(smoke, v) + inflow         MacCormack, dt 1; zero gradient at the walls
    v        <- advect(v, v) + smoke * buoyancy   semi-Lagrangian; no flow through the walls
    v        <- v - grad p,  lap p = div v        so that div v = 0 after each step

The box is [0, 64]^2 in units of length whatever the resolution, and time is counted in steps of the smoke.
Velocities live on the faces of the cells: arrays are (..., 2, X, Y) with component 0 on the lower x face and
component 1 on the lower y face of each cell, in the order that `groups` expects. The upper faces of the box are
walls like the lower ones, and are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from ..errors import MachineError
from ..groups import divergence
from .dataset import Progress

BOX = 64.0
INFLOW_RADIUS = 5.0
SMOKE_TIME_STEP = 1.0
DIVERGENCE_LIMIT = 1e-9
"""In 1 / time; round-off leaves about 1e-14."""


@dataclass(frozen=True)
class Plume:
    """One run: the centre of its inflow, in lengths, and the acceleration of unit smoke, in lengths / time^2."""

    inflow: tuple[float, float]
    buoyancy: tuple[float, float]


def simulate(
    plumes: Sequence[Plume], cells: int, steps: int, velocity_time_step: float, progress: Progress
) -> NDArray[np.float32]:
    """The velocity after each step, all `plumes` at once, computed in float64: (run, time, 2, X, Y).

    The published code solves for the pressure with PhiFlow's `Solve('auto', 1e-5, 0)`, whose conjugate gradients
    diverge in places; `project` solves the same equations exactly. MachineError where a step leaves divergence.
    """
    # PhiFlow takes about half a second to load, and commands that only list the datasets import this module.
    from phi import math
    from phi.field import CenteredGrid, Field, StaggeredGrid, resample
    from phi.geom import Box, Sphere
    from phi.math import batch, channel, dual, spatial
    from phi.math.extrapolation import ZERO, ZERO_GRADIENT
    from phi.physics import advect

    box = Box(x=BOX, y=BOX)

    def vectors(rows: list[tuple[float, float]]) -> math.Tensor:
        return math.wrap(np.array(rows, np.float64), batch("run"), channel(vector="x,y"))

    def to_faces(velocity: Field) -> NDArray[np.float64]:
        """PhiFlow keeps the inner faces only."""
        faces = np.zeros((len(plumes), 2, cells, cells))
        faces[:, 0, 1:, :] = velocity.vector["x"].values.numpy("run,x,y")
        faces[:, 1, :, 1:] = velocity.vector["y"].values.numpy("run,x,y")
        return faces

    def from_faces(faces: NDArray[np.float64]) -> Field:
        inner = [faces[:, 0, 1:, :], faces[:, 1, :, 1:]]
        components = [math.wrap(component, batch("run"), spatial("x,y")) for component in inner]
        return StaggeredGrid(math.stack(components, dual(vector="x,y")), ZERO, bounds=box)

    frames = np.empty((len(plumes), steps, 2, cells, cells), np.float32)
    with math.precision(64):
        buoyancy = vectors([plume.buoyancy for plume in plumes])
        smoke = CenteredGrid(math.zeros(buoyancy.shape["run"]), ZERO_GRADIENT, x=cells, y=cells, bounds=box)
        inflow = resample(Sphere(vectors([plume.inflow for plume in plumes]), radius=INFLOW_RADIUS), to=smoke)
        velocity = from_faces(np.zeros((len(plumes), 2, cells, cells)))
        for step in range(steps):
            smoke = advect.mac_cormack(smoke, velocity, SMOKE_TIME_STEP) + inflow
            lift = resample(smoke * buoyancy, to=velocity)
            velocity = advect.semi_lagrangian(velocity, velocity, velocity_time_step) + lift
            faces = project(to_faces(velocity), BOX / cells)
            _require_no_divergence(faces, BOX / cells, step)
            velocity = from_faces(faces)
            frames[:, step] = faces
            progress(step + 1, steps)
    return frames


def project(faces: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """The divergence-free part of a velocity (..., 2, X, Y) whose lower wall faces are zero.

    In a closed box the pressure has no gradient at the walls, so the cosine transform (DCT-II) diagonalises the
    five-point Laplacian, and the solution is exact to round-off.
    """
    modes_x, modes_y = (2 * np.cos(np.pi * np.arange(n) / n) - 2 for n in faces.shape[-2:])
    eigenvalues = (modes_x[:, None] + modes_y) / spacing**2
    eigenvalues[0, 0] = 1.0  # the mean pressure: undetermined, and the mean divergence is zero
    pressure = idctn(dctn(_divergence(faces, spacing), axes=(-2, -1)) / eigenvalues, axes=(-2, -1))
    projected = faces.copy()
    projected[..., 0, 1:, :] -= np.diff(pressure, axis=-2) / spacing
    projected[..., 1, :, 1:] -= np.diff(pressure, axis=-1) / spacing
    return projected


def _divergence(faces: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    return divergence(torch.from_numpy(faces), spacing).numpy()


def _require_no_divergence(faces: NDArray[np.float64], spacing: float, step: int) -> None:
    worst = float(np.abs(_divergence(faces, spacing)).max())
    if not worst < DIVERGENCE_LIMIT:  # written so that NaN is refused, too
        raise MachineError(
            f"smoke simulation: step {step + 1} leaves a divergence of {worst:.2g} (limit {DIVERGENCE_LIMIT:.0e});"
            " the installed numerical libraries do not solve for the pressure"
        )
