"""Data simulated by a job array on a real two-node SLURM."""

import os
import re
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
SITE = (
    "{scheduler: slurm, partition: main, minutes: 15, cpus: 1, memory_gb: 2, jobs: 3, poll_seconds: 1, "
    "setup: ['echo set up']}"
)


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


def prepare_there(slurm: dict[str, str], folder: Path, site: str = SITE) -> subprocess.CompletedProcess[str]:
    (folder / "site.yaml").write_text(site)
    command = prepare(folder, "there", "--on", str(folder / "site.yaml"))
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=300)


def test_an_array_writes_the_same_bytes_as_this_machine(slurm: dict[str, str], folder: Path) -> None:
    answer = prepare_there(slurm, folder)
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
    assert "2 levels ready, 0 new" in prepare_there(slurm, folder).stdout


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("echo set up", "exit 7", "parts are not simulated; its logs are in"),
        ("partition: main", "partition: nowhere", "SLURM does not take the jobs: .*[Ii]nvalid partition"),
    ],
)
def test_jobs_that_fail_or_are_refused(slurm: dict[str, str], folder: Path, old: str, new: str, message: str) -> None:
    answer = prepare_there(slurm, folder, SITE.replace(old, new))
    assert answer.returncode == 3
    assert re.search(message, answer.stderr, re.DOTALL)
    assert "Traceback" not in answer.stderr


def test_the_python_of_the_site_simulates(slurm: dict[str, str], folder: Path, tmp_path: Path) -> None:
    box = tmp_path / "box.sh"
    box.write_text(f'#!/bin/sh\necho in the box\nexec {sys.executable} "$@"\n')
    box.chmod(0o700)
    (folder / "suite.yaml").write_text(SUITE.replace("[0, 3]", "0"))
    answer = prepare_there(slurm, folder, SITE.replace("jobs: 3,", f"jobs: 1, python: {box},"))
    assert answer.returncode == 0, answer.stderr
    logs = [path.read_text() for path in (folder / "there").rglob("*_log.out")]
    assert len(logs) == 1
    assert "in the box" in logs[0]
