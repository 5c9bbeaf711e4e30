"""Pseudo-spectral solver for two-dimensional turbulence in a periodic box.

    d_t w + u . grad w  =  nu_x d_xx w + nu_y d_yy w + growth [w]_band - drag w - beta u_y + f(x, y)
    u = (d_y psi, -d_x psi),  -lap psi = w,  so that  w = d_x u_y - d_y u_x  and  div u = 0

    w, u, psi   vorticity, velocity and stream function on [0, 2 pi)^2; the unit of u is the rms speed at the start
    nu_x, nu_y  viscosity along x and y, `Fluid.viscosity`
    growth      growth rate of the modes with |k| in `band`: feeds the flow, prefers no place, direction or phase
    drag        linear friction: with the viscosity it balances the growth, so that the flow neither decays nor blows up
    beta        gradient of the planetary vorticity along y, 0 but for a `BetaPlane`: waves drift towards -x
    f           steady source of vorticity, `Fluid.source` (cos x + cos y)

All terms but an anisotropic viscosity, beta and f commute exactly with shifts and quarter turns.

Method (Canuto, Hussaini, Quarteroni, Zang, Spectral Methods in Fluid Dynamics, 1988), in float64: 2/3 rule, the
products of Basdevant (J. Comput. Phys. 50, 1983, 209), and fourth-order Runge-Kutta with an integrating factor for the
linear terms.

Grid: points x_i = 2 pi i / N along each axis, cell centres x_i + pi / N. Arrays are (..., x, y), as in
`benchmark.groups`. Coefficients are amplitudes, w = sum w_k exp(i k . x), in the order of `torch.fft.rfft2`, with the
columns k_y = 0..K that the 2/3 rule keeps: (run, N, K + 1).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import MachineError
from benchmark.groups import rotate

COURANT_LIMIT = 2.8
"""Largest (|u_x| + |u_y|) k_max dt: the scheme is stable up to 2 sqrt 2 on the imaginary axis."""
PEAK, LARGEST_INITIAL = 4, 12
"""Wave numbers of the initial energy spectrum: its peak, and where it ends."""


@dataclass(frozen=True)
class Fluid:
    """Parameters of the equation.

    `viscosity` is (nu_x, nu_y) in length^2 / time, `growth` and `drag` are in 1 / time, `source` is in 1 / time^2. The
    modes with |k| in `band`, both ends included, grow.
    """

    viscosity: tuple[float, float]
    growth: float = 0.0
    band: tuple[float, float] = (4.0, 7.0)
    drag: float = 0.0
    source: float = 0.0

    def linear_rate(self, kx: Tensor, ky: Tensor) -> Tensor:
        """Growth rate of the modes with wave numbers `kx` (N, 1) and `ky` (1, M), in 1 / time: (N, M)."""
        squared = kx**2 + ky**2
        band = ((squared >= self.band[0] ** 2) & (squared <= self.band[1] ** 2)).to(torch.float64)
        return self.growth * band - self.drag - self.viscosity[0] * kx**2 - self.viscosity[1] * ky**2


@dataclass(frozen=True)
class BetaPlane(Fluid):
    """Fluid on a beta plane: the planetary vorticity grows by `beta` along y, in 1 / (length time).

    The barotropic vorticity equation (Vallis, Atmospheric and Oceanic Fluid Dynamics, 2017, chapter 6). A single plane
    wave is an exact solution without viscosity, growth, drag and source, and travels along x at -beta / |k|^2 (Rossby).
    The term does no work, and commutes with shifts and with the mirror image y -> -y, but with no turn.
    """

    beta: float = 0.0

    def linear_rate(self, kx: Tensor, ky: Tensor) -> Tensor:
        """Complex rate (N, M): its imaginary part is minus the frequency of the Rossby wave."""
        return super().linear_rate(kx, ky) + 1j * self.beta * kx / (kx**2 + ky**2).clamp(min=1)


@dataclass(frozen=True)
class Start:
    """Initial state of `seed`, turned by `quarter_turns`, then moved by `shift` cells of the kept grid."""

    seed: int
    quarter_turns: int = 0
    shift: tuple[int, int] = (0, 0)

    def undo(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move and turn a velocity (..., 2, H, W) back."""
        x, y = self.shift
        return rotate(torch.from_numpy(field).roll((-x, -y), (-2, -1)), -self.quarter_turns, "centered").numpy()


class Solver:
    """Time steps of length `time_step` on N x N grid points, N = `points`."""

    def __init__(self, points: int, time_step: float, fluid: Fluid, device: torch.device | None = None) -> None:
        self.points, self.time_step = points, time_step
        kx, ky = _wave_numbers(points, device)
        kept = kx.abs() <= ky.max()
        squared = kx**2 + ky**2
        inverse = kept * (squared > 0) / squared.clamp(min=1)
        self._to_velocity = torch.stack((1j * ky * inverse, -1j * kx * inverse))
        self._from_products = (torch.stack((kx**2 - ky**2, -kx * ky)) * kept).to(torch.complex128)
        self._half_step = torch.exp(fluid.linear_rate(kx, ky) * time_step / 2).to(torch.complex128)
        """Factor of each mode over half a time step, of the linear terms alone: (N, K + 1)."""
        self._source = torch.zeros_like(self._half_step)
        for mode in ((0, 1), (1, 0), (-1, 0)):  # (0, -1), the conjugate of (0, 1), is not stored
            self._source[mode] = fluid.source / 2

    def tendency(self, w: Tensor) -> Tensor:
        """Coefficients of f - u . grad w, in 1 / time^2, for coefficients w (run, N, K + 1).

        The advection is the curl of div(u u), which takes two products and no gradient of w:
        u . grad w = (d_xx - d_yy)(u_x u_y) - d_xy(u_x^2 - u_y^2).
        """
        u_x, u_y = (self._values(w * factor, self.points) for factor in self._to_velocity)
        shear = self._coefficients(u_x * u_y)
        stretch = self._coefficients(u_x.square_().addcmul_(u_y, u_y, value=-1))
        tendency = torch.addcmul(self._source, shear, self._from_products[0])
        return tendency.addcmul_(stretch, self._from_products[1])

    def step(self, w: Tensor) -> Tensor:
        """Coefficients one time step later."""
        dt, half = self.time_step, self._half_step
        w_half = half * w
        a = half * self.tendency(w)
        b = self.tendency(torch.add(w_half, a, alpha=dt / 2))
        c = self.tendency(torch.add(w_half, b, alpha=dt / 2))
        d = self.tendency(half * torch.add(w_half, c, alpha=dt))
        middle = torch.add(torch.add(w_half, a, alpha=dt / 6), b + c, alpha=dt / 3)
        return torch.add(half * middle, d, alpha=dt / 6)

    def velocity(self, w: Tensor, cells: int) -> Tensor:
        """Velocity (run, 2, cells, cells) at the cell centres, of the modes |k_x|, |k_y| < cells / 2."""
        half = cells // 2
        u = w[:, None, :, :half] * self._to_velocity[..., :half]
        few = u.new_zeros((len(w), 2, cells, half))
        few[..., :half, :], few[..., 1 - half :, :] = u[..., :half, :], u[..., 1 - half :, :]
        kx, ky = _wave_numbers(cells, w.device, half)
        return self._values(few * torch.exp(1j * math.pi / cells * (kx + ky)), cells)

    def moved(self, w: Tensor, quarter_turns: int, shift: tuple[int, int]) -> Tensor:
        """Coefficients of the flow turned by `quarter_turns`, then moved by `shift` grid points, as in `Start`.

        The vorticity at the points is permuted, so that only the Fourier transforms add round-off.
        """
        values = self._values(w, self.points)
        for _ in range(quarter_turns % 4):  # w'(x, y) = w(y, -x), and the points include 0
            values = values.flip(-1).roll(1, -1).mT
        return self._coefficients(values.roll(shift, (-2, -1)))

    def require_stable(self, velocity: Tensor, frame: int) -> None:
        """MachineError: `velocity` (run, 2, H, W) is not finite, or too fast for the time step."""
        courant = float(velocity.abs().sum(dim=1).max()) * _largest(self.points) * self.time_step
        if not courant <= COURANT_LIMIT:  # this form refuses NaN, too
            raise MachineError(
                f"turbulence simulation: the Courant number is {courant:.3g} at frame {frame} (limit {COURANT_LIMIT});"
                " the flow is too fast for the time step, or the installed numerical libraries compute wrongly"
            )

    def _values(self, coefficients: Tensor, points: int) -> Tensor:
        """Values at `points` x `points` grid points; missing modes along y are zero."""
        along_x = torch.fft.ifft(coefficients, dim=-2, norm="forward")
        values: Tensor = torch.fft.irfft(along_x, n=points, dim=-1, norm="forward")
        return values

    def _coefficients(self, values: Tensor) -> Tensor:
        """Coefficients of values (..., N, N); only the columns that the 2/3 rule keeps are transformed along x."""
        along_y = torch.fft.rfft(values, dim=-1, norm="forward")[..., : self._half_step.shape[-1]]
        coefficients: Tensor = torch.fft.fft(along_y, dim=-2, norm="forward")
        return coefficients


def _wave_numbers(points: int, device: torch.device | None, columns: int | None = None) -> tuple[Tensor, Tensor]:
    """k_x (N, 1) and k_y = 0, 1, ... (1, columns); by default, the columns that the 2/3 rule keeps."""
    kx = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64, device=device)
    ky = torch.arange(_largest(points) + 1 if columns is None else columns, dtype=torch.float64, device=device)
    return kx[:, None], ky[None]


def _largest(points: int) -> int:
    """Largest wave number K of the 2/3 rule: products of modes up to K have no alias among these modes."""
    return (points - 1) // 3


def initial_vorticity(start: Start, cells: int) -> Tensor:
    """Coefficients (N, K + 1), N = 2 `cells`, of a Gaussian random field of rms speed 1, the same flow at each size.

    The energy spectrum is E(k) ~ k^3 / (1 + (k / 4)^8) up to k = 12. The field comes from sums, products, quotients and
    square roots alone, which IEEE 754 rounds alike on all machines. A quarter turn only permutes the modes; a shift
    turns their phases, whose last bit may differ.
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
