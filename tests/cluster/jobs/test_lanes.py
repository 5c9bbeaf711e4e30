"""Lanes on this machine: their number, their GPUs and threads, and the display of their progress."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from support import suite_in

from benchmark.cli.main import cli
from benchmark.errors import MachineError, UserError
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from benchmark.training import machine as machine_facts
from benchmark.training.recorder import Epoch, Status
from cluster.jobs import capacity, launch, worker
from cluster.jobs.capacity import shape_here
from cluster.jobs.display import MAX_LINES, Display
from cluster.jobs.job import Job
from cluster.jobs.packing import Shape
from results.store.record import Record
from results.store.store import Store

ShapeOn = Callable[..., Shape]


def suite_of(folder: Path, resources: str = "{ranks: 1}", seeds: int = 4) -> Suite:
    path = suite_in(folder, models="[persistence, {convnet: {hidden: 4}}]", seeds=str(list(range(seeds))))
    path.write_text(path.read_text().replace("{ranks: 1}", resources))
    return suites.load(str(path))


def machine(patch: pytest.MonkeyPatch, cpus: int = 8, gpus: int = 0, gigabytes: float = 100.0) -> None:
    patch.setattr(capacity, "available_cpus", lambda: cpus)
    patch.setattr(capacity, "gpu_count", lambda: gpus)
    patch.setattr(capacity, "memory_bytes", lambda: gigabytes * 1e9)
    patch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def shape_on(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> ShapeOn:
    """Shape of a suite with these resources, and `--parallel`, on a machine with this hardware."""

    def shape(resources: str, parallel: int | None, **hardware: Any) -> Shape:
        machine(monkeypatch, **hardware)
        return shape_here(suite_of(tmp_path, resources), store, parallel)

    return shape


@pytest.mark.parametrize(
    ("resources", "hardware", "parallel", "lanes"),
    [
        ("{ranks: 1}", {"cpus": 2}, None, 2),
        ("{ranks: 1}", {"cpus": 1}, None, 1),
        ("{ranks: 1}", {"cpus": 8}, None, 4),  # one for each trained cell
        ("{ranks: 1}", {"cpus": 8, "gigabytes": 2.5}, None, 2),
        ("{ranks: 1}", {"cpus": 8, "gigabytes": 0.1}, None, 1),
        ("{ranks: 1}", {"cpus": 8, "gigabytes": 0.1}, 3, 3),  # --parallel overrides memory
        ("{ranks: 1}", {"cpus": 1}, 99, 4),
        ("{ranks: 2}", {"cpus": 7}, None, 3),
        ("{ranks: 2}", {"cpus": 2}, None, 1),
        ("{gpus: 1}", {"gpus": 1}, None, 1),
        ("{gpus: 1}", {"gpus": 3}, None, 3),
        ("{gpus: 2}", {"gpus": 5}, None, 2),
        ("{gpus: 1}", {"gpus": 1}, 3, 3),
    ],
)
def test_lanes(shape_on: ShapeOn, resources: str, hardware: dict[str, float], parallel: int, lanes: int) -> None:
    assert shape_on(resources, parallel, **hardware).lanes == lanes


def test_memory_limits_lanes_of_published_size(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = suite_in(tmp_path, seeds=str(list(range(9))))
    text = path.read_text().replace("preset: tiny", "preset: paper").replace("train_steps: 2", "train_steps: 6")
    path.write_text(text.replace("batch_size: 8", "batch_size: 16"))
    suite = suites.load(str(path))
    machine(monkeypatch, cpus=64, gigabytes=30.0)
    assert shape_here(suite, store).lanes == 5
    machine(monkeypatch, cpus=64, gpus=8, gigabytes=30.0)
    assert shape_here(suite, store).lanes == 8  # fields are in GPU memory


@pytest.mark.parametrize("steps", ["[1, 6]", "[6, 1]"])
def test_the_longest_roll_out_limits_lanes(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, steps: str
) -> None:
    path = suite_in(tmp_path, seeds=str(list(range(9))))
    text = path.read_text().replace("preset: tiny", "preset: paper").replace("train_steps: 2", "train_steps: 6")
    path.write_text(text.replace("batch_size: 8", f"batch_size: 64, rollout_steps: {steps}"))
    machine(monkeypatch, cpus=8, gigabytes=30.0)
    assert shape_here(suites.load(str(path)), store).lanes == 1  # 20 GB of six steps, 4 GB of one


@pytest.mark.parametrize(
    ("chosen", "resources", "parallel", "gpus"),
    [
        (None, "{gpus: 1}", None, ["0", "1", "2", "3"]),
        ("4,5,6,7", "{gpus: 2}", None, ["4,5", "6,7"]),
        ("4,5,6,7", "{gpus: 1}", 2, ["4", "5"]),
        ("GPU-a,GPU-b,GPU-c,GPU-d", "{gpus: 2}", 4, ["GPU-a,GPU-b", "GPU-c,GPU-d"] * 2),
    ],
)
def test_each_lane_sees_its_own_gpus(
    shape_on: ShapeOn,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str | None,
    resources: str,
    parallel: int,
    gpus: list[str],
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    shape = shape_on(resources, parallel, gpus=4)
    assert [launch._gpus_of(lane, shape) for lane in range(shape.lanes)] == gpus


MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-8a4b5c1e-0d2f-4b6a-9c3e-1f5d7b9a2c40)
  MIG 3g.20gb     Device  0: (UUID: MIG-b2d1f0a9-3c4e-5d6f-8a7b-9c0d1e2f3a41)
  MIG 1g.5gb      Device  1: (UUID: MIG-c3e2a1ba-4d5f-5e70-9b8c-0d1e2f3a4b52)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9b5c6d2f-1e30-5c7b-8d4f-2a6e8c0b3d51)
"""
"""Output of `nvidia-smi -L` in the layout of NVIDIA's MIG user guide; the first GPU is divided."""
SLICES = ["MIG-b2d1f0a9-3c4e-5d6f-8a7b-9c0d1e2f3a41", "MIG-c3e2a1ba-4d5f-5e70-9b8c-0d1e2f3a4b52"]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A command nvidia-smi, and a driver, that give these answers."""

    def install(listed: str, mode: str = "Default") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n[ $1 = -L ] && echo '{listed}' || echo {mode}\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setattr("benchmark.training.machine.GPU_DRIVERS", (str(folder),))
        machine_facts._nvidia_smi.cache_clear()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    yield install
    machine_facts._nvidia_smi.cache_clear()


def test_each_lane_has_a_mig_slice(
    tmp_path: Path, store: Store, nvidia_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(MIG)
    for resources in ("{gpus: 1}", "{ranks: 2}"):  # two ranks would share a GPU, which NCCL refuses
        shape = shape_here(suite_of(tmp_path, resources), store)
        assert shape == Shape("cuda", 1, lanes=2)
        assert [launch._gpus_of(lane, shape) for lane in range(3)] == [*SLICES, SLICES[0]]
    with pytest.raises(MachineError, match=r"resources.gpus: 2, but a cell has one MIG slice; use `gpus: 1`"):
        shape_here(suite_of(tmp_path, "{gpus: 2}"), store)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", SLICES[1])
    assert machine_facts.gpu_count() == 1


def test_no_two_processes_on_an_exclusive_gpu(
    tmp_path: Path, store: Store, nvidia_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi("GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-8a4b5c1e)", "Exclusive_Process")
    machine(monkeypatch, gpus=2)
    suite = suite_of(tmp_path, "{gpus: 1}")
    assert shape_here(suite, store).lanes == 2
    with pytest.raises(MachineError, match=r"--parallel 3: a GPU here takes one process \(Exclusive_Process\)"):
        shape_here(suite, store, parallel=3)


@pytest.mark.parametrize(
    ("visible", "device", "chosen"),
    [(",".join(SLICES), "cuda", SLICES), ("0,1", "cuda", ["0,1"] * 2), (SLICES[1], "cuda", [SLICES[1]] * 2)],
)
def test_a_lane_of_a_slurm_job_takes_one_of_its_slices(
    tmp_path: Path, visible: str, device: str, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(store=tmp_path, cells=(), plugins=(), device=device, ranks=1, lanes=2, threads=1)
    seen = []
    for local_rank in (0, 1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        worker._choose_slice(job, local_rank)
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == chosen


def test_ranks_share_the_threads(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cpus=19)
    for resources, threads in (("{ranks: 1}", 4), ("{ranks: 2}", 2), ("{ranks: 8}", 1)):
        suite = suite_of(tmp_path, resources)
        shape = shape_here(suite, store)
        assert f'"threads": {threads},' in launch.local_job(store, suite.cells, shape, None).read_text()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [capacity.threads_of(Shape("cpu", ranks)) for ranks in (1, 2, 8)] == [3, 3, 2]


def test_a_selection_is_planned_with_the_lanes_of_the_suite(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites_seen: list[Suite] = []

    def shape(suite: Suite, store: Store, parallel: int | None) -> Shape:
        suites_seen.append(suite)
        return Shape("cpu", 1)

    monkeypatch.setattr(capacity, "shape_here", shape)
    suite = suite_of(tmp_path)
    (path,) = tmp_path.glob("*.yaml")
    result = CliRunner().invoke(cli, ["plan", str(path), "--only", "model=persistence", "--store", str(store.root)])
    assert result.exit_code == 0, result.output
    assert "1 cells: 0 finished" in result.output
    assert [len(seen.cells) for seen in suites_seen] == [len(suite.cells)]


def test_wrong_values_of_parallel() -> None:
    run = ["run", "quickstart", "--parallel"]
    result = CliRunner().invoke(cli, [*run, "2", "--on", "gpu-cluster"])
    assert isinstance(result.exception, UserError)
    assert "cells_per_gpu in the site's file" in str(result.exception)
    for value in ("0", "-1", "two"):
        result = CliRunner().invoke(cli, [*run, value])
        assert result.exit_code == 2
        assert "Invalid value for '--parallel'" in result.output


def test_running_cells_have_a_line_and_ended_ones_are_announced_once(tmp_path: Path) -> None:
    cells = suite_of(tmp_path, seeds=MAX_LINES + 2).cells[1:]
    history = (Epoch(1, 0.5, 0.5, 0.25, 1e-3, 1.0),)
    running = {cell.id: Record(cell, Status("running", epoch=1, epochs=3), {}, history, {}, tmp_path) for cell in cells}
    failed = Record(cells[0], Status("failed", failure="killed", message="[red]"), {}, (), {}, tmp_path)
    for is_terminal in (True, False):
        out = io.StringIO()
        with Display(Console(file=out, force_terminal=is_terminal, width=120)) as display:
            display.begin(cells, {})
            display.show(running)
            display.refresh()
            shown = out.getvalue()
            for _ in range(2):
                display.show(running | {cells[0].id: failed})
        assert shown.count("epoch 1/3, validation RMSE 0.250") == (MAX_LINES if is_terminal else 0)
        assert ("and 2 more" in shown) == is_terminal
        assert out.getvalue().count("[red]") == 1
        assert (f"1/{len(cells)} " in out.getvalue().splitlines()[0]) == (not is_terminal)
