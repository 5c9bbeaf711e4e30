"""Probes: measured times, estimates of cells, and the kinds of cells that they are about."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import store_in, suite_in, symbench

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.planning.probe import STEPS, _Clock, _windows, measure
from benchmark.planning.step_timing import StepTiming, kind
from benchmark.suite import loading as suites
from benchmark.training.distributed import World
from cluster.jobs.packing import Shape
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm import probes as pacing
from cluster.slurm.probe_results import ProbeResults
from results.store.store import Store

TIMING = StepTiming(step=2.0, forecast=0.5, data="real")
SITE = Site(scheduler="slurm", partition="main")


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return suites.load(str(suite_in(tmp_path, models="[{convnet: {hidden: 4}}]"))).cells[0]


def changed(cell: Cell, part: str, **update: Any) -> Cell:
    return cell.model_copy(update={part: getattr(cell, part).model_copy(update=update)})


def test_a_cell_takes_its_steps_and_its_forecasts(cell: Cell) -> None:
    """disjoint, 50 frames of 4 + 4 runs, 1 + 2 frames: counted by hand from the protocol."""
    from benchmark.data import dataset_registry

    splits = dataset_registry.dataset(cell.dataset.name).splits(cell.protocol, cell.dataset.preset)
    windows = {name: len(split.runs) * len(split.starts) for name, split in splits.items()}
    steps = windows["train"] // 8 * 3
    forecasts = 3 * windows["validation"] * 2 + (windows["future"] + windows["domain"]) * 4
    assert TIMING.seconds(cell) == pytest.approx(2.0 * steps + 0.5 * forecasts)
    assert TIMING.seconds(changed(cell, "train", epochs=6)) - TIMING.seconds(cell) == pytest.approx(
        2.0 * steps + 0.5 * 3 * windows["validation"] * 2
    )


@pytest.mark.parametrize("data", ["real", "random"])
def test_a_few_real_steps_are_timed(cell: Cell, tmp_path: Path, data: str) -> None:
    folder = store_in(tmp_path / "store").data_folder if data == "real" else tmp_path / "nothing"
    timing = measure(cell, World(), folder)
    assert timing is not None
    assert timing.data == data
    assert timing.step > 0
    assert timing.forecast > 0


def test_a_probe_sees_the_field_in_the_layout_of_the_training(cell: Cell, tmp_path: Path) -> None:
    folder = store_in(tmp_path / "store").data_folder
    seen, turned = (
        _windows(changed(cell, "dataset", layout=layout), World(), folder)[0]["train"].field
        for layout in ("physical", "published")
    )
    assert not torch.equal(seen, seen.mT)
    assert torch.equal(turned, seen.mT)
    assert turned.is_contiguous()


def test_warm_up_is_not_counted_and_slow_steps_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("benchmark.planning.probe.time.perf_counter", lambda: now)

    def asked(durations: list[float]) -> tuple[int, float]:
        nonlocal now
        clock = _Clock(torch.device("cpu"), warm_up=1)
        for number, each in enumerate(durations):
            if clock():
                return number, clock.step_seconds()
            now += each
        raise AssertionError("it was never told to stop")

    assert asked([9.0] + 20 * [1.0]) == (1 + STEPS, 1.0)
    assert asked([9.0] + 20 * [30.0]) == (2, 30.0)


@pytest.mark.parametrize(
    ("part", "update"),
    [
        ("model", {"config": {"hidden": 8, "layers": 5, "kernel_size": 3}}),
        ("model", {"name": "coordconv"}),
        ("dataset", {"preset": "paper"}),
        ("dataset", {"name": "smoke_rotation"}),
        ("protocol", {"train_steps": 3}),
        ("protocol", {"input_frames": 2}),
        ("train", {"rollout_steps": 1}),
        ("train", {"batch_size": 4}),
        ("train", {"precision": "bf16"}),
        ("train", {"compile": True}),
    ],
)
def test_another_kind_of_cell_has_no_pace_of_this_one(cell: Cell, tmp_path: Path, part: str, update: Any) -> None:
    step_timings = ProbeResults.here(Store(tmp_path), Shape("cpu", 1))
    step_timings.keep(cell, TIMING)
    assert step_timings.read(cell) == TIMING
    assert step_timings.read(changed(cell, part, **update)) is None


@pytest.mark.parametrize(
    ("part", "update"), [("train", {"epochs": 77}), ("train", {"learning_rate": 0.5}), ("dataset", {"level": 3})]
)
def test_what_takes_no_time_makes_no_other_kind(cell: Cell, part: str, update: Any) -> None:
    assert kind(changed(cell, part, **update)) == kind(cell)
    assert kind(cell.model_copy(update={"seed": 5})) == kind(cell)


def test_another_place_has_no_pace_of_this_one(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, one = Store(tmp_path), Shape("cpu", 1)
    monkeypatch.setattr(slurm, "settings", lambda: {"ClusterName": "north"})
    ProbeResults.on_site(store, SITE, one).keep(cell, TIMING)
    assert ProbeResults.on_site(store, SITE.model_copy(update={"minutes": 5, "jobs": 3}), one).read(cell) == TIMING
    for other in (Shape("cuda", 1), Shape("cpu", 2), Shape("cpu", 2, nodes=2), Shape("cpu", 1, lanes=2)):
        assert ProbeResults.on_site(store, SITE, other).read(cell) is None
    for key, value in (("partition", "big"), ("constraint", "a100"), ("cpus", 2), ("python", "python3")):
        assert ProbeResults.on_site(store, SITE.model_copy(update={key: value}), one).read(cell) is None
    own = SITE.model_copy(update={"cpu_partition": "small"})
    assert ProbeResults.on_site(store, own, one).read(cell) is None
    gpu = Shape("cuda", 1)
    assert ProbeResults.on_site(store, own, gpu).path(cell) == ProbeResults.on_site(store, SITE, gpu).path(cell)
    assert ProbeResults.here(store, one).read(cell) is None
    monkeypatch.setattr(slurm, "settings", lambda: {"ClusterName": "south"})
    assert ProbeResults.on_site(store, SITE, one).read(cell) is None


def test_other_threads_have_no_pace_of_these(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.capacity.available_cpus", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    ProbeResults.here(Store(tmp_path), Shape("cpu", 1)).keep(cell, TIMING)
    assert ProbeResults.here(Store(tmp_path), Shape("cpu", 1)).read(cell) == TIMING
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert ProbeResults.here(Store(tmp_path), Shape("cpu", 1)).read(cell) is None


def test_a_file_that_cannot_be_read_is_measured_again(cell: Cell, tmp_path: Path) -> None:
    step_timings = ProbeResults.here(Store(tmp_path), Shape("cpu", 1))
    step_timings.keep(cell, TIMING)
    step_timings.path(cell).write_text("{")
    assert step_timings.read(cell) is None
    assert step_timings.unmeasured([cell, cell.model_copy(update={"seed": 1})]) == [cell]


def test_patience_ends_and_the_job_is_cancelled(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Executor:
        def submit(self, *arguments: object) -> Any:
            return type("Sent", (), {"job_id": "12"})()

    cancelled: list[list[str]] = []
    monkeypatch.setattr(pacing, "executor_for", lambda *arguments: Executor())
    monkeypatch.setattr(slurm, "settings", lambda: {})
    monkeypatch.setattr(slurm, "queue_with_reasons", lambda: {"12": "PENDING"})
    monkeypatch.setattr(slurm, "call", lambda *command, **more: None)
    monkeypatch.setattr(slurm, "cancel", lambda jobs: cancelled.append(list(jobs)))
    lines: list[str] = []
    with pytest.raises(
        MachineError, match=r"job 12, is PENDING after 0 s and was cancelled; wait longer with --patience"
    ):
        pacing.probe_on_site([cell], store_in(tmp_path / "store"), SITE, Shape("cpu", 1), 0.0, lines.append)
    assert cancelled == [["12"]]
    assert lines == ["probe: job 12 times 1 kind of cells", "probe: job 12 is PENDING"]


def test_plan_probes_once_and_uses_it_from_then_on(tmp_path: Path) -> None:
    """For real; a model that breaks is named, and the others are timed."""
    store = store_in(tmp_path / "store")
    suite = suite_in(tmp_path, models="[persistence, {convnet: {hidden: 4}}, broken]", seeds="[0, 1]")
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from benchmark.models.convnet import ConvNet\n\n\n"
        "class Broken(ConvNet):\n"
        "    def forward(self, x_BTCHW):\n"
        "        if x_BTCHW.abs().sum() > 0:\n"
        "            raise ValueError('out of order')\n"
        "        return super().forward(x_BTCHW)\n"
    )
    first = symbench("plan", suite, "--probe", "--json", "--plugin", plugin, store=store)
    assert first.returncode == 0, first.stderr
    assert "not probed: broken on smoke_rotation_levels (tiny): ValueError: out of order" in first.stderr
    basis = {row["model"]: row["estimate"] for row in json.loads(first.stdout)["rows"]}
    assert basis == {"persistence": "from FLOPs", "convnet": "probe", "broken": "from FLOPs"}
    assert len(list((store.root / "step_timings").glob("*.json"))) == 1
    again = symbench("plan", suite, "--json", "--plugin", plugin, store=store)
    one, other = ({row["model"]: row for row in json.loads(done.stdout)["rows"]} for done in (first, again))
    assert one["convnet"] == other["convnet"]
