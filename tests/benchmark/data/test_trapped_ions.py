"""Trapped ions, against closed forms and the symmetries of the equation."""

from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.cube import turned, turns
from benchmark.data.physics.trapped_ions import (
    AXIS,
    FRAME_INTERVAL,
    STEPS_IN_FRAME,
    Ions,
    IonsFloor,
    States,
    Trap,
    field_floor,
    thermal_states,
    trajectory,
)

SQUARED_FREQUENCIES = (1.4, 1.0, 0.6)
FIRST_ION = (
    -0.28007211595698367, 1.0962323444508775, -0.6782926911953525,
    0.624455703442508, -0.3259399785329774, -0.009975735808698252,
)  # fmt: skip
"""State of the first of two ions of seed 0, the same on every machine."""


def in_field(strength: float) -> Trap:
    x, y, z = (strength * axis for axis in AXIS)
    return Trap((x, y, z))


def simulated(trap: Trap, starts: States, frames: int, steps: int = STEPS_IN_FRAME) -> States:
    """(run, time, N, 6)."""
    return np.stack(list(islice(trajectory(trap, starts, FRAME_INTERVAL, steps), frames)), axis=1)


def center_in_field(start: NDArray[np.float64], strength: float, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Closed form of X'' = -X + X' x B along the generic axis: (run, 6) -> positions (run, time, 3).

    Along B, a harmonic oscillator. Across it, with u = X_1 + i X_2 in a right-handed frame whose third axis is B,
    u'' = -u - i |B| u', a sum of two turns at the frequencies -|B| / 2 +- sqrt(1 + |B|^2 / 4).
    """
    third = np.array(AXIS)
    first = np.cross(third, (0.0, 0.0, 1.0))
    first /= np.linalg.norm(first)
    second = np.cross(third, first)
    x, v = start[:, :3, None], start[:, 3:, None]
    u, du = (np.tensordot(first + 1j * second, y, (0, 1)) for y in (x, v))
    slow, fast = (-strength / 2 + sign * np.sqrt(1 + strength**2 / 4) for sign in (-1, 1))
    amplitude = (du - 1j * slow * u) / (1j * (fast - slow))
    across = amplitude * np.exp(1j * fast * t) + (u - amplitude) * np.exp(1j * slow * t)
    along = np.tensordot(third, x, (0, 1)) * np.cos(t) + np.tensordot(third, v, (0, 1)) * np.sin(t)
    return across.real[..., None] * first + across.imag[..., None] * second + along[..., None] * third


@pytest.mark.parametrize("strength", [0, 0.1, 0.5])
def test_the_center_of_mass_moves_as_kohns_theorem_says(strength: float) -> None:
    starts = thermal_states(range(4), 5)
    centers = simulated(in_field(strength), starts, 300)[..., :3].mean(axis=2)
    expected = center_in_field(starts.mean(axis=1), strength, FRAME_INTERVAL * np.arange(300))
    assert np.abs(centers - expected).max() < 1e-8


def test_the_center_of_mass_in_an_anisotropic_trap_is_three_oscillators() -> None:
    starts = thermal_states(range(4), 5)
    centers = simulated(Trap(squared_frequencies=SQUARED_FREQUENCIES), starts, 300)[..., :3].mean(axis=2)
    frequency = np.sqrt(SQUARED_FREQUENCIES)
    x, v = np.split(starts.mean(axis=1)[:, None], 2, axis=-1)
    phase = frequency * (FRAME_INTERVAL * np.arange(300))[:, None]
    assert np.abs(centers - (x * np.cos(phase) + v / frequency * np.sin(phase))).max() < 1e-8


def test_two_ions_rest_where_trap_and_repulsion_balance() -> None:
    """Up to the error of the method, which kicks them apart and lets the trap pull them back in turn."""
    trap = Trap(charge_squared=1.7)
    distance = np.sqrt((2 * trap.charge_squared) ** (2 / 3) - trap.softening**2)
    rest = np.zeros((1, 2, 6))
    rest[0, :, :3] = np.outer((0.5, -0.5), AXIS) * distance
    assert np.abs(simulated(trap, rest, 40) - rest[:, None]).max() < 1e-10


@pytest.mark.parametrize("trap", [in_field(0.5), Trap(squared_frequencies=SQUARED_FREQUENCIES)])
def test_energy_is_kept(trap: Trap) -> None:
    energy = trap.energy(simulated(trap, thermal_states(range(8), 5), 300))
    assert np.abs(energy / energy[:, :1] - 1).max() < 1e-5
    assert np.median(np.abs(energy / energy[:, :1] - 1)) < 1e-7


def test_the_force_is_minus_the_gradient_of_the_energy() -> None:
    trap, state, step = Trap(softening=0.3), thermal_states([3], 5)[0], 1e-6
    change = np.zeros((30, 5, 6))
    change.reshape(30, 30)[range(30), range(30)] = step
    gradient = (trap.energy(state + change) - trap.energy(state - change)).reshape(5, 6) / (2 * step)
    assert gradient[:, :3] == pytest.approx(state[:, :3] - trap.repulsion(state[:, :3]), abs=1e-7)


def test_the_method_is_of_fourth_order() -> None:
    trap, starts = in_field(0.5), thermal_states(range(8), 5)
    best, *others = (simulated(trap, starts, 10, steps)[:, -1] for steps in (32, 2, 4))
    coarse, fine = (np.sqrt(np.square(other - best).mean()) for other in others)
    assert 3.7 < np.log2(coarse / fine) < 4.6


def test_time_runs_backward_in_the_reversed_field() -> None:
    starts = thermal_states(range(4), 5)
    last = simulated(in_field(0.5), starts, 40)[:, -1]
    sign = np.repeat((1.0, -1.0), 3)
    back = simulated(in_field(-0.5), sign * last, 40)[:, -1]
    assert np.abs(sign * back - starts).max() < 1e-10


@pytest.mark.parametrize("inversion", [1, -1])
def test_a_turned_start_gives_the_turned_trajectory_without_a_field_alone(inversion: int) -> None:
    starts = thermal_states(range(2), 5)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0] * inversion
    for strength, broken in ((0.0, False), (0.1, True)):
        one, other = (simulated(in_field(strength), start, 40) for start in (starts, turned(starts, turn)))
        assert (np.abs(other - turned(one, turn)).max() > 1e-2) == broken
        if not broken:
            assert np.abs(other - turned(one, turn)).max() < 1e-10


def test_half_turns_are_kept_by_an_anisotropic_trap() -> None:
    """Half turns about x, y and z, that is; quarter turns and the others are broken."""
    trap, starts, group = Trap(squared_frequencies=SQUARED_FREQUENCIES), thermal_states(range(2), 5), turns()
    others = simulated(trap, np.stack([turned(starts, g) for g in group.values()]), 10)
    back = {name: turned(other, g.T) for (name, g), other in zip(group.items(), others, strict=True)}
    errors = {name: np.abs(states - back["+x+y+z"]).max() for name, states in back.items()}
    assert {name for name, error in errors.items() if error < 1e-10} == {"+x+y+z", "+x-y-z", "-x+y-z", "-x-y+z"}
    assert sorted(errors.values())[4] > 1e-2


def test_ions_are_alike() -> None:
    starts, order = thermal_states(range(2), 5), [3, 0, 4, 1, 2]
    one, other = (simulated(in_field(0.5), start, 40) for start in (starts, starts[:, order]))
    assert np.abs(other - one[:, :, order]).max() < 1e-10


def test_thermal_states_have_the_temperature() -> None:
    """Equipartition, mean v^2 = T, and the virial theorem, mean sum x . (x - repulsion) = 3 N T; within 4 sigma."""
    x, v = np.split(thermal_states(range(400), 5, temperature=0.5), 2, axis=-1)
    assert (v**2).mean() == pytest.approx(0.5, abs=4 * 0.5 * np.sqrt(2 / v.size))
    virials = (x * (x - Trap().repulsion(x))).sum((1, 2))
    assert virials.mean() == pytest.approx(7.5, abs=4 * virials.std() / np.sqrt(len(virials)))


def test_a_thermal_state_depends_on_its_seed_alone() -> None:
    assert np.array_equal(thermal_states([5, 2], 4)[1], thermal_states([2], 4)[0])
    assert thermal_states([0], 2)[0, 0] == pytest.approx(FIRST_ION, rel=1e-15)


def test_the_field_keeps_thermal_states_thermal() -> None:
    """So a state does not show the field: mean L . B stays zero, as without a field."""
    later = simulated(in_field(0.5), thermal_states(range(400), 5), 20)[:, -1]
    angular_momentum = np.cross(later[..., :3], later[..., 3:]).sum(axis=1) @ AXIS
    assert abs(angular_momentum.mean()) < 4 * angular_momentum.std() / np.sqrt(len(later))


@pytest.mark.parametrize("strength", [0.05, 0.1, 0.2, 0.5])
def test_the_strict_floor_has_a_closed_form(strength: float) -> None:
    """To the leading order; within six frames the trap, too, turns velocities, and a strong field by a large angle."""
    part = IonsFloor(in_field(strength), 5, frames=6, seeds=tuple(range(100)), first=3)
    assert 0.92 < np.sqrt(np.square(part.simulate()).mean()) / field_floor(strength, 6) < 1.01


def test_the_strict_floor_is_zero_without_a_field() -> None:
    assert np.abs(IonsFloor(Trap(), 5, frames=6, seeds=(0, 1), first=3).simulate()).max() < 1e-12


def test_a_part_holds_the_turned_runs() -> None:
    plain = Ions(Trap(), 5, frames=12, seeds=(0, 1))
    assert plain.simulate().shape == (2, 12, 5, 6)
    other = Ions(Trap(), 5, frames=12, seeds=(0, 1), turn="-y+x+z")
    assert turned(plain.simulate(), turns()["-y+x+z"]) == pytest.approx(other.simulate(), abs=1e-6)
    assert plain.key != other.key
