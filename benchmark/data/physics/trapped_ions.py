"""Ions in a harmonic trap and a magnetic field, with a splitting method that keeps the motion of their centre exact.

    x_i'' = -K x_i + x_i' x B + sum_j q^2 (x_i - x_j) / (|x_i - x_j|^2 + eps^2)^(3/2)

    x_i     position of ion i; all ions have one mass and one charge
    K       diagonal matrix of squared frequencies, `Trap.squared_frequencies`; 1 in an isotropic trap (period 2 pi)
    B       magnetic field, in units of the frequency of the isotropic trap (its cyclotron frequency)
    q^2     strength of the repulsion, `Trap.charge_squared`
    eps     distance below which the repulsion is softened

Without B and with K = 1 the motion commutes with O(3) and with permutations of the ions.

Method, in float64: half a kick by the repulsion, the exact flow of trap and field (the exponential of a 6 x 6 matrix),
half a kick, composed to fourth order (Suzuki, Phys. Lett. A 146, 1990, 319). The kicks cancel in the centre of mass X,
so X'' = -K X + X' x B holds to round-off (Kohn, Phys. Rev. 123, 1961, 1242).

A state is (..., N, 6), positions then velocities.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from benchmark.cube import turned, turns
from benchmark.data.dataset import Part

States = NDArray[np.float64]
AXIS = (0.48, -0.36, 0.8)
"""Direction of the field, of length 1. Along a coordinate axis, turns about it would have no error."""
TEMPERATURE = 0.5
FRAME_INTERVAL = 0.15
"""Time between frames, 1/42 of the period of the trap."""
STEPS_IN_FRAME = 8
_OUTER = 1 / (4 - 4 ** (1 / 3))
STAGES = (_OUTER, _OUTER, 1 - 4 * _OUTER, _OUTER, _OUTER)
"""Shares of a time step that the five second-order steps of the composition take."""


@dataclass(frozen=True)
class Trap:
    """Parameters of the equation. `squared_frequencies` are those along x, y and z."""

    magnetic_field: tuple[float, float, float] = (0.0, 0.0, 0.0)
    squared_frequencies: tuple[float, float, float] = (1.0, 1.0, 1.0)
    charge_squared: float = 1.0
    softening: float = 0.1

    def repulsion(self, x: States) -> States:
        """Acceleration by the other ions, for positions (..., N, 3); sums go over the ions one by one, in order."""
        apart = x[..., :, None, :] - x[..., None, :, :]
        squared = self._softened(apart)
        pull = apart * (self.charge_squared / (squared * np.sqrt(squared)))[..., None]
        return sum((pull[..., j, :] for j in range(x.shape[-2])), np.zeros_like(x))

    def flow(self, time: float) -> NDArray[np.float64]:
        """Matrix (6, 6) that takes a state of one ion over `time`, without the repulsion."""
        bx, by, bz = self.magnetic_field
        generator = np.zeros((6, 6))
        generator[:3, 3:] = np.eye(3)
        generator[3:, :3] = -np.diag(self.squared_frequencies)
        generator[3:, 3:] = [[0, bz, -by], [-bz, 0, bx], [by, -bx, 0]]  # v -> v x B
        return np.asarray(expm(time * generator))

    def energy(self, states: States) -> NDArray[np.float64]:
        """Energy of states (..., N, 6), to which the magnetic field adds nothing: (...)."""
        x, v = states[..., :3], states[..., 3:]
        distance = np.sqrt(self._softened(x[..., :, None, :] - x[..., None, :, :]))
        pairs = (self.charge_squared / distance).sum((-2, -1)) - x.shape[-2] * self.charge_squared / self.softening
        return (v**2 + np.asarray(self.squared_frequencies) * x**2).sum((-2, -1)) / 2 + pairs / 2

    def _softened(self, apart: States) -> NDArray[np.float64]:
        dx, dy, dz = apart[..., 0], apart[..., 1], apart[..., 2]
        return dx * dx + dy * dy + dz * dz + self.softening * self.softening


def trajectory(trap: Trap, states: States, frame_interval: float, steps_in_frame: int) -> Iterator[States]:
    """States (..., N, 6) at the start and after 1, 2, ... frames, without end."""
    step = frame_interval / steps_in_frame
    flows = {stage: trap.flow(stage * step).T for stage in set(STAGES)}
    x, v = states[..., :3], states[..., 3:]
    kick = trap.repulsion(x)
    while True:
        yield np.concatenate((x, v), axis=-1)
        for _ in range(steps_in_frame):
            for stage in STAGES:
                v = v + stage * step / 2 * kick
                moved = np.concatenate((x, v), axis=-1) @ flows[stage]
                x, v = moved[..., :3], moved[..., 3:]
                kick = trap.repulsion(x)
                v = v + stage * step / 2 * kick


def thermal_states(
    seeds: Sequence[int], particles: int, temperature: float = TEMPERATURE, trap: Trap | None = None
) -> States:
    """States (run, N, 6) from Langevin dynamics without a magnetic field, one run for each of `seeds`.

    The Gibbs density does not depend on B, and the flow with B keeps it: no single state shows the field. The default
    trap is isotropic. Method: BAOAB (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34), 20 time units from
    random places with the friction 1. The numbers come from sums, products, quotients and square roots alone, which
    IEEE 754 rounds alike on all machines.
    """
    trap = trap or Trap()
    stiffness = np.asarray(trap.squared_frequencies)
    steps, dt, memory = 400, 0.05, 0.95  # each step keeps `memory` of a velocity: exp(-friction dt)
    generators = [np.random.default_rng(np.random.SeedSequence(seed)) for seed in seeds]
    x, v, *kicks = np.stack([g.standard_normal((steps + 2, particles, 3)) for g in generators], axis=1)
    noise = np.sqrt((1 - memory * memory) * temperature)
    force = trap.repulsion(x) - stiffness * x
    for kick in kicks:
        x = x + dt / 2 * (v + dt / 2 * force)
        v = memory * (v + dt / 2 * force) + noise * kick
        x = x + dt / 2 * v
        force = trap.repulsion(x) - stiffness * x
        v = v + dt / 2 * force
    return np.concatenate((x, v), axis=-1)


def turn_deviations(trap: Trap, states: States, frames: int, steps_in_frame: int = STEPS_IN_FRAME) -> Iterator[States]:
    """F(x) - (P F)(x) after 1, ..., `frames` frames over the turns of the cube (see `benchmark.data.strict_floor`).

    F(g x) is simulated from the turned state, with field and trap left as they are: (..., N, 6).
    """
    group = list(turns().values())
    later = trajectory(trap, np.stack([turned(states, g) for g in group]), FRAME_INTERVAL, steps_in_frame)
    next(later)
    for _, forecasts in zip(range(frames), later, strict=False):
        back = np.stack([turned(forecast, g.T) for forecast, g in zip(forecasts, group, strict=True)])
        yield back[0] - back.mean(axis=0)


def field_floor(strength: float, steps: int, temperature: float = TEMPERATURE) -> float:
    """Strict floor over `steps` frames of a field of `strength` |B|, to the leading order of h = `FRAME_INTERVAL`.

    After k frames a strict forecast lacks k h v x B, the mean of which over all turns is zero. Of the six components
    the three of the velocity have the mean square (k h |B|)^2 2 T / 3.
    """
    mean_square = sum(k * k for k in range(1, steps + 1)) / steps
    return strength * FRAME_INTERVAL * float(np.sqrt(temperature / 3 * mean_square))


@dataclass(frozen=True)
class Ions(Part):
    """Runs from the thermal states of `seeds`, turned by the turn of the cube with the name `turn`."""

    trap: Trap
    particles: int
    frames: int
    seeds: tuple[int, ...]
    turn: str = "+x+y+z"
    steps_in_frame: int = STEPS_IN_FRAME

    @property
    def work(self) -> int:
        """Runs times steps times pairs."""
        return len(self.seeds) * self.frames * self.steps_in_frame * self.particles**2

    def simulate(self) -> NDArray[np.float32]:
        """Trajectories (run, time, N, 6), from the thermal state on."""
        frames = zip(range(self.frames), self.states(), strict=False)
        return np.stack([states for _, states in frames], axis=1).astype(np.float32)

    def states(self) -> Iterator[States]:
        """States (run, N, 6) of all runs at each frame, without end."""
        starts = turned(thermal_states(self.seeds, self.particles), turns()[self.turn])
        return trajectory(self.trap, starts, FRAME_INTERVAL, self.steps_in_frame)


@dataclass(frozen=True)
class IonsFloor(Ions):
    """Strict floor of the states of `seeds` at frame `first`, over `frames` frames and the turns of the cube."""

    first: int = 0

    @property
    def work(self) -> int:
        """Runs times steps times pairs."""
        return len(self.seeds) * (self.first + 24 * self.frames) * self.steps_in_frame * self.particles**2

    def simulate(self) -> NDArray[np.float32]:
        """F(x) - (P F)(x) after each frame: (state, time, N, 6)."""
        _, states = next((frame, states) for frame, states in enumerate(self.states()) if frame == self.first)
        deviations = turn_deviations(self.trap, states, self.frames, self.steps_in_frame)
        return np.stack(list(deviations), axis=1).astype(np.float32)
