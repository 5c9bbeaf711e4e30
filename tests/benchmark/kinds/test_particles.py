"""Particles: group actions, errors against closed forms, data files, pictures, and a cell from its data to a board."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from benchmark import discovery
from benchmark.cell import DatasetChoice, Protocol
from benchmark.cli.main import cli
from benchmark.contract import checks
from benchmark.contract.candidate import Candidate
from benchmark.cube import turned, turns
from benchmark.data.check import check
from benchmark.data.layout import read
from benchmark.data.paths import data_path
from benchmark.data.physics.trapped_ions import field_floor
from benchmark.data.prepare import outline, prepare
from benchmark.errors import UserError
from benchmark.kinds.kinds import PARTICLES
from benchmark.kinds.panels import PANELS
from benchmark.kinds.particles import IONS, cube, random_rotations
from benchmark.kinds.pictures import PAINTERS
from benchmark.models import model_registry
from benchmark.models.baseline import ParticleBaseline, ParticleTask
from benchmark.suite.facts import task_of

TOY = '''
"""One network for all particles."""
import torch
from torch import nn
from symbench import Frozen, ParticleBaseline

class Toy(ParticleBaseline):
    """Linear map of the last state, which is the same for all particles."""
    class Config(Frozen):
        """No settings."""
    family, symmetries, source = "free", ("permutation",), "test"
    def __init__(self, config, task):
        super().__init__(config, task)
        self.map = nn.Linear(6, 6)
    def forward(self, x):
        return self.map(x[:, -1])
'''
SUITE = """
name: ions
plugins: [toy_particles.py]
datasets:
  - trapped_ions: {level: [0.5], preset: tiny}
models: [toy_particles, convnet, augmentation: {network: toy_particles}, remul: {network: toy_particles}]
protocol: {input_frames: 1, train_steps: 1, test_steps: 2, target: change}
train: {epochs: 1}
seeds: [0]
"""


class Kick(ParticleBaseline):
    """v x B for a field B: as symmetric under turns as its field."""

    family, symmetries, source, trained = "free", (), "test", False

    def __init__(self, task: ParticleTask) -> None:
        super().__init__(None, task)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        v = x_BTN6[:, -1, :, 3:]
        return torch.cat((v, torch.linalg.cross(v, v.new_tensor([0.0, 0.0, 1.0]).expand(v.shape))), -1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "data"
    list(prepare(outline("trapped_ions", "tiny", [0, 0.5], folder), lambda done, total: None))
    return folder


def test_turns_are_those_of_the_simulator_bit_for_bit() -> None:
    states = torch.randn(7, 3, 6, dtype=torch.float64)
    assert len(cube()) == 24
    for element, matrix in zip(cube(), turns().values(), strict=True):
        assert torch.equal(element.act(states), torch.from_numpy(turned(states.numpy(), matrix)))


def test_random_rotations_are_rotations() -> None:
    for element in random_rotations():
        rows = element.act(torch.eye(3, 6, dtype=torch.float64))[:, :3]
        assert torch.allclose(rows @ rows.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert torch.linalg.det(rows) == pytest.approx(1)


def test_the_contract_measures_broken_rotations_and_kept_inversions() -> None:
    x = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    errors = {name: action.error(Kick(IONS), x) for name, action in PARTICLES.actions.items()}
    assert errors["rotation"] > 0.5
    assert errors["reflection"] == errors["permutation"] == 0
    assert errors["translation"] > 0.1  # it forecasts a next state that does not move with the particles


def test_a_file_keeps_kind_axes_and_numbers(data: Path) -> None:
    path = data_path(data, "trapped_ions", "tiny", 0.5)
    stored = read(path)
    assert (stored.kind, stored.field.shape[1:], stored.time_step) == ("particles", (24, 3, 6), 0.15)
    assert check(path, "trapped_ions", "tiny", 0.5) == []


def test_errors_and_floor_are_zero_without_a_field_and_the_closed_form_with_one(data: Path) -> None:
    symmetric, broken = (read(data_path(data, "trapped_ions", "tiny", level)) for level in (0, 0.5))
    assert len(symmetric.equivariance_errors) == 23
    assert symmetric.mean_absolute_error is not None
    assert symmetric.mean_absolute_error < 1e-7
    assert min(error.absolute for error in broken.equivariance_errors) > 0.01
    assert symmetric.strict_floor is not None
    assert broken.strict_floor is not None
    assert symmetric.strict_floor.over(6, "centered") == pytest.approx(0, abs=1e-12)
    assert broken.strict_floor.over(6, "centered") == pytest.approx(field_floor(0.5, 6), rel=0.4)  # of 8 states


def test_a_grid_is_refused_in_one_line() -> None:
    choice = DatasetChoice(name="trapped_ions", level=0, preset="tiny", grid="staggered")
    with pytest.raises(UserError, match="trapped_ions has particles, which lie on no grid: leave out `grid`"):
        task_of(choice, Protocol())


def test_models_of_the_other_kind_are_refused() -> None:
    convnet = model_registry.model("convnet")
    assert convnet.cannot_run(convnet.Config(), IONS) == "takes fields, made_up has particles"


def test_pictures_are_drawn_alike_each_time(data: Path, tmp_path: Path) -> None:
    stored = read(data_path(data, "trapped_ions", "tiny", 0.5))
    for suffix, paint in PAINTERS["particles"].items():
        for name in "ab":
            paint(stored, tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with Image.open(tmp_path / "a.gif") as moving:
        assert getattr(moving, "n_frames", 1) == 24


def test_a_particle_is_seen_where_it_is() -> None:
    truth = np.zeros((1, 1, 6), np.float32)
    truth[0, 0, [0, 3, 4]] = 1.0, 3.0, 4.0
    seen, forecast, error = PANELS["particles"].planes(truth, truth, ())
    assert np.array_equal(seen, forecast)
    assert seen.max() == 5
    assert error.max() == 0
    x, y = (axis.mean() for axis in np.nonzero(seen[0]))
    assert x > 0.9 * len(seen[0])
    assert y == pytest.approx(len(seen[0]) / 2, abs=1)


def test_a_model_of_particles_passes_the_contract_and_gets_its_row(data: Path, tmp_path: Path) -> None:
    (tmp_path / "toy_particles.py").write_text(TOY, encoding="utf-8")
    (tmp_path / "ions.yaml").write_text(SUITE, encoding="utf-8")
    store = ["--store", str(data.parent)]
    try:
        ran = CliRunner().invoke(cli, ["run", str(tmp_path / "ions.yaml"), *store, "--parallel", "1"])
        assert ran.exit_code == 0, ran.output
        assert "n/a: takes fields, trapped_ions has particles" in ran.output
        html = tmp_path / "board.html"
        board = CliRunner().invoke(
            cli, ["leaderboard", str(tmp_path / "ions.yaml"), *store, "--json", "--html", str(html)]
        )
        assert board.exit_code == 0, board.output
        families = {row["model"]: row["family"] for row in json.loads(board.stdout)}
        assert families["augmentation"] == "free"
        for metric in ("rmse_future", "model_equivariance_error", "strict_floor", "data_equivariance_error"):
            assert metric in board.output
        assert "Particles in the x-y plane" in html.read_text("utf-8")
        suite = str(tmp_path / "ions.yaml")
        for command in (
            ["publish", suite, "--into", str(tmp_path / "boards")],
            ["verify", str(tmp_path / "boards" / "ions"), "--cells", "1"],
            ["compare", "toy_particles", "remul", "--suite", suite],
            ["data", "card", "trapped_ions"],
        ):
            discovery.replace_plugins(())  # as in a process of its own
            done = CliRunner().invoke(cli, [*command, *store])
            assert done.exit_code == 0, (command, done.output)
        discovery.add_plugin(tmp_path / "toy_particles.py")
        slow = ("two_ranks_equal_one", "two_ranks_equal_one_with_batch_norm", "keeps_to_its_device")
        for one in checks.CHECKS:
            if one.name not in slow:
                result = checks.examine(one, Candidate.named("toy_particles"))
                assert result.outcome in ("passed", "does not apply"), (one.name, result.reason)
    finally:
        discovery.replace_plugins(())
