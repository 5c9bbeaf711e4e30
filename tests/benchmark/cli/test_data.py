"""`symbench data` as a person types it."""

import json
import subprocess
from pathlib import Path

import h5py
import pytest
import torch
from support import symbench

from results.store.store import Store

SUITE = """
name: two levels
datasets: [{smoke_rotation_levels: {preset: tiny, level: [0, 2]}}]
models: [persistence]
protocol: {input_frames: 2, train_steps: 2, test_steps: 2}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "two-levels.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def store(suite: Path) -> Store:
    store = Store(suite.parent / "store")
    answer = symbench("data", "prepare", suite, store=store)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "smoke_rotation_levels (tiny): 2 levels ready, 2 new"
    return store


def path_of(store: Store, level: int) -> Path:
    return store.data_folder / "smoke_rotation_levels" / "tiny" / f"level_{level}.h5"


def test_prepare_again_does_nothing(suite: Path, store: Store) -> None:
    before = path_of(store, 2).stat().st_mtime_ns
    assert "2 levels ready, 0 new" in symbench("data", "prepare", suite, store=store).stdout
    assert path_of(store, 2).stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["two-levels.yaml", "smoke_rotation_levels"])
def test_info_shows_and_draws(suite: Path, store: Store, name: str) -> None:
    what = suite if name.endswith("yaml") else name
    shown = symbench("data", "info", what, store=store)
    assert shown.returncode == 0, shown.stderr
    # The suite's windows fit the preset; those of the protocols' defaults do not, and that is said.
    assert ("4 runs x" if what is suite else "does not fit") in shown.stdout
    pictures = [Path(line.removeprefix("picture: ")) for line in shown.stdout.splitlines() if "picture: " in line]
    assert [path.name for path in pictures] == [
        "level_0.png",
        "level_0.gif",
        "level_2.png",
        "level_2.gif",
        "symmetry_breaking.png",
    ]
    assert all(path.stat().st_size > 1000 for path in pictures)
    described = json.loads(symbench("data", "info", what, "--json", store=store).stdout)
    assert [one["level"] for one in described] == [0, 2]
    assert described[0]["mean_absolute_error"] == 0 < described[1]["mean_absolute_error"]


def test_card(suite: Path, store: Store) -> None:
    answer = symbench("data", "card", suite, store=store)
    assert answer.returncode == 0, answer.stderr
    card = path_of(store, 0).with_name("README.md").read_text(encoding="utf-8")
    assert "smoke_rotation_levels" in card
    assert "pictures/level_2.gif" in card
    assert "pictures/symmetry_breaking.png" in card
    metadata = json.loads(path_of(store, 0).with_name("croissant.json").read_text(encoding="utf-8"))
    assert [file["name"] for file in metadata["distribution"]] == ["level_0.h5", "level_2.h5"]


def test_package(suite: Path, store: Store, tmp_path: Path) -> None:
    options = ("--license", "CC-BY-4.0", "--creator", "Curie, Marie", "--into", tmp_path / "archive")
    answer = symbench("data", "package", suite, *options, store=store)
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "archive" / "smoke_rotation_levels-tiny-1.0.0"
    assert answer.stdout == f"wrote {folder}\n"
    assert "pictures/level_2.gif" in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "pictures" / "level_2.gif").is_file()
    again = symbench("data", "package", suite, *options, store=store)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_check_names_what_is_wrong(suite: Path, store: Store) -> None:
    assert symbench("data", "check", suite, store=store).returncode == 0
    path, content = path_of(store, 2), path_of(store, 2).read_bytes()
    with h5py.File(path, "r+") as file:
        file["field"][1, 3, 0, 5, 5] = float("nan")
    answer = symbench("data", "check", suite, "--json", store=store)
    path.write_bytes(content)
    assert answer.returncode == 3
    first, second = json.loads(answer.stdout)
    assert first["problems"] == []
    assert "checksum" in second["problems"][0]


def test_names_that_do_not_exist(store: Store) -> None:
    answer = symbench("data", "info", "smoke_rotation_levls", store=store)
    assert answer.returncode == 2
    assert "did you mean 'smoke_rotation_levels'" in answer.stderr
    answer = symbench("data", "info", "jetflow", store=store)
    assert answer.returncode == 3
    assert "symbench data import jetflow FOLDER" in answer.stderr
    answer = symbench("data", "prepare", "icml2022-jetflow-small", "--processes", 1, store=store)
    assert answer.returncode == 3
    assert answer.stderr.count("\n") == 1
    answer = symbench("data", "prepare", "quickstart", "--on", "nowhere", store=store)
    assert answer.returncode == 2
    assert "unknown site 'nowhere'" in answer.stderr


def test_a_jet_from_the_files_to_the_board(tmp_path: Path) -> None:
    """Files of the published form, 62 x 23; how each model takes that grid is the contract's."""
    store, folder = Store(tmp_path / "store"), tmp_path / "jets"
    folder.mkdir()
    assert "raw_data_1_1.pt" in symbench("data", "import", "jetflow", folder, store=store).stderr
    time = torch.arange(285.0)[:, None, None]
    x, y = torch.arange(62.0)[:, None] / 8, torch.arange(23.0) / 8
    for i in range(1, 4):
        for j in range(1, 9):
            phase = 0.1 * time + i + j
            flow = torch.stack((torch.sin(x + phase) * torch.cos(y), -torch.cos(x + phase) * torch.sin(y)), dim=1)
            torch.save(flow.clone(), folder / f"raw_data_{i}_{j}.pt")
    answer = symbench("data", "import", "jetflow", folder, store=store)
    assert answer.returncode == 0, answer.stderr
    assert "24 x 285 x 2 x 62 x 23" in answer.stdout
    assert "components_swapped: False" in answer.stdout
    assert symbench("data", "check", "jetflow", store=store).returncode == 0

    suite = "icml2022-jetflow-small"
    answer = symbench("run", suite, "--only", "model=persistence", store=store)
    assert answer.returncode == 0, answer.stderr
    (row, *_) = json.loads(symbench("leaderboard", suite, "--json", store=store).stdout)
    assert "data_equivariance_error" not in row["metrics"]  # nobody can transform the measured set-up
    assert symbench("leaderboard", suite, "--html", tmp_path / "jet.html", store=store).returncode == 0


def test_a_hostile_file_is_refused_without_running_it(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[list[str]]]:
            return subprocess.check_call, (["touch", str(tmp_path / "ran")],)

    for i in range(1, 4):
        for j in range(1, 9):
            torch.save(Hostile(), tmp_path / f"raw_data_{i}_{j}.pt")
    answer = symbench("data", "import", "jetflow", tmp_path, store=Store(tmp_path / "store"))
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "store").exists()
