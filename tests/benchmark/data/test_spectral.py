"""The turbulence simulation against closed forms, budgets and symmetries, and the datasets made of it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import simulate
from torch import Tensor

from benchmark.data.dataset import Dataset, Simulation
from benchmark.data.datasets.beta_plane import BetaPlaneTurbulence
from benchmark.data.datasets.turbulence_rotation import TurbulenceRotation
from benchmark.data.datasets.turbulence_translation import TurbulenceTranslation
from benchmark.data.physics.spectral import BetaPlane, Fluid, Solver, Start, initial_vorticity
from benchmark.data.physics.turbulence import Turbulence
from benchmark.errors import MachineError
from benchmark.groups import rotate

POINTS = 32
CELLS = POINTS // 2
IDEAL = Fluid((0.0, 0.0))
ISOTROPIC = Fluid((0.02, 0.02), growth=0.9, drag=0.2)
ANISOTROPIC = replace(ISOTROPIC, viscosity=(0.036, 0.004))
STIRRED = replace(ISOTROPIC, source=0.5)
DRIFTING = BetaPlane(**vars(ISOTROPIC), beta=5.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As `prepare` does: arrays are so small here that threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def positions(points: int, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """x (N, 1) and y (1, N); `offset` in cells, 1/2 for their centres."""
    x = 2 * torch.pi / points * (torch.arange(points, dtype=torch.float64) + offset)
    return x[:, None], x[None]


def coefficients(values: Tensor) -> Tensor:
    """(1, N, K + 1) of values (N, N) at the points, cut by the 2/3 rule."""
    largest = (len(values) - 1) // 3
    kx = torch.fft.fftfreq(len(values), 1 / len(values)).abs()[:, None]
    return (torch.fft.rfft2(values, norm="forward")[:, : largest + 1] * (kx <= largest))[None]


def noise(seed: int = 0) -> Tensor:
    """A state with all modes."""
    return coefficients(torch.from_numpy(np.random.default_rng(seed).standard_normal((POINTS, POINTS))))


def wave_numbers() -> tuple[Tensor, Tensor]:
    largest = (POINTS - 1) // 3
    kx = torch.fft.fftfreq(POINTS, 1 / POINTS, dtype=torch.float64)
    return kx[:, None], torch.arange(largest + 1, dtype=torch.float64)[None]


def inner(a: Tensor, b: Tensor) -> float:
    """The mean of the product of two fields, of their coefficients; columns k_y > 0 stand for two modes."""
    twice = torch.where(wave_numbers()[1] > 0, 2.0, 1.0)
    return float((a.conj() * b * twice).sum().real)


def stream(w: Tensor) -> Tensor:
    kx, ky = wave_numbers()
    squared = kx**2 + ky**2
    return w * (squared > 0) / squared.clamp(min=1)


def energy(w: Tensor) -> float:
    return 0.5 * inner(stream(w), w)


def after(fluid: Fluid, w: Tensor, time: float, steps: int) -> Tensor:
    solver = Solver(POINTS, time / steps, fluid)
    for _ in range(steps):
        w = solver.step(w)
    return w


def velocity(fluid: Fluid, start: Start, time: float = 1.2, steps: int = 40) -> Tensor:
    """At the cell centres in float64, so that round-off shows."""
    w = after(fluid, initial_vorticity(start, CELLS)[None], time, steps)
    return Solver(POINTS, time / steps, fluid).velocity(w, CELLS)


def test_two_waves_move_each_other() -> None:
    """w = cos x + cos 2y: psi = cos x + cos(2y) / 4, u = (-sin(2y) / 2, sin x), u . grad w = -3/2 sin x sin 2y."""
    x, y = positions(POINTS)
    solver = Solver(POINTS, 0.1, IDEAL)
    w = coefficients(torch.cos(x) + torch.cos(2 * y))
    expected = coefficients(1.5 * torch.sin(x) * torch.sin(2 * y))
    torch.testing.assert_close(solver.tendency(w), expected, rtol=0, atol=1e-14)
    x, y = positions(CELLS, offset=0.5)
    u = torch.stack(torch.broadcast_tensors(-torch.sin(2 * y) / 2, torch.sin(x)))
    torch.testing.assert_close(solver.velocity(w, CELLS)[0], u, rtol=0, atol=1e-14)


def test_the_kept_grid_ends_below_its_nyquist_mode() -> None:
    x, y = positions(POINTS)
    solver = Solver(POINTS, 0.1, IDEAL)
    for k, kept in ((CELLS // 2 - 1, True), (CELLS // 2, False)):
        for wave in (torch.cos(k * x) + 0 * y, torch.cos(k * y) + 0 * x, torch.sin(k * (x - y))):
            size = float(solver.velocity(coefficients(wave), CELLS).abs().max())
            assert (size > 0.5 / k) if kept else (size < 1e-14)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 1), (4, 2)])
def test_taylor_green_vortices_decay_as_the_closed_form(a: int, b: int) -> None:
    """cos ax cos by does not move itself; each direction has its viscosity, and |k|^2 = 20 lies in the band."""
    x, y = positions(POINTS)
    fluid = Fluid((0.05, 0.01), growth=0.7, drag=0.1)
    vortex, time = coefficients(torch.cos(a * x) * torch.cos(b * y)), 2.0
    rate = 0.7 * (16 <= a * a + b * b <= 49) - 0.1 - 0.05 * a * a - 0.01 * b * b
    expected = np.exp(rate * time) * vortex
    torch.testing.assert_close(after(fluid, vortex, time, 20), expected, rtol=0, atol=1e-14)


def test_a_source_stirs_a_fluid_at_rest_as_the_closed_form() -> None:
    """a cos x + b cos y has psi = w, and so does not move itself, however differently the two waves grow."""
    x, y = positions(POINTS)
    time, drag = 3.0, 0.2
    fluid = Fluid((0.3, 0.05), drag=drag, source=0.4)
    growing = [
        0.4 * torch.cos(axis) * (1 - np.exp(-(drag + nu) * time)) / (drag + nu)
        for axis, nu in zip((x, y), fluid.viscosity, strict=True)
    ]
    w = after(fluid, torch.zeros_like(noise()), time, 30)
    torch.testing.assert_close(w, coefficients(sum(growing)), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 2), (3, 4), (-2, 5)])
def test_a_rossby_wave_travels_at_its_phase_speed(a: int, b: int) -> None:
    """cos(a x + b y) travels along x at -beta / k^2, exactly, whatever its height."""
    x, y = positions(POINTS)
    beta, time = 2.5, 1.7
    wave = coefficients(3 * torch.cos(a * x + b * y + 0.3))
    speed = -beta / (a * a + b * b)
    expected = coefficients(3 * torch.cos(a * (x - speed * time) + b * y + 0.3))
    torch.testing.assert_close(after(BetaPlane((0.0, 0.0), beta=beta), wave, time, 12), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("beta", [None, 5.0])
def test_energy_is_injected_and_dissipated_as_the_equation_says(beta: float | None) -> None:
    """E(t) - E(0) is the integral of the power, by Simpson's rule, to the fourth order of both; beta has no power."""
    fluid = Fluid((0.03, 0.01), growth=0.9, drag=0.2, source=0.5)
    fluid = fluid if beta is None else BetaPlane(**vars(fluid), beta=beta)
    kx, ky = wave_numbers()
    x, y = positions(POINTS)
    stirring = coefficients(0.5 * (torch.cos(x) + torch.cos(y)))
    squared = kx**2 + ky**2
    losses = {"viscosity": 0.03 * kx**2 + 0.01 * ky**2, "drag": 0.2, "band": -0.9 * ((squared >= 16) & (squared <= 49))}

    def powers(w: Tensor) -> dict[str, float]:
        return {name: -inner(stream(w), rate * w) for name, rate in losses.items()} | {
            "source": inner(stream(w), stirring)
        }

    def imbalance(steps: int) -> float:
        solver, w = Solver(POINTS, 0.4 / steps, fluid), initial_vorticity(Start(0), CELLS)[None]
        first, power = energy(w), []
        for step in range(steps + 1):
            power.append(powers(w))
            w = solver.step(w) if step < steps else w
        weights = np.array([1, *[4, 2] * (steps // 2 - 1), 4, 1]) * 0.4 / steps / 3
        gained = {name: float(np.dot(weights, [one[name] for one in power])) for name in power[0]}
        assert min(abs(gain) for gain in gained.values()) > 1e-3  # each of them matters
        return abs(energy(w) - first - sum(gained.values()))

    coarse, fine = imbalance(8), imbalance(16)
    assert fine < 1e-6
    assert coarse / fine > 12


def test_advection_alone_conserves_energy_and_enstrophy() -> None:
    """The truncated equations do so exactly, and products with aliases would not."""
    w = noise()
    change = Solver(POINTS, 0.1, IDEAL).tendency(w)
    size = (inner(w, w) * inner(change, change)) ** 0.5
    assert abs(inner(w, change)) < 1e-13 * size
    assert abs(inner(stream(w), change)) < 1e-13 * size

    def drift(steps: int) -> float:
        return abs(inner(end := after(IDEAL, w, 0.5, steps), end) / inner(w, w) - 1)

    assert drift(40) < 1e-6
    assert drift(20) / drift(40) > 12


def test_no_divergence() -> None:
    field = torch.fft.fft2(velocity(STIRRED, Start(1)))
    k = torch.fft.fftfreq(CELLS, 1 / CELLS, dtype=torch.float64)
    along, across = k[:, None] * field[0, 0] + k * field[0, 1], k * field[0, 0] - k[:, None] * field[0, 1]
    assert along.abs().max() < 1e-13 * across.abs().max()


def test_the_time_step_is_of_fourth_order() -> None:
    w = initial_vorticity(Start(0), CELLS)[None]
    coarse, middle, fine = (after(STIRRED, w, 0.6, steps) for steps in (15, 30, 60))
    ratio = float((coarse - middle).abs().max() / (middle - fine).abs().max())
    assert 12 < ratio < 20


@pytest.mark.parametrize("fluid", [ISOTROPIC, replace(DRIFTING, beta=0.0)])
@pytest.mark.parametrize("start", [Start(2, turns, shift) for turns in range(4) for shift in ((0, 0), (2, 0), (3, 13))])
def test_an_isotropic_fluid_commutes_with_turns_and_shifts(start: Start, fluid: Fluid) -> None:
    expected = rotate(velocity(ISOTROPIC, Start(2)), start.quarter_turns, "centered").roll(start.shift, (-2, -1))
    torch.testing.assert_close(velocity(fluid, start), expected, rtol=0, atol=1e-13)


def test_viscosity_and_beta_break_turns_and_the_source_breaks_shifts() -> None:
    def error(fluid: Fluid, start: Start) -> float:
        turned = rotate(velocity(fluid, Start(2)), start.quarter_turns, "centered").roll(start.shift, (-2, -1))
        return float((velocity(fluid, start) - turned).abs().mean())

    for fluid, broken, kept in (
        (ANISOTROPIC, [Start(2, 1), Start(2, 3)], [Start(2, 2), Start(2, 0, (2, 5))]),
        (STIRRED, [Start(2, 0, (2, 0)), Start(2, 0, (4, 4))], [Start(2, 1), Start(2, 2)]),
        (DRIFTING, [Start(2, 1), Start(2, 2), Start(2, 3)], [Start(2, 0, (2, 5)), Start(2, 0, (4, 4))]),
    ):
        assert min(error(fluid, start) for start in broken) > 0.02
        assert max(error(fluid, start) for start in kept) < 1e-13


def test_undo_takes_a_field_back() -> None:
    field = np.random.default_rng(0).standard_normal((3, 2, CELLS, CELLS)).astype(np.float32)
    start = Start(0, 3, (5, 2))
    moved = rotate(torch.from_numpy(field), 3, "centered").roll((5, 2), (-2, -1)).numpy()
    np.testing.assert_array_equal(start.undo(moved), field)


def test_initial_states_are_the_same_flow_at_each_size() -> None:
    small, large = initial_vorticity(Start(3), 32), initial_vorticity(Start(3), 64)
    assert torch.equal(small[:13, :13], large[:13, :13])
    assert torch.equal(small[-12:, :13], large[-12:, :13])
    assert (
        large.count_nonzero() == small.count_nonzero() == small[:13, :13].count_nonzero() + small[-12:].count_nonzero()
    )
    speed = Solver(128, 0.1, IDEAL).velocity(large[None], 64).square().sum(dim=1).mean().sqrt()
    assert float(speed) == pytest.approx(1, abs=1e-13)
    assert not torch.equal(small, initial_vorticity(Start(4), 32))


def test_initial_states_have_the_isotropic_spectrum() -> None:
    """Mean over seeds of |k| |w_k|^2 / k^2 ~ E(k), in rings and in sectors."""
    w = torch.stack([initial_vorticity(Start(seed), 32) for seed in range(400)])
    k = torch.fft.fftfreq(64, 1 / 64, dtype=torch.float64)[:, None]
    size = (k**2 + torch.arange(w.shape[-1]) ** 2).sqrt()
    measured = w.abs().square().mean(dim=0) / size.clamp(min=1)
    expected = size**3 / (1 + (size / 4) ** 8) * (size <= 12)
    angle = torch.atan2(k.expand_as(size), torch.arange(w.shape[-1]).expand_as(size).double())
    rings = [(size > low) & (size <= high) for low, high in ((1, 2), (2, 4), (4, 6), (6, 9), (9, 12))]
    sectors = [(size <= 6) & (angle >= i * torch.pi / 4) & (angle < (i + 1) * torch.pi / 4) for i in range(-2, 2)]
    ratios = torch.stack([measured[within].sum() / expected[within].sum() for within in (*rings, *sectors)])
    torch.testing.assert_close(ratios / ratios.mean(), torch.ones_like(ratios), rtol=0, atol=0.1)


def part(**changes: object) -> Turbulence:
    usual = Turbulence(STIRRED, CELLS, 5, 0.06, 2, (Start(0), Start(1, 1), Start(2, 0, (3, 1))))
    return replace(usual, **changes)


def test_the_same_bytes_each_time() -> None:
    first, again = part().simulate(), part().simulate()
    assert first.dtype == np.float32
    assert first.shape == (3, 5, 2, CELLS, CELLS)
    assert first.tobytes() == again.tobytes()
    assert part().key == part().key != part(starts=(Start(0),)).key
    initial = Solver(POINTS, 0.03, STIRRED).velocity(initial_vorticity(Start(0), CELLS)[None], CELLS)
    np.testing.assert_array_equal(first[:1, 0], initial.float().numpy())


def test_longer_runs_begin_like_shorter_ones() -> None:
    np.testing.assert_array_equal(part().simulate()[:, :3], part(frames=3).simulate())


def test_a_flow_that_is_too_fast_is_refused() -> None:
    with pytest.raises(MachineError, match=r"Courant number is [0-9.e+]+ at frame 0 \(limit 2.8\)"):
        part(frame_interval=3.0).simulate()
    with pytest.raises(MachineError, match=r"at frame [1-4] "):
        part(fluid=replace(ISOTROPIC, growth=40.0)).simulate()
    with pytest.raises(MachineError, match="Courant number is nan at frame 7"):
        Solver(POINTS, 0.01, IDEAL).require_stable(torch.full((1, 2, 4, 4), torch.nan), 7)


DATASETS = [TurbulenceRotation, TurbulenceTranslation, BetaPlaneTurbulence]


@pytest.fixture(scope="module", params=DATASETS)
def levels(request: pytest.FixtureRequest) -> list[Simulation]:
    dataset = request.param()
    return [simulate(dataset, level, "tiny") for level in dataset.levels]


def test_level_0_is_symmetric_and_each_level_breaks_it_further(levels: list[Simulation]) -> None:
    relative = [np.mean([error.relative for error in level.equivariance_errors]) for level in levels]
    assert relative[0] < 1e-6
    assert relative[1] > 0.01
    assert (np.diff(relative) > 0.2 * relative[1]).all()
    assert all(error.exact for level in levels for error in level.equivariance_errors)


def test_at_level_0_the_beta_plane_is_isotropic_turbulence() -> None:
    drifting, isotropic = (simulate(made(), 0, "tiny") for made in (BetaPlaneTurbulence, TurbulenceRotation))
    np.testing.assert_allclose(drifting.field, isotropic.field, rtol=0, atol=1e-6)


def test_half_turns_stay_exact() -> None:
    simulation = simulate(TurbulenceRotation(), 0.8, "tiny")
    errors = {error.element: error.relative for error in simulation.equivariance_errors}
    assert errors["rot180"] < 1e-6 < 0.1 < min(errors["rot90"], errors["rot270"])


def test_the_flow_neither_decays_nor_stands_still(levels: list[Simulation]) -> None:
    for level in levels:
        speed = np.sqrt(np.square(level.field).sum(axis=2).mean(axis=(2, 3)))
        change = np.sqrt(np.square(np.diff(level.field, axis=1)).sum(axis=2).mean(axis=(2, 3))) / speed[:, 1:]
        assert 0.5 < speed.min() <= speed.max() < 2.5
        assert 0.03 < change.min() <= change.max() < 0.3


@pytest.mark.parametrize("dataset", DATASETS)
def test_parts_hold_every_run_once(dataset: type[Dataset]) -> None:
    for preset in dataset.presets:
        parts = dataset().parts(dataset.levels[-1], preset)
        assert all(isinstance(one, Turbulence) and len(one.starts) <= 9 for one in parts)
        runs = [start for one in parts for start in one.starts if start == Start(start.seed)]
        assert runs == [Start(seed) for seed in range(35)]


def test_the_datasets_share_what_has_no_broken_symmetry() -> None:
    first, second = ({one.key for one in dataset().parts(0, "full")} for dataset in DATASETS[:2])
    assert len(first & second) == 5
    assert len(first | second) == 5 + 3 + 3
