"""Buoyant smoke in a closed square box, the simulation of the smoke datasets (Wang, Walters, Yu 2022, section 5).

    d_t s + v . grad s  =  inflow                    smoke density s
    d_t v + v . grad v  =  s b - grad p,  div v = 0  velocity v, no flow through the walls

Each time step of length 1 advances, in this order,

    s  <-  advect(s, v) + inflow    MacCormack scheme, zero gradient at the walls
    v  <-  advect(v, v) + s b       semi-Lagrangian scheme, over the time `Box.velocity_time_step`
    v  <-  v - grad p               with lap p = div v, so that div v = 0

    s       smoke at the cell centres, starts at 0: (run, X, Y)
    inflow  smoke added in each step: 1 inside the disc `Plume.inflow`, `Box.inflow_radius`, 0 outside
    b       acceleration of unit smoke, `Plume.buoyancy` (length / time^2)
    p       pressure times the time step, with zero gradient at the walls

Grid: the box [0, size]^2 has cells of width h = size / cells. Velocities lie on the faces (staggered grid): arrays are
(..., 2, X, Y), component 0 on the lower x face and component 1 on the lower y face of each cell, as in
`benchmark.groups`. The lower faces of the box are walls with v = 0; the upper ones are walls, too, and are not stored.

The operators are those of PhiFlow (`advect.mac_cormack`, `advect.semi_lagrangian`, `resample`) on batches of torch
arrays: PhiFlow itself spends 0.2 s a step on describing its grids. The tests compare them with PhiFlow, by step and
over whole trajectories. The published pressure solver, `Solve('auto', 1e-5, 0)`, iterates and diverges in places; in a
closed box the cosine transform solves the same equations exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import pi, sqrt

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmark.errors import MachineError
from benchmark.groups import divergence, to_cell_centers

SMOKE_TIME_STEP = 1.0
DIVERGENCE_LIMIT = 1e-9
"""Largest divergence after a step, in 1 / time; round-off leaves about 1e-14."""


@dataclass(frozen=True)
class Box:
    """The box [0, size]^2 in `cells` x `cells`, the radius of all inflows, and the time that a step advects v over."""

    size: float
    cells: int
    inflow_radius: float
    velocity_time_step: float

    @property
    def spacing(self) -> float:
        """Width of a cell."""
        return self.size / self.cells


@dataclass(frozen=True)
class Plume:
    """One run: the centre (x, y) of its inflow, and the buoyancy (b_x, b_y); lengths as in `Box`.

    `right_buoyancy` replaces `buoyancy` where x > size / 2.
    """

    inflow: tuple[float, float]
    buoyancy: tuple[float, float]
    right_buoyancy: tuple[float, float] | None = None


State = tuple[Tensor, Tensor]
"""Smoke (run, X, Y) and velocity (run, 2, X, Y) in float64."""


def at_rest(box: Box, runs: int, device: torch.device) -> State:
    """A box without smoke and motion for each run."""
    smoke = torch.zeros(runs, box.cells, box.cells, dtype=torch.float64, device=device)
    return smoke, torch.zeros(runs, 2, box.cells, box.cells, dtype=torch.float64, device=device)


def frames_of(box: Box, plumes: Sequence[Plume], steps: int, device: torch.device) -> Iterator[Tensor]:
    """Velocity of all `plumes` after each step from rest: (run, 2, X, Y) float64. MachineError as in `states_of`."""
    for _, velocity in states_of(box, plumes, steps, at_rest(box, len(plumes), device)):
        yield velocity


@torch.inference_mode()
def states_of(box: Box, plumes: Sequence[Plume], steps: int, state: State) -> Iterator[State]:
    """State of all `plumes` after each step from `state`. MachineError: a step leaves divergence."""
    (smoke, velocity), spacing = state, box.spacing
    inflow = inflow_of(box, plumes).to(smoke.device)
    acceleration = _acceleration(box, plumes).to(smoke.device)
    for step in range(steps):
        smoke = mac_cormack(smoke, velocity, SMOKE_TIME_STEP / spacing) + inflow
        lift = to_faces(smoke[:, None] * acceleration)
        velocity = semi_lagrangian(velocity, box.velocity_time_step / spacing) + lift
        velocity = project(velocity, spacing)
        _require_no_divergence(velocity, spacing, step)
        yield smoke, velocity


def inflow_of(box: Box, plumes: Sequence[Plume]) -> Tensor:
    """Inflow of each step at the cell centres, 1 inside the disc and 0 outside: (run, X, Y)."""
    centers = (torch.arange(box.cells, dtype=torch.float64) + 0.5) * box.spacing
    x, y = (torch.tensor([plume.inflow[axis] for plume in plumes], dtype=torch.float64) for axis in (0, 1))
    across = (centers - x[:, None]).square()[:, :, None] + (centers - y[:, None]).square()[:, None, :]
    return (across <= box.inflow_radius**2).double()


def _acceleration(box: Box, plumes: Sequence[Plume]) -> Tensor:
    """Buoyancy at the cell centres: (run, 2, X, 1)."""
    left_half = torch.tensor([plume.buoyancy for plume in plumes], dtype=torch.float64)[:, :, None, None]
    right_half = torch.tensor([plume.right_buoyancy or plume.buoyancy for plume in plumes], dtype=torch.float64)
    is_left = (torch.arange(box.cells) + 0.5 <= box.cells / 2)[:, None]
    return torch.where(is_left, left_half, right_half[:, :, None, None])


def mac_cormack(values: Tensor, velocity: Tensor, cells_per_speed: float) -> Tensor:
    """Advect cell-centred `values` (run, X, Y), clamped to the four values they come from (no overshoot).

    `velocity` is (run, 2, X, Y) on the faces. `cells_per_speed` is the time step over the width of a cell.
    """
    x, y = _indices(values)
    u, v = (to_cell_centers(velocity) * cells_per_speed).unbind(1)
    neighbours, fraction = _neighbours(values, x - u, y - v)
    forward = _interpolate(neighbours, fraction)
    back = _interpolate(*_neighbours(forward, x + u, y + v))
    corrected = forward + 0.5 * (values - back)
    return corrected.clamp(torch.stack(neighbours).amin(0), torch.stack(neighbours).amax(0))


def semi_lagrangian(velocity: Tensor, cells_per_speed: float) -> Tensor:
    """Advect the velocity (run, 2, X, Y) by itself; it is zero beyond the walls."""
    u, v = velocity.unbind(1)
    return torch.stack((_advect_x(u, v, cells_per_speed), _advect_x(v.mT, u.mT, cells_per_speed).mT), 1)


def _advect_x(u: Tensor, v: Tensor, cells_per_speed: float) -> Tensor:
    """Advected x component (run, X, Y); zero at the walls."""
    x, y = _indices(u)
    v_at_centers = 0.5 * (v + pad(v, (0, 1))[..., 1:])
    v_at_faces = 0.5 * (v_at_centers + pad(v_at_centers, (0, 0, 1, 0))[:, :-1])
    walled = pad(u, (1, 1, 0, 1))  # zeros beyond the walls; the lower x wall is stored
    advected = _interpolate(*_neighbours(walled, x - u * cells_per_speed, y + 1 - v_at_faces * cells_per_speed))
    advected[:, 0] = 0
    return advected


def to_faces(centered: Tensor) -> Tensor:
    """Average a vector field (run, 2, X, Y) at cell centres to the inner faces; zero at the walls."""
    u, v = centered.unbind(1)
    faces = torch.zeros_like(centered)
    faces[:, 0, 1:] = 0.5 * (u[:, 1:] + u[:, :-1])
    faces[:, 1, :, 1:] = 0.5 * (v[..., 1:] + v[..., :-1])
    return faces


def project(faces: Tensor, spacing: float) -> Tensor:
    """Divergence-free part of a velocity (..., 2, X, Y) whose lower wall faces are zero.

    The pressure has zero gradient at the walls, so the cosine transform (DCT-II) diagonalises the five-point Laplacian,
    and the solution is exact up to round-off.
    """
    (cosines_x, modes_x), (cosines_y, modes_y) = (_cosines(n, faces.device) for n in faces.shape[-2:])
    eigenvalues = (modes_x[:, None] + modes_y) / spacing**2
    eigenvalues[0, 0] = 1.0  # the mean pressure: undetermined, and the mean divergence is zero
    spectrum = cosines_x @ divergence(faces, spacing) @ cosines_y.mT / eigenvalues
    pressure = cosines_x.mT @ spectrum @ cosines_y
    projected = faces.clone()
    projected[..., 0, 1:, :] -= pressure.diff(dim=-2) / spacing
    projected[..., 1, :, 1:] -= pressure.diff(dim=-1) / spacing
    return projected


@cache
def _cosines(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrix (n, n) of the orthonormal DCT-II, and the eigenvalue of the second difference for each row."""
    wave = torch.arange(n, dtype=torch.float64, device=device)[:, None]
    matrix = sqrt(2 / n) * torch.cos(pi / n * wave * (torch.arange(n, device=device) + 0.5))
    matrix[0] /= sqrt(2)
    return matrix, 2 * torch.cos(pi / n * wave[:, 0]) - 2


def _indices(values: Tensor) -> tuple[Tensor, Tensor]:
    height, width = values.shape[-2:]
    x = torch.arange(height, dtype=values.dtype, device=values.device)[:, None]
    return x, torch.arange(width, dtype=values.dtype, device=values.device)


def _neighbours(values: Tensor, x: Tensor, y: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Values (run, X, Y) at the four grid points around the indices (x, y), and the distances to the lower points."""
    height, width = values.shape[-2:]
    low_x, low_y = x.floor(), y.floor()
    rows = [(low_x.long() + i).clamp_(0, height - 1) * width for i in (0, 1)]
    columns = [(low_y.long() + i).clamp_(0, width - 1) for i in (0, 1)]
    flat = values.flatten(1)
    corners = [flat.gather(1, (row + column).flatten(1)).view_as(x) for row in rows for column in columns]
    return corners, (x - low_x, y - low_y)


def _interpolate(neighbours: list[Tensor], fraction: tuple[Tensor, Tensor]) -> Tensor:
    (low_low, low_high, high_low, high_high), (x, y) = neighbours, fraction
    return torch.lerp(torch.lerp(low_low, low_high, y), torch.lerp(high_low, high_high, y), x)


def _require_no_divergence(faces: Tensor, spacing: float, step: int) -> None:
    worst = float(divergence(faces, spacing).abs().max())
    if not worst < DIVERGENCE_LIMIT:  # this form refuses NaN, too
        raise MachineError(
            f"smoke simulation: step {step + 1} leaves a divergence of {worst:.2g} (limit {DIVERGENCE_LIMIT:.0e});"
            " the installed numerical libraries do not solve for the pressure"
        )
