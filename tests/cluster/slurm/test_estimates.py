"""Cost of jobs, and the finished cells that estimates use; and checks before anything is sent."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit
from support import suite_in

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.planning import plan
from benchmark.planning.plan import unmeasured
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from benchmark.training.recorder import Status
from cluster.jobs.packing import Shape, require_precision, shapes
from cluster.site import Site
from cluster.slurm import estimates, sbatch, simulate, submit
from cluster.slurm.submit import Batch, Cost
from results.store.record import Record
from results.store.store import Store

SITE = Site(scheduler="slurm", gpus_per_node=4, cells_per_gpu=4, cpus=8, memory_gb=2.0, python="in-a-box python")


def suite_of(folder: Path, resources: str = "{}", precision: str = "fp32") -> Suite:
    path = suite_in(folder, models="[persistence, {convnet: {hidden: 4}}]", seeds="[0, 1, 2, 3]")
    text = path.read_text().replace("{ranks: 1}", resources)
    path.write_text(text.replace("batch_size: 8", f"batch_size: 8, precision: {precision}"))
    return suites.load(str(path))


def cost(shape: Shape, cells: tuple[Cell, ...], each: float) -> Cost:
    return Cost.of([Batch(shape, (cells,))], {cell.id: each for cell in cells}, SITE)


def test_four_cells_that_share_a_gpu_cost_one_gpu(tmp_path: Path) -> None:
    cells = suite_of(tmp_path).cells[1:]
    shared = cost(Shape("cuda", 1, lanes=4), cells, 3600.0)
    assert (shared.longest_seconds, shared.gpu_hours, shared.rank_hours) == (3600.0, 1.0, 0.0)
    assert str(shared) == "1 jobs, the longest about 60 min; 1 GPU-hours"
    alone = cost(Shape("cuda", 1), cells, 3600.0)
    assert (alone.longest_seconds, alone.gpu_hours) == (4 * 3600.0, 4.0)
    over_nodes = cost(Shape("cuda", 8, nodes=2), cells, 3600.0)
    assert over_nodes.gpu_hours == 32.0


def test_the_shape_of_trained_cells_beside_an_untrained_one_that_stands_first(tmp_path: Path) -> None:
    """On CPUs with one rank, persistence has the same shape as the network."""
    suite = suite_of(tmp_path)
    by_shape = shapes(suite, suite.cells, SITE.model_copy(update={"gpus_per_node": 0, "cells_per_gpu": 1}))
    assert [cells[0].model.name for cells in by_shape.values()] == ["persistence"]
    (shape, members), *others = by_shape.items()
    assert (shape, others) == (Shape("cpu", 1), [])
    assert [cell.model.name for cell in unmeasured(members, [])] == ["convnet"], "what a probe times"


def test_a_job_takes_at_least_as_long_as_its_longest_cell(tmp_path: Path) -> None:
    cells = suite_of(tmp_path).cells[1:]
    seconds = dict(zip((cell.id for cell in cells), (400.0, 10.0, 10.0, 10.0), strict=True))
    assert Shape("cuda", 1, lanes=4).job_seconds(cells, seconds) == 400.0
    assert Shape("cuda", 1, lanes=2).job_seconds(cells, seconds) == 400.0
    assert Shape("cuda", 1).job_seconds(cells, seconds) == 430.0


def test_ranks_on_cpus_cost_rank_hours(tmp_path: Path) -> None:
    on_cpus = cost(Shape("cpu", 4), suite_of(tmp_path).cells[1:], 900.0)
    assert (on_cpus.gpu_hours, on_cpus.rank_hours) == (0.0, 4.0)
    assert str(on_cpus).endswith("4 rank-hours")


@pytest.mark.parametrize(
    ("shape", "gpus", "gflops"),
    [
        (Shape("cuda", 2), 4, 30000.0),
        (Shape("cpu", 2), 4, 100.0),  # the default: the site speaks of its GPUs
        (Shape("cpu", 2), 0, 30000.0),
    ],
)
def test_a_site_gives_the_speed_of_its_usual_ranks(shape: Shape, gpus: int, gflops: float) -> None:
    assert shape.gflops(SITE.model_copy(update={"gflops": 15000.0, "gpus_per_node": gpus})) == gflops


def test_cells_on_cpus_of_a_site_with_gpus_take_the_time_of_cpus(tmp_path: Path) -> None:
    suite, store = suite_of(tmp_path, "{gpus: 0}"), Store(tmp_path / "store")
    fast = SITE.model_copy(update={"gflops": 15000.0})
    assert estimates.on_site(suite, suite.cells, {}, fast, store) == estimates.on_site(
        suite, suite.cells, {}, SITE, store
    )


def test_cost_of_no_jobs() -> None:
    assert str(Cost.of([], {}, SITE)) == "0 jobs, the longest about 0 s; 0 rank-hours"


def test_tf32_on_cpus_is_refused(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "{gpus: 0}", "tf32")
    with pytest.raises(UserError, match="tf32 needs a GPU"):
        shapes(suite, suite.cells, SITE)
    with pytest.raises(UserError, match="tf32 needs a GPU"):
        require_precision(suite.cells, "cpu")
    require_precision(suite.cells, "cuda")
    shapes(suite_of(tmp_path, "{gpus: 1}", "tf32"), suite.cells, SITE)


def record(cell: Cell, folder: Path, **environment: Any) -> Record:
    return Record(cell, Status("done"), {"training_seconds": 5.0}, (), environment, folder)


def test_estimates_ignore_cells_of_other_devices_or_ranks(tmp_path: Path) -> None:
    persistence, convnet, *_ = suite_of(tmp_path).cells
    records = [
        record(convnet, tmp_path, device_type="cpu", world_size=1),
        record(persistence, tmp_path, device_type="cpu", world_size=1),
    ]

    def used(shape: Shape) -> list[str]:
        return [timing.cell.model.name for timing in estimates.timings(records, shape)]

    assert used(Shape("cpu", 1)) == ["convnet", "persistence"]
    assert used(Shape("cpu", 2)) == ["persistence"]
    assert used(Shape("cuda", 1)) == ["persistence"]


def test_estimates_prefer_cells_with_the_same_number_of_lanes(tmp_path: Path) -> None:
    _, convnet, *others = suite_of(tmp_path).cells
    beside = [record(convnet, tmp_path, device_type="cpu", world_size=1, lanes=2)]
    alone = [
        replace(record(cell, tmp_path, device_type="cpu", world_size=1), metrics={"training_seconds": 9.0})
        for cell in others
    ]

    def seconds(records: list[Record], lanes: int) -> float:
        timings = estimates.timings(records, Shape("cpu", 1, lanes=lanes))
        return plan.estimates([convnet], timings)[convnet.id].seconds

    assert [seconds(beside + alone, lanes) for lanes in (1, 2)] == [9.0, 5.0]
    assert [seconds(beside, lanes) for lanes in (1, 2)] == [5.0, 5.0]
    assert seconds(alone, 2) == 9.0


@pytest.mark.parametrize(
    ("name", "character"), [("100%", "%"), ("back\\slash", "a backslash"), ("line\nbreak", "a line break")]
)
def test_a_path_that_slurm_would_change_is_refused(
    tmp_path: Path, name: str, character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Any = SimpleNamespace(missing_parts=lambda: ["one"])
    monkeypatch.setattr(sbatch, "job_folder", lambda root: pytest.fail("nothing may be written"))
    suite, store = suite_of(tmp_path), Store(tmp_path / name)
    for send in (
        lambda: simulate.simulate_on(SITE, work, store.root, lambda done, total: None),
        lambda: submit.submit(suite, store, SITE, (), lambda file: None),
        lambda: submit.script(suite, store, SITE, Batch(Shape("cpu", 1), (suite.cells,))),
    ):
        with pytest.raises(UserError, match=f"a path with {character} in it cannot be given to SLURM"):
            send()


def test_the_batch_script_of_a_simulation_uses_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = SITE.model_copy(update={"srun": ("--mpi=none",), "partition": "gpu", "setup": ("module load x",)})
    texts: list[str] = []

    def map_array(executor: Any, function: Any, *files: Any) -> None:
        texts.append(executor._make_submission_file_text(executor._submitit_command_str, ""))

    monkeypatch.setattr(simulate, "executor_for", partial(sbatch.executor_for, dry=True))
    monkeypatch.setattr(submitit.SlurmExecutor, "map_array", map_array)
    simulate._submit(site, tmp_path, tmp_path / "shares.json", 3)
    (text,) = texts
    for part in ("in-a-box python", "--mpi=none", "--cpus-per-task=8", "--partition=gpu", "module load x"):
        assert part in text
    assert "symbench-data" in text
    assert "--gpus" not in text
