"""Two-dimensional turbulence in a periodic box, the simulation that the turbulence datasets share.

    d_t w + u . grad w  =  nu_x d_xx w + nu_y d_yy w + growth [w]_band - drag w + f(x, y)
    u = (d_y psi, -d_x psi),  -lap psi = w,  so that  w = d_x u_y - d_y u_x  and  div u = 0

Vorticity w on the box [0, 2 pi)^2; the unit of velocity is the rms speed of the initial state. The modes of a ring of
wave numbers grow, which feeds the flow without singling out a place, a direction or a phase; viscosity and drag take
from it, and so it neither decays nor calms down. All of it but an anisotropic viscosity and the source f commutes with
shifts and quarter turns exactly.

Pseudo-spectral (Canuto, Hussaini, Quarteroni, Zang, Spectral Methods in Fluid Dynamics, 1988) in float64: 2/3 rule,
the products of Basdevant (J. Comput. Phys. 50, 1983, 209), fourth-order Runge-Kutta with an integrating factor for
what is linear. Coefficients are amplitudes, w = sum w_k exp(i k . x), of the N points x_i = 2 pi i / N along each axis,
laid out as by `torch.fft.rfft2` with the columns k_y = 0..K that the 2/3 rule keeps: (run, N, K + 1). Arrays are
(..., x, y), as `groups` expects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.cell import GroupName
from benchmark.data.dataset import Part, Preset, Progress, Simulation
from benchmark.data.equivariance import Pair, measure
from benchmark.errors import MachineError
from benchmark.groups import SHIFTS, elements, rotate

COURANT_LIMIT = 2.8
"""Of (|u_x| + |u_y|) k_max dt: on the imaginary axis the scheme is stable up to 2 sqrt 2."""
PEAK, LARGEST_INITIAL = 4, 12
"""Wave numbers of the initial energy spectrum."""
TRAINING_RUNS, UNSEEN_RUNS = tuple(range(25)), tuple(range(25, 35))
RUNS_IN_PART = 7
FRAME_INTERVAL = 0.075
"""Neighbouring frames differ by about a tenth."""
ERROR_RUNS, ERROR_FRAMES = 4, 40


@dataclass(frozen=True)
class Fluid:
    """The equation: `viscosity` (nu_x, nu_y) in length^2 / time, `growth` and `drag` in 1 / time, f in 1 / time^2.

    The modes with |k| in `band`, both ends included, grow. f = `source` (cos x + cos y).
    """

    viscosity: tuple[float, float]
    growth: float = 0.0
    band: tuple[float, float] = (4.0, 7.0)
    drag: float = 0.0
    source: float = 0.0


ISOTROPIC = Fluid((0.015, 0.015), growth=0.8, drag=0.2)
"""Level 0 of both datasets: the rms speed stays about 1."""


@dataclass(frozen=True)
class Start:
    """The initial state of `seed`, turned by `quarter_turns` and then moved by `shift` cells of the kept grid."""

    seed: int
    quarter_turns: int = 0
    shift: tuple[int, int] = (0, 0)

    def undo(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move and turn a velocity (..., 2, H, W) back."""
        x, y = self.shift
        return rotate(torch.from_numpy(field).roll((-x, -y), (-2, -1)), -self.quarter_turns, "centered").numpy()


class Solver:
    """Steps of `time_step` on `points` x `points`, with everything that they need made once."""

    def __init__(self, points: int, time_step: float, fluid: Fluid, device: torch.device | None = None) -> None:
        self.points, self.time_step = points, time_step
        kx, ky = _wave_numbers(points, device)
        kept = kx.abs() <= ky.max()
        squared = kx**2 + ky**2
        inverse = kept * (squared > 0) / squared.clamp(min=1)
        self._to_velocity = torch.stack((1j * ky * inverse, -1j * kx * inverse))
        self._from_products = (torch.stack((kx**2 - ky**2, -kx * ky)) * kept).to(torch.complex128)
        band = ((squared >= fluid.band[0] ** 2) & (squared <= fluid.band[1] ** 2)).to(torch.float64)
        self.linear_rate = fluid.growth * band - fluid.drag - fluid.viscosity[0] * kx**2 - fluid.viscosity[1] * ky**2
        """What each mode gains by itself, in 1 / time: (N, K + 1)."""
        self._half_step = torch.exp(self.linear_rate * time_step / 2).to(torch.complex128)
        self._source = torch.zeros_like(self._half_step)
        for mode in ((0, 1), (1, 0), (-1, 0)):  # (0, -1) is the conjugate of (0, 1), and not stored
            self._source[mode] = fluid.source / 2

    def tendency(self, w: Tensor) -> Tensor:
        """f - u . grad w for coefficients w (run, N, K + 1), in 1 / time^2.

        As the curl of div(u u), it takes the transforms of two products and no gradient of w:
        u . grad w = (d_xx - d_yy)(u_x u_y) - d_xy(u_x^2 - u_y^2).
        """
        u_x, u_y = (self._values(w * factor, self.points) for factor in self._to_velocity)
        shear = self._coefficients(u_x * u_y)
        stretch = self._coefficients(u_x.square_().addcmul_(u_y, u_y, value=-1))
        tendency = torch.addcmul(self._source, shear, self._from_products[0])
        return tendency.addcmul_(stretch, self._from_products[1])

    def step(self, w: Tensor) -> Tensor:
        """The coefficients one time step later."""
        dt, half = self.time_step, self._half_step
        w_half = half * w
        a = half * self.tendency(w)
        b = self.tendency(torch.add(w_half, a, alpha=dt / 2))
        c = self.tendency(torch.add(w_half, b, alpha=dt / 2))
        d = self.tendency(half * torch.add(w_half, c, alpha=dt))
        middle = torch.add(torch.add(w_half, a, alpha=dt / 6), b + c, alpha=dt / 3)
        return torch.add(half * middle, d, alpha=dt / 6)

    def velocity(self, w: Tensor, cells: int) -> Tensor:
        """At the centres of `cells` x `cells`, of the modes |k_x|, |k_y| < cells / 2 alone: (run, 2, cells, cells)."""
        half = cells // 2
        u = w[:, None, :, :half] * self._to_velocity[..., :half]
        few = u.new_zeros((len(w), 2, cells, half))
        few[..., :half, :], few[..., 1 - half :, :] = u[..., :half, :], u[..., 1 - half :, :]
        kx, ky = _wave_numbers(cells, w.device, half)
        return self._values(few * torch.exp(1j * math.pi / cells * (kx + ky)), cells)

    def require_stable(self, velocity: Tensor, frame: int) -> None:
        """MachineError where `velocity` (run, 2, H, W) is not finite or goes too far in a step."""
        courant = float(velocity.abs().sum(dim=1).max()) * _largest(self.points) * self.time_step
        if not courant <= COURANT_LIMIT:  # written so that NaN is refused, too
            raise MachineError(
                f"turbulence simulation: the Courant number is {courant:.3g} at frame {frame} (limit {COURANT_LIMIT});"
                " the flow is too fast for the time step, or the installed numerical libraries compute wrongly"
            )

    def _values(self, coefficients: Tensor, points: int) -> Tensor:
        """At `points` x `points`; along y the modes that are not there are taken as zero."""
        along_x = torch.fft.ifft(coefficients, dim=-2, norm="forward")
        values: Tensor = torch.fft.irfft(along_x, n=points, dim=-1, norm="forward")
        return values

    def _coefficients(self, values: Tensor) -> Tensor:
        """The inverse; the first axis is transformed for the modes alone that are kept along the other."""
        along_y = torch.fft.rfft(values, dim=-1, norm="forward")[..., : self.linear_rate.shape[-1]]
        coefficients: Tensor = torch.fft.fft(along_y, dim=-2, norm="forward")
        return coefficients


def _wave_numbers(points: int, device: torch.device | None, columns: int | None = None) -> tuple[Tensor, Tensor]:
    """k_x (N, 1), and k_y = 0, 1, ... (1, columns), by default those that the 2/3 rule keeps."""
    kx = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64, device=device)
    ky = torch.arange(_largest(points) + 1 if columns is None else columns, dtype=torch.float64, device=device)
    return kx[:, None], ky[None]


def _largest(points: int) -> int:
    """K, the largest wave number of the 2/3 rule: products of modes up to K have no alias among them."""
    return (points - 1) // 3


def initial_vorticity(start: Start, cells: int) -> Tensor:
    """Coefficients (N, K + 1), N = 2 `cells`, of a Gaussian random field of rms speed 1, the same flow at each size.

    The energy spectrum is E(k) ~ k^3 / (1 + (k / 4)^8) up to k = 12. A field is made by sums, products, quotients and
    square roots alone, which IEEE 754 rounds alike everywhere; a quarter turn only permutes the modes. A shift
    turns phases, whose last bit may differ.
    """
    k = np.arange(-LARGEST_INITIAL, LARGEST_INITIAL + 1)
    generator = np.random.default_rng(np.random.SeedSequence(start.seed))
    real, imaginary = generator.standard_normal((2, len(k), len(k)))
    squared = (k[:, None] ** 2 + k**2).astype(np.float64)
    ratio = squared / PEAK**2
    amplitude = np.where(squared <= LARGEST_INITIAL**2, squared / np.sqrt(1 + ratio * ratio * ratio * ratio), 0.0)
    real = amplitude * (real + real[::-1, ::-1])  # w_-k is the conjugate of w_k
    imaginary = amplitude * (imaginary - imaginary[::-1, ::-1])
    mean_square_speeds = (real * real + imaginary * imaginary) / np.maximum(squared, 1)
    scale = 1 / math.sqrt(math.fsum(mean_square_speeds.ravel()))  # fsum is exact, whatever the order
    turned = np.rot90(scale * real + 1j * (scale * imaginary), start.quarter_turns)
    x, y = start.shift
    w = turned * np.exp(-2j * np.pi / cells * ((k[:, None] * x + k * y) % cells))
    coefficients = np.zeros((2 * cells, _largest(2 * cells) + 1), np.complex128)
    inside = np.abs(k) <= _largest(2 * cells)
    columns = inside & (k >= 0)
    coefficients[k[inside], : columns.sum()] = w[inside][:, columns]
    return torch.from_numpy(coefficients)


@dataclass(frozen=True)
class Turbulence(Part):
    """Runs that differ in how they start, kept on `cells` x `cells` and simulated with twice as many points a side."""

    fluid: Fluid
    cells: int
    frames: int
    frame_interval: float
    steps_in_frame: int
    starts: tuple[Start, ...] = ()

    @property
    def work(self) -> int:
        """Runs x steps x points."""
        return self.frames * self._work_in_frame

    @property
    def _work_in_frame(self) -> int:
        return len(self.starts) * self.steps_in_frame * (2 * self.cells) ** 2

    def simulate(self, progress: Progress) -> NDArray[np.float32]:
        """The velocity at the cell centres (run, time, 2, H, W), from the initial state on; on the GPU if there is one.

        MachineError where the flow gets too fast for the time step.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        solver = Solver(2 * self.cells, self.frame_interval / self.steps_in_frame, self.fluid, device)
        w = torch.stack([initial_vorticity(start, self.cells) for start in self.starts]).to(device)
        field = np.empty((len(self.starts), self.frames, 2, self.cells, self.cells), np.float32)
        for frame in range(self.frames):
            for _ in range(self.steps_in_frame if frame > 0 else 0):
                w = solver.step(w)
            velocity = solver.velocity(w, self.cells)
            solver.require_stable(velocity, frame)
            field[:, frame] = velocity.cpu().numpy()
            progress(self._work_in_frame)
        return field


def flow_of(fluid: Fluid, size: Preset) -> Turbulence:
    """What both datasets simulate, without starts. The time step follows the width of a cell."""
    assert size.height == size.width
    return Turbulence(fluid, size.height, size.frames, FRAME_INTERVAL, steps_in_frame=size.height // 8 + 1)


def parts_of(flow: Turbulence, group: GroupName) -> list[Turbulence]:
    """The parts of a level, from a `flow` without starts: all runs, then one for each element that is measured."""
    seeds = (*TRAINING_RUNS, *UNSEEN_RUNS)
    batches = [tuple(map(Start, seeds[i : i + RUNS_IN_PART])) for i in range(0, len(seeds), RUNS_IN_PART)]
    measured = replace(flow, frames=min(flow.frames, ERROR_FRAMES))
    return [
        *(replace(flow, starts=batch) for batch in batches),
        *(replace(measured, starts=batch) for batch in _transformed(group, flow.cells).values()),
    ]


def level_of(flow: Turbulence, group: GroupName, fields: Sequence[NDArray[np.float32]]) -> Simulation:
    """The level from what the parts of `parts_of` gave, and the data equivariance error that they show.

    The error is the mean over runs 0 to 3, started from the transformed initial states, and the first 40 frames, about
    a roll-out with its input: later the flow is chaotic, and any difference is as large as the flow.
    """
    transformed = _transformed(group, flow.cells)
    field = np.concatenate(fields[: -len(transformed)])

    def pairs(starts: Sequence[Start], others: NDArray[np.float32]) -> Iterator[Pair]:
        for start, other in zip(starts, others, strict=True):
            yield field[start.seed, :ERROR_FRAMES], start.undo(other)

    return Simulation(
        field=field,
        grid="centered",
        divergence_free=False,
        spacing=2 * math.pi / flow.cells,
        time_step=flow.frame_interval,
        parameters={name: value for name, value in asdict(flow).items() if name != "starts"},
        run_parameters=[{"seed": seed} for seed in range(len(field))],
        equivariance_errors=[
            measure(name, pairs(starts, others))
            for (name, starts), others in zip(transformed.items(), fields[-len(transformed) :], strict=True)
        ],
    )


def _transformed(group: GroupName, cells: int) -> dict[str, tuple[Start, ...]]:
    """The starts that are measured, for each element of the group by its name."""
    moves: list[tuple[int, tuple[int, int]]] = [(turns, (0, 0)) for turns in (1, 2, 3)]
    if group == "translation":
        moves = [(0, shift) for shift in dict.fromkeys((i * cells // 8, j * cells // 8) for i, j in SHIFTS)]
    names = [element.name for element in elements(group, "centered", True, cells, cells)]
    return {
        name: tuple(Start(seed, *move) for seed in TRAINING_RUNS[:ERROR_RUNS])
        for name, move in zip(names, moves, strict=True)
    }
