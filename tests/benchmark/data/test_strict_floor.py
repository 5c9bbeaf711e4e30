"""Strict floor against closed forms: linear maps whose group average is known, and Rossby waves."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.cell import Grid, Level
from benchmark.data import dataset_registry, layout
from benchmark.data.dataset import Dataset, Part, Preset, Simulation
from benchmark.data.physics.smoke import Box, Plume, at_rest, states_of
from benchmark.data.physics.smoke_floor import SmokeFloor
from benchmark.data.physics.spectral import BetaPlane, Start, initial_vorticity
from benchmark.data.physics.turbulence import TurbulenceFloor, forecasts_of
from benchmark.data.prepare import outline, prepare
from benchmark.data.show import info
from benchmark.data.show.card import card
from benchmark.data.strict_floor import FLOOR_STEPS, StrictFloor, deviation, floor_frames, measure
from benchmark.groups import rotate

CELLS = 16
TURNS = tuple((turns, (0, 0)) for turns in range(4))
GRIDS: tuple[Grid, ...] = ("centered", "staggered")


def simulated(name: str, level: Level) -> StrictFloor:
    dataset = dataset_registry.dataset(name)
    deviations = [part.simulate() for part in dataset.floor_parts(level, "tiny")]
    return measure(deviations, "staggered" if name.startswith("smoke") else "centered", "")


@pytest.mark.parametrize("grid", GRIDS)
def test_a_linear_map_has_the_floor_of_its_group_average(grid: Grid) -> None:
    """F multiplies x components by a, y components by b: P F multiplies by their mean, over n frames of a^n and b^n."""
    a, b = 0.9, 0.6
    states = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 2, 8, 8)))
    if grid == "staggered":  # the lower faces of the box are walls
        states[:, 0, 0], states[:, 1, :, 0] = 0, 0

    def forecast(x: Tensor, frames: int) -> Tensor:
        return x * torch.tensor([a**frames, b**frames], dtype=x.dtype)[:, None, None]

    def element(turns: int, frames: int) -> Tensor:
        return rotate(forecast(rotate(states, turns, grid), frames), -turns, grid)

    frames = [deviation(torch.stack([element(turns, n) for turns in range(4)])) for n in (1, 2, 3)]
    floor = measure([torch.stack(frames, dim=1).numpy()], grid, "")
    size = float(states.square().mean().sqrt())
    assert floor.by_step[grid] == pytest.approx([abs(a**n - b**n) / 2 * size for n in (1, 2, 3)])
    expected = np.sqrt(np.mean([((a**n - b**n) / 2 * size) ** 2 for n in (1, 2)]))
    assert floor.over(2, grid) == pytest.approx(expected)
    assert floor.over(4, grid) is None
    assert floor.states == 5


def test_the_floor_of_a_plane_wave_on_the_beta_plane() -> None:
    """Turned by 0 to 270 degrees, the wave (a, b) has k_x = a, -b, -a, b; its phase drifts by beta k_x t / k^2.

    Alone in a fluid without viscosity it stays a wave: F(g x), turned back, differs from x by that phase.
    """
    a, b, beta, frames = 3, 1, 4.0, 5
    points = 2 * torch.pi * torch.arange(2 * CELLS, dtype=torch.float64) / (2 * CELLS)
    values = torch.cos(a * points[:, None] + b * points)
    part = TurbulenceFloor(BetaPlane((0.0, 0.0), beta=beta), CELLS, frames, 0.1, 3, (Start(0),), moves=TURNS)
    solver, _ = part.begin()
    w = torch.fft.rfft2(values, norm="forward")[None, :, : (2 * CELLS - 1) // 3 + 1]
    forecasts = list(forecasts_of(solver, w, part))
    size = float(solver.velocity(w, CELLS).square().mean().sqrt())
    for n, forecast in enumerate(forecasts, start=1):
        phases = np.exp(1j * beta * 0.1 * n / (a * a + b * b) * np.array([a, -b, -a, b]))
        floor = float(deviation(forecast).square().mean().sqrt())
        assert floor == pytest.approx(size * abs(phases[0] - phases.mean()), rel=1e-12)


@pytest.mark.parametrize("move", [(turns, shift) for turns in range(4) for shift in ((0, 0), (3, 14))])
def test_a_moved_state_is_the_start_that_is_moved(move: tuple[int, tuple[int, int]]) -> None:
    turns, (x, y) = move
    solver, w = TurbulenceFloor(BetaPlane((0.0, 0.0)), CELLS, 1, 0.1, 1, (Start(5),)).begin()
    expected = initial_vorticity(Start(5, turns, (x, y)), CELLS)[None]
    torch.testing.assert_close(solver.moved(w, turns, (2 * x, 2 * y)), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["beta_plane", "turbulence_rotation", "turbulence_translation"])
def test_the_first_forecast_is_the_run_itself(name: str) -> None:
    """F(x) from frame 5 of a run is what the run does next."""
    dataset = dataset_registry.dataset(name)
    part = replace(dataset.floor_parts(dataset.levels[-1], "tiny")[0], first=5, frames=4)
    solver, w = part.begin()
    for _ in range(part.first * part.steps_in_frame):
        w = solver.step(w)
    forecasts = torch.stack([forecast[0] for forecast in forecasts_of(solver, w, part)], dim=1).float().numpy()
    runs = dataset.parts(dataset.levels[-1], "tiny")[0].simulate()
    np.testing.assert_allclose(forecasts, runs[[start.seed for start in part.starts], 6:10], rtol=0, atol=1e-6)


def test_smoke_goes_on_as_it_would_on_another_side() -> None:
    """Simulate on the lower side; turn the state, smoke included; simulate on the right side; turn back."""
    box = Box(64.0, CELLS, inflow_radius=8.0, velocity_time_step=1.0)
    own, stronger = (Plume((32.0, 8.0), (0.0, strength)) for strength in (0.05, 0.1))
    on_the_right = Plume((56.0, 32.0), (-0.1, 0.0))
    *_, (smoke, velocity) = states_of(box, [own], 9, at_rest(box, 1, torch.device("cpu")))
    turned = torch.rot90(smoke, 1, (-2, -1)), rotate(velocity, 1, "staggered")
    members = [
        torch.stack([state[1] for state in states_of(box, [own], 5, (smoke, velocity))], dim=1),
        torch.stack([rotate(state[1], -1, "staggered") for state in states_of(box, [on_the_right], 5, turned)], dim=1),
    ]
    part = SmokeFloor(box, ((own, stronger),), first=9, steps=5)
    expected = deviation(torch.stack(members)).float().numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(part.simulate(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["beta_plane", "turbulence_rotation", "turbulence_translation", "smoke_rotation", "smoke_rotation_levels"],
)
def test_level_0_has_no_floor_and_each_level_a_higher_one(name: str) -> None:
    dataset = dataset_registry.dataset(name)
    levels = [dataset.levels[0], dataset.levels[2], dataset.levels[-1]]
    floors = [simulated(name, level) for level in levels]
    assert all(floor.states == 8 for floor in floors)
    for grid in floors[0].by_step:
        over = [floor.over(FLOOR_STEPS, grid) for floor in floors]
        assert over[0] < 1e-14
        assert over[0] < over[1] < over[2]
        steps = floors[-1].by_step[grid]
        assert len(steps) == FLOOR_STEPS
        assert steps[0] < steps[-1]


@pytest.mark.parametrize("name", dataset_registry.dataset_names())
def test_every_dataset_has_a_floor_or_says_why_not(name: str) -> None:
    dataset = dataset_registry.dataset(name)
    if dataset.no_floor:
        assert not dataset.floor_parts(dataset.levels[0], next(iter(dataset.presets)))
        return
    for preset in set(dataset.presets) - {"imported"}:
        fields, floors = ([*kind(dataset.levels[-1], preset)] for kind in (dataset.parts, dataset.floor_parts))
        keys = [part.key for part in (*fields, *floors)]
        assert len(set(keys)) == len(keys) > len(fields)


def test_states_are_spread_over_the_run() -> None:
    assert floor_frames(64) == (8, 24, 40, 56)
    assert [len({*floor_frames(frames)}) for frames in (12, 50, 310)] == [4, 4, 4]


@dataclasses.dataclass(frozen=True)
class LinearPart(Part):
    """Field, or deviation, of one value."""

    value: float
    work = 1

    def simulate(self) -> NDArray[np.float32]:
        return np.full((1, 3, 2, 4, 4), self.value, np.float32)


class Linear(Dataset):
    """A field of ones whose level is its floor."""

    group = "C4"
    levels = (0, 1)
    level_meaning = "nothing"
    presets = {"tiny": Preset(4, 4, 3), "imported": Preset(4, 4, 3)}  # noqa: RUF012 - a constant of the class
    training_runs, unseen_runs = (0,), (0,)
    source = "this test"
    test_runs = "sampled"

    def parts(self, level: Level, preset: str) -> list[LinearPart]:
        return [LinearPart(1.0)]

    def floor_parts(self, level: Level, preset: str) -> list[LinearPart]:
        return [LinearPart(0.5 * float(level))]

    def assemble(self, level: Level, preset: str, fields: list[NDArray[np.float32]]) -> Simulation:  # type: ignore[override]
        return Simulation(fields[0], 1.0, {}, [{}], [])


def test_files_without_the_floor_of_today_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Linear())

    def make() -> list[Path]:
        return list(prepare(outline("linear", "tiny", [1], tmp_path), lambda done, total: None))

    (path,) = make()
    content = path.read_bytes()
    assert layout.read(path).strict_floor.by_step == {"centered": (0.5, 0.5, 0.5)}
    assert make() == []
    with h5py.File(path, "r+") as file:
        del file.attrs[layout.FLOOR]
    assert layout.read(path).strict_floor is None
    assert make() == [path]
    assert path.read_bytes() == content
    monkeypatch.setattr(Linear, "floor_parts", lambda self, level, preset: [LinearPart(0.7)])
    assert make() == [path]  # another recipe of the floor
    assert layout.read(path).strict_floor.over(2, "centered") == pytest.approx(0.7)
    assert not (path.parent / "parts").exists()


def test_info_and_card_show_the_floor_or_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Linear()
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: dataset)

    def described(preset: str, floor: StrictFloor | None) -> dict[str, Any]:
        path = tmp_path / "linear" / preset / "level_0.h5"
        simulation = dataset.assemble(0, preset, [np.ones((1, 3, 2, 4, 4), np.float32)])
        layout.write(path, "linear", preset, 0, replace(simulation, strict_floor=floor))
        return info.describe(layout.read(path), dataset)

    known = described("tiny", StrictFloor({"centered": (0.3,) * 8}, 8, "r"))
    assert known["strict_floor"]["by_step"] == {"centered": [0.3] * 8}
    assert info.row(known)["strict_floor_6_/_20"] == "0.3 / -"
    page = card("linear", "tiny", [known], {})
    assert "| 0 | centered | 0.3 | - |" in page
    assert "Not known" not in page
    old = described("tiny", None)
    assert info.row(old)["strict_floor_6_/_20"] == "n/a"
    assert "Not known: the file is outdated" in card("linear", "tiny", [old], {})
    monkeypatch.setattr(Linear, "no_floor", "walls")
    assert described("tiny", None)["no_strict_floor"] == "walls"
    assert "imported" in described("imported", None)["no_strict_floor"]


@pytest.mark.parametrize(
    "wrong", ["[]", "{}", '{"by_step": 3}', '{"by_step": {"centered": [NaN]}, "states": 1, "recipe": ""}']
)
def test_a_broken_floor_is_one_clear_error(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "linear" / "tiny" / "level_0.h5"
    layout.write(path, "linear", "tiny", 0, Linear().assemble(0, "tiny", [np.ones((1, 3, 2, 4, 4), np.float32)]))
    with h5py.File(path, "r+") as file:
        file.attrs[layout.FLOOR] = wrong
    with pytest.raises(layout.MachineError, match="whose description is broken"):
        layout.read(path)
