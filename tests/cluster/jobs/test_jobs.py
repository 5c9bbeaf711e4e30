"""How cells become jobs, what sbatch is given, and what is made of what SLURM says: no SLURM is needed here."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from cluster.jobs import failures
from cluster.jobs.packing import Shape, affordable_cells, pack, shape_of, shapes
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.collector import collect
from cluster.slurm.submissions import Submission, queued_cells, queued_ids
from cluster.slurm.submit import batches, script, submit
from cluster.slurm.work import require_enough_time
from results.store.store import Store

SITE = Site(
    scheduler="slurm", gpus_per_node=4, cpus=8, memory_gb=32.0, minutes=240, job_minutes=30, max_array_size=1000
)


def suite_of(folder: Path, resources: str = "{}", seeds: int = 3, name: str = "many") -> Suite:
    path = folder / "many.yaml"
    path.write_text(
        f"name: {name}\nprotocol: {{input_frames: 1, train_steps: 2, test_steps: 4}}\n"
        "datasets: [{smoke_rotation_levels: {level: 0, preset: small}}]\n"
        f"models: [persistence, {{convnet: {{hidden: 4}}}}]\nseeds: {list(range(seeds))}\n"
        f"train: {{epochs: 2, batch_size: 8}}\nresources: {resources}\n",
        encoding="utf-8",
    )
    return suites.load(str(path))


def seconds_of(cells: tuple[Cell, ...], each: float) -> dict[str, float]:
    return {cell.id: each for cell in cells}


@pytest.mark.parametrize(
    ("each", "jobs"),
    [(1.0, 1), (60.0, 3), (1800.0, 90), (7200.0, 90)],
    ids=["trivial cells share one job", "half-hour jobs", "a job for each", "long cells are not divided"],
)
def test_cells_are_packed_into_jobs_of_the_wanted_length(tmp_path: Path, each: float, jobs: int) -> None:
    cells = suite_of(tmp_path, seeds=90).cells[1:]
    packed = pack(cells, seconds_of(cells, each), SITE, Shape("cpu", 1))
    assert len(packed) == jobs
    assert sorted(cell.id for job in packed for cell in job) == sorted(cell.id for cell in cells)
    sizes = [len(job) for job in packed]
    assert max(sizes) - min(sizes) <= 1


def test_no_job_has_more_cells_than_allowed_and_work_is_even(tmp_path: Path) -> None:
    cells = suite_of(tmp_path, seeds=90).cells[1:]
    few = SITE.model_copy(update={"cells_per_job": 20})
    assert sorted(len(job) for job in pack(cells, seconds_of(cells, 0.1), few, Shape("cpu", 1))) == [18] * 5
    seconds = {cell.id: float(6 * number) for number, cell in enumerate(cells)}
    work = [sum(seconds[cell.id] for cell in job) for job in pack(cells, seconds, SITE, Shape("cpu", 1))]
    assert len(work) == 13
    assert max(work) - min(work) <= 6 * len(work)


def test_a_budget_pays_for_whole_seeds_of_all_models(tmp_path: Path) -> None:
    path = tmp_path / "fair.yaml"
    path.write_text(
        "name: fair\nprotocol: {input_frames: 1, train_steps: 2, test_steps: 4}\n"
        "datasets: [{smoke_rotation_levels: {level: [0, 3], preset: small}}]\n"
        "models: [persistence, {convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]\n"
        "seeds: [0, 1, 2]\ntrain: {batch_size: 8}\n"
    )
    cells = suites.load(str(path)).cells
    cost = {cell.id: {"persistence": 0.0, "convnet": 1.0, "e2cnn": 9.0}[cell.model.name] for cell in cells}

    def chosen(budget: float) -> set[tuple[object, ...]]:
        kept = [cell for cell in affordable_cells(cells, cost, budget) if cell.model.name != "persistence"]
        return {(cell.seed, cell.dataset.level, cell.model.name) for cell in kept}

    both = ("convnet", "e2cnn")
    assert chosen(9.9) == set()
    assert chosen(19.9) == {(0, 0, name) for name in both}
    assert chosen(35.0) == {(0, 0, n) for n in both} | {(0, 3, n) for n in both} | {(1, 0, n) for n in both}
    assert len(affordable_cells(cells, cost, 60.0)) == len(cells)


def test_arrays_are_split_at_the_limit(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, seeds=90)
    small = SITE.model_copy(update={"max_array_size": 40})
    work = batches(suite, suite.cells, seconds_of(suite.cells, 7200.0), small)
    assert [len(batch.jobs) for batch in work] == [1, 40, 40, 10]
    assert {batch.shape for batch in work[1:]} == {work[1].shape}


@pytest.mark.parametrize(
    ("resources", "shape"),
    [
        ("{gpus: 8, nodes: 2}", Shape("cuda", 8, nodes=2)),
        ("{gpus: 0, ranks: 4}", Shape("cpu", 4)),
        ("{ranks: 2}", Shape("cuda", 2)),
    ],
)
def test_a_suite_says_what_a_cell_needs(tmp_path: Path, resources: str, shape: Shape) -> None:
    suite = suite_of(tmp_path, resources)
    untrained, trained = shapes(suite, suite.cells, SITE)
    assert (untrained, trained) == (Shape("cpu", 1), shape)


def test_small_cells_share_a_gpu_side_by_side(tmp_path: Path) -> None:
    shared = SITE.model_copy(update={"cells_per_gpu": 4})
    shape = shape_of(suite_of(tmp_path).resources, shared, [8])
    assert shape == Shape("cuda", 1, lanes=4)
    assert (shape.tasks_per_node, shape.gpus_per_node(shared)) == (4, 1)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("{gpus: 8}", "resources.gpus: 8 on each of 1 nodes; the site has 4"),
        ("{gpus: 4, nodes: 3}", "4 ranks cannot be spread evenly over 3 nodes"),
    ],
)
def test_what_the_site_does_not_have_is_refused(tmp_path: Path, resources: str, message: str) -> None:
    suite = suite_of(tmp_path, resources)
    with pytest.raises(UserError, match=message):
        shapes(suite, suite.cells, SITE)


def test_a_cell_that_can_never_end_is_refused(tmp_path: Path) -> None:
    cells = suite_of(tmp_path).cells
    require_enough_time(cells, seconds_of(cells, 60 * 240 * 21.0), SITE)
    with pytest.raises(UserError, match=r"about 8\d h, and a job has 240 minutes 21 times"):
        require_enough_time(cells, seconds_of(cells, 60 * 240 * 21.5), SITE)


def test_the_text_that_sbatch_gets(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "{gpus: 8, nodes: 2}", name="a 'suite' of \"ours\" é; rm -rf /")
    site = SITE.model_copy(
        update={
            "partition": "gpu",
            "account": "us",
            "setup": ("module load cuda",),
            "gres": "gpu:a100",
            "srun": ("--mpi=none",),
        }
    )
    untrained, trained = batches(suite, suite.cells, seconds_of(suite.cells, 1800.0), site)
    text = script(suite, Store(tmp_path / "my store"), site, trained)
    lines = text.splitlines()
    for line in (
        "#SBATCH --array=0-2%3",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=us",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=131072M",
        "#SBATCH --gres=gpu:a100:4",
        "#SBATCH --time=240",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "module load cuda",
    ):
        assert line in lines, line
    name = next(line for line in lines if "--job-name" in line)
    assert name == """#SBATCH --job-name='symbench a '"'"'suite'"'"' of "ours" é; rm -rf /'"""
    srun = next(line for line in lines if line.startswith("srun"))
    assert "--cpus-per-task=8 --mpi=none" in srun
    assert "'" + str(tmp_path / "my store") in srun
    assert "--wait" not in srun
    assert lines.index(srun) < lines.index("status=$?") < lines.index("exit $status")
    assert "--gres" not in script(suite, Store(tmp_path), site, untrained)


def test_a_lane_that_is_done_does_not_end_the_others(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    site = SITE.model_copy(update={"cells_per_gpu": 4, "srun": ("--mpi=none",)})
    _, trained = batches(suite, suite.cells, seconds_of(suite.cells, 1800.0), site)
    srun = next(line for line in script(suite, Store(tmp_path), site, trained).splitlines() if line.startswith("srun"))
    assert "--wait=0 --kill-on-bad-exit=0 --mpi=none" in srun


def test_a_store_whose_path_slurm_would_rewrite_is_refused(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    with pytest.raises(UserError, match="a path with % in it"):
        submit(suite, Store(tmp_path / "100%"), SITE, (), collect)


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a command on the path that prints a text, in place of SLURM's."""

    def put(command: str, output: str, status: int = 0) -> None:
        path = tmp_path / "bin" / command
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {status}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    return put


def test_the_queue_and_the_accounts_are_read(says: Callable[..., None]) -> None:
    says("squeue", "12_3 RUNNING\n12_4 PENDING\n15 COMPLETING")
    assert slurm.queue() == {"12_3": "RUNNING", "12_4": "PENDING", "15": "COMPLETING"}
    says("sacct", "16|FAILED\n16.batch|FAILED\n16.0|OUT_OF_MEMORY\n17|TIMEOUT\n17.0|OUT_OF_MEMORY")
    assert slurm.accounting_states(["16", "17"]) == {"16": "OUT_OF_MEMORY", "17": "TIMEOUT"}
    says("sacct", "12_0|COMPLETED\n12_1|CANCELLED by 1000\n12_[2-4,7%2]|PENDING\n15|NODE_FAIL\n15|TIMEOUT")
    assert slurm.accounting_states(["12_0", "15"]) == {
        "12_0": "COMPLETED",
        "12_1": "CANCELLED by 1000",
        **{f"12_{index}": "PENDING" for index in (2, 3, 4, 7)},
        "15": "TIMEOUT",
    }


def test_no_answer_is_no_answer(says: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says("squeue", "slurm_load_jobs error: Unable to contact slurm controller", status=1)
    says("sacct", "", status=1)
    assert slurm.queue() is None
    assert slurm.accounting_states(["12"]) == {}
    (tmp_path / "runs" / "jobs" / "sent").mkdir(parents=True)
    suite = suite_of(tmp_path)
    submission = Submission(
        suite="many", suite_file=suite.path, store=tmp_path / "runs", site=SITE, plugins=(), jobs={"12": ("a",)}
    )
    (tmp_path / "runs" / "jobs" / "sent" / "submission.json").write_text(submission.model_dump_json())
    with pytest.raises(MachineError, match="squeue does not answer"):
        queued_ids(Store(tmp_path / "runs"), Submission)
    assert queued_cells(Store(tmp_path / "runs")) == (None, [])
    says("squeue", "12 RUNNING")
    assert queued_cells(Store(tmp_path / "runs")) == ({"a"}, [])


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "gpu_out_of_memory"),
        (MemoryError(), "host_out_of_memory"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:598] Connection closed by peer [10.0.0.2]:1"), "communication"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "code_error"),
        (UserError("no"), "input"),
        (MachineError("disk full"), "machine"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_the_class_of_a_failure(error: BaseException, failure: str) -> None:
    assert failures.classify_exception(error) == failure
    assert failure in failures.POLICIES


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        ("TIMEOUT", "time_limit"),
        ("PREEMPTED", "preempted"),
        ("NODE_FAIL", "node_failure"),
        ("OUT_OF_MEMORY", "host_out_of_memory"),
        ("CANCELLED by 1000", "cancelled"),
        ("FAILED", "killed"),
        ("", "killed"),
    ],
)
def test_the_class_of_a_job_that_ended(state: str, failure: str) -> None:
    assert failures.classify_job_state(state) == failure
    assert failure in failures.POLICIES


def test_the_page_for_clusters_has_every_class_and_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text(encoding="utf-8")
    named = itertools.chain(failures.POLICIES, (key for key in Site.model_fields if key != "scheduler"))
    assert [name for name in named if f"`{name}`" not in page] == []
