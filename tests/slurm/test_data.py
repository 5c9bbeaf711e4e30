"""Data simulated by a job array on a real two-node SLURM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import SYMBENCH

SUITE = """
name: on a site
datasets: [{smoke_rotation_levels: {preset: small, level: [0, 3]}}]
models: [persistence]
protocol: {input_frames: 2, train_steps: 2, test_steps: 2}
"""
SITE = "{scheduler: slurm, partition: main, minutes: 15, cpus: 1, memory_gb: 2, jobs: 3, setup: ['echo set up']}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a space in its name, to catch missing quotes."""
    folder = tmp_path / "a store"
    folder.mkdir()
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "site.yaml").write_text(SITE)
    return folder


def prepare(folder: Path, store: str, *options: str) -> list[str]:
    command = [str(SYMBENCH), "data", "prepare", str(folder / "suite.yaml"), "--store", str(folder / store)]
    return [*command, *options]


def test_an_array_writes_the_same_bytes_as_this_machine(slurm: dict[str, str], folder: Path) -> None:
    there = prepare(folder, "there", "--on", str(folder / "site.yaml"))
    answer = subprocess.run(there, env=slurm, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert "2 levels ready, 2 new" in answer.stdout
    subprocess.run(prepare(folder, "here", "--processes", "1"), check=True, capture_output=True, timeout=300)
    for level in (0, 3):
        name = f"data/smoke_rotation_levels/small/level_{level}.h5"
        assert (folder / "there" / name).read_bytes() == (folder / "here" / name).read_bytes()
    assert not list((folder / "there").rglob("parts"))
    logs = [path.read_text() for path in (folder / "there").rglob("*_log.out")]
    assert len(logs) == 3
    assert all("set up" in log for log in logs)
    again = subprocess.run(there, env=slurm, capture_output=True, text=True, check=False, timeout=300)
    assert "2 levels ready, 0 new" in again.stdout


def test_control_c_cancels_the_array(slurm: dict[str, str], folder: Path) -> None:
    (folder / "suite.yaml").write_text(SUITE.replace("small, level: [0, 3]", "paper, level: [0, 3, 5, 7, 9]"))
    command = prepare(folder, "store", "--on", str(folder / "site.yaml"))
    with subprocess.Popen(command, env=slurm, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not queue(slurm):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    deadline = time.monotonic() + 60
    while queue(slurm):
        assert time.monotonic() < deadline, "the jobs are still in the queue"
        time.sleep(0.2)


def queue(slurm: dict[str, str]) -> str:
    command = ["squeue", "--noheader", "--name=symbench-data"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True, timeout=60).stdout


def test_failed_jobs_are_reported_with_their_logs(slurm: dict[str, str], folder: Path) -> None:
    (folder / "site.yaml").write_text(SITE.replace("echo set up", "exit 7"))
    command = prepare(folder, "store", "--on", str(folder / "site.yaml"))
    answer = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 3
    assert "parts are not simulated; its logs are in" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_partition_that_does_not_exist(slurm: dict[str, str], folder: Path) -> None:
    (folder / "site.yaml").write_text(SITE.replace("partition: main", "partition: nowhere"))
    command = prepare(folder, "store", "--on", str(folder / "site.yaml"))
    answer = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 3
    assert "SLURM does not take the jobs" in answer.stderr
    assert "invalid partition" in answer.stderr.lower()


def test_the_python_of_the_site_simulates(slurm: dict[str, str], folder: Path, tmp_path: Path) -> None:
    box = tmp_path / "box.sh"
    box.write_text(f'#!/bin/sh\necho in the box\nexec {sys.executable} "$@"\n')
    box.chmod(0o700)
    (folder / "suite.yaml").write_text(SUITE.replace("[0, 3]", "0"))
    (folder / "site.yaml").write_text(
        SITE.replace("setup:", f"python: {box}, jobs: 1, setup:").replace("jobs: 3, ", "")
    )
    command = prepare(folder, "store", "--on", str(folder / "site.yaml"))
    answer = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr
    logs = [path.read_text() for path in (folder / "store").rglob("*_log.out")]
    assert len(logs) == 1
    assert "in the box" in logs[0]


def test_a_path_that_slurm_would_rewrite(slurm: dict[str, str], folder: Path) -> None:
    command = prepare(folder, "100% full", "--on", str(folder / "site.yaml"))
    answer = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 2
    assert "a path with % in it cannot be given to SLURM" in answer.stderr
    assert not (folder / "100% full" / "jobs").exists()
