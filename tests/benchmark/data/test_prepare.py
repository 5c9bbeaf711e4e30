"""Simulation of data files: in parts, in processes, after an interruption."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import SYMBENCH

from benchmark.cell import Level
from benchmark.data import dataset_registry
from benchmark.data.dataset import Dataset, Part, Preset, Simulation
from benchmark.data.layout import read
from benchmark.data.prepare import outline, prepare
from benchmark.errors import UserError


@dataclass(frozen=True)
class ToyPart(Part):
    """A constant field; the simulation of 2 is interrupted."""

    value: int

    @property
    def work(self) -> int:
        return 1

    def simulate(self) -> NDArray[np.float32]:
        if self.value == 2:
            raise KeyboardInterrupt
        return np.full((1, 2, 2, 4, 4), float(self.value), np.float32)


class Toy(Dataset):
    """A dataset without physics: level l needs the parts 0 and l."""

    group = "C4"
    levels = (0, 1, 2)
    level_meaning = "nothing"
    presets = {"tiny": Preset(4, 4, 2)}  # noqa: RUF012 - a constant of the class
    training_runs, unseen_runs = (0,), (0,)
    test_runs = "designed"
    source = "this test"

    def parts(self, level: Level, preset: str) -> list[ToyPart]:
        return [ToyPart(0), ToyPart(int(level))]

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        return Simulation(fields[1], 1.0, {}, [{}], [])


def no_progress(done: int, total: int) -> None:
    pass


Make = Callable[..., list[Path]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Prepare levels of the toy dataset; `show` is the progress."""
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Toy())
    return lambda levels, show=no_progress: list(prepare(outline("toy", "tiny", levels, tmp_path), show))


def test_parts_are_simulated_once_and_leave_nothing(make: Make, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make([0, 1], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "toy/tiny/level_0.h5",
        "toy/tiny/level_1.h5",
    ]
    assert not (tmp_path / "toy" / "tiny" / "parts").exists()


def test_fields_of_a_gpu_name_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chaotic runs of other devices differ in time."""
    (path,) = make([0])
    assert read(path).parameters == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    (path,) = make([1])
    assert read(path).parameters == {"device": "NVIDIA H200"}


def test_an_interruption_costs_only_what_was_being_simulated(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make([2, 1])
    assert not list(tmp_path.rglob("level_*"))
    with pytest.raises(KeyboardInterrupt):
        make([1, 2])
    assert [path.name for path in tmp_path.rglob("level_*")] == ["level_1.h5"]
    assert make([1]) == []

    monkeypatch.setattr(ToyPart, "simulate", lambda self: np.full((1, 2, 2, 4, 4), 7, np.float32))
    (second,) = make([2])
    assert read(second).field.unique().tolist() == [7.0]
    assert make([0, 1, 2]) == [second.with_name("level_0.h5")]
    assert read(second.with_name("level_0.h5")).field.unique().tolist() == [7.0]


def test_a_part_that_waits_is_not_simulated_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        make([2])
    (waiting,) = (tmp_path / "toy" / "tiny" / "parts").iterdir()
    assert waiting.name == f"{ToyPart(0).key}.h5"
    simulated = []

    def simulate(self: ToyPart) -> NDArray[np.float32]:
        simulated.append(self.value)
        return np.full((1, 2, 2, 4, 4), 7, np.float32)

    monkeypatch.setattr(ToyPart, "simulate", simulate)
    make([2])
    assert simulated == [2]
    assert not waiting.parent.exists()


def test_a_damaged_part_is_simulated_again(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make([2])
    (waiting,) = (tmp_path / "toy" / "tiny" / "parts").iterdir()
    content = bytearray(waiting.read_bytes())
    content[-1] ^= 1
    waiting.write_bytes(content)
    (path,) = make([0])
    assert read(path).field.unique().tolist() == [0.0]


def test_broken_misplaced_and_outdated_files_are_made_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = make([1])
    path.write_bytes(path.read_bytes()[:100])
    assert make([0, 1.0]) == [path.with_name("level_0.h5"), path]
    assert read(path).field.unique().tolist() == [1.0]
    path.write_bytes(path.with_name("level_0.h5").read_bytes())
    assert make([0, 1]) == [path]
    monkeypatch.setattr(Toy, "parts", lambda self, level, preset: [ToyPart(0), ToyPart(int(level) + 10)])
    assert make([1]) == [path]
    assert read(path).field.unique().tolist() == [11.0]


def test_unknown_presets_and_levels(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown preset 'tinny'; did you mean 'tiny'"):
        outline("toy", "tinny", [0], tmp_path)
    with pytest.raises(UserError, match=r"unknown level 7.*valid: 0, 1, 2"):
        outline("toy", "tiny", [0, 7], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    made = {}
    for processes in (1, 2):
        work = outline("smoke_rotation_levels", "tiny", [1], tmp_path / str(processes))
        (made[processes],) = prepare(work, no_progress, processes)
    assert made[1].read_bytes() == made[2].read_bytes()


@pytest.fixture
def simulating(tmp_path: Path) -> subprocess.Popen[str]:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "name: killed\ndatasets: [{smoke_scale: {preset: small, level: 0}}]\nmodels: [persistence]\n"
        "protocol: {input_frames: 2, train_steps: 2, test_steps: 2}\n"
    )
    command = [SYMBENCH, "data", "prepare", str(suite), "--store", str(tmp_path), "--processes", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: len(list(tmp_path.glob("data/smoke_scale/small/parts/*.h5"))) > 1)
    return process


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def test_control_c_ends_quickly_keeps_the_parts_and_goes_on(simulating: subprocess.Popen[str], tmp_path: Path) -> None:
    workers = children(simulating.pid)
    os.killpg(simulating.pid, signal.SIGINT)
    _, errors = simulating.communicate(timeout=60)
    assert simulating.returncode == 130
    assert errors.strip() == "interrupted"
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    parts = tmp_path / "data" / "smoke_scale" / "small" / "parts"
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.h5")}
    assert len(kept) > 1
    assert not list(parts.glob(".*"))  # no temporary files


def test_a_killed_worker_is_one_clear_error(simulating: subprocess.Popen[str]) -> None:
    for worker in children(simulating.pid):
        if "spawn_main" in Path(f"/proc/{worker}/cmdline").read_text():
            os.kill(worker, signal.SIGKILL)
            break
    _, errors = simulating.communicate(timeout=120)
    assert simulating.returncode == 3
    assert "a simulating process was killed" in errors
    assert "Traceback" not in errors
