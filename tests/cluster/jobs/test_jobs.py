"""Division of cells into jobs, batch scripts, output of SLURM's commands and classes of failures, without SLURM."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fake_slurm import FakeSlurm
from support import suite_in

from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.suite import loading as suites
from benchmark.suite.suite import Resources, Suite
from cluster.jobs import failures, policies
from cluster.jobs.packing import Shape, affordable_cells, pack, shape_of, shapes
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.in_queue import InQueue
from cluster.slurm.submissions import Submission, queued_ids
from cluster.slurm.submit import batches, script
from cluster.slurm.work import require_enough_time
from results.store.store import Store

SITE = Site(
    scheduler="slurm", gpus_per_node=4, cpus=8, memory_gb=32.0, minutes=240, job_minutes=30, max_array_size=1000
)


def suite_of(folder: Path, resources: str = "{}", seeds: int = 3, name: str = "many") -> Suite:
    path = suite_in(folder, "[persistence, {convnet: {hidden: 4}}]", str(list(range(seeds))))
    text = path.read_text().replace("{ranks: 1}", resources).replace("name: tiny", f"name: {name}")
    path.write_text(text, encoding="utf-8")
    return suites.load(str(path))


def seconds_of(cells: tuple[Cell, ...], each: float) -> dict[str, float]:
    return {cell.id: each for cell in cells}


@pytest.mark.parametrize(
    ("each", "jobs"),
    [(1.0, 1), (60.0, 3), (1800.0, 90), (7200.0, 90)],
    ids=["short cells share one job", "half-hour jobs", "one cell in each job", "long cells are not divided"],
)
def test_jobs_have_the_target_duration(tmp_path: Path, each: float, jobs: int) -> None:
    cells = suite_of(tmp_path, seeds=90).cells[1:]
    packed = pack(cells, seconds_of(cells, each), SITE, Shape("cpu", 1))
    assert len(packed) == jobs
    assert sorted(cell.id for job in packed for cell in job) == sorted(cell.id for cell in cells)
    sizes = [len(job) for job in packed]
    assert max(sizes) - min(sizes) <= 1


def test_jobs_have_few_cells_and_equal_work(tmp_path: Path) -> None:
    cells = suite_of(tmp_path, seeds=90).cells[1:]
    few = SITE.model_copy(update={"cells_per_job": 20})
    assert sorted(len(job) for job in pack(cells, seconds_of(cells, 0.1), few, Shape("cpu", 1))) == [18] * 5
    seconds = {cell.id: float(6 * number) for number, cell in enumerate(cells)}
    work = [sum(seconds[cell.id] for cell in job) for job in pack(cells, seconds, SITE, Shape("cpu", 1))]
    assert len(work) == 13
    assert max(work) - min(work) <= 6 * len(work)


def test_a_budget_pays_for_complete_seeds_of_all_models(tmp_path: Path) -> None:
    path = suite_in(tmp_path, "[persistence, {convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", "[0, 1, 2]")
    path.write_text(path.read_text().replace("level: 0", "level: [0, 3]"))
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


@pytest.mark.parametrize(("epochs", "each"), [("3", 3), ("[2, 4]", 6)])
def test_a_budget_pays_for_relaxed_models_as_for_strict_ones(tmp_path: Path, epochs: str, each: int) -> None:
    """The training of a relaxed model has a rate that strict ones lack; and a suite may have an axis of trainings."""
    models = "[{convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}, {relaxed_steerable_rotation: {hidden: 2}}]"
    path = suite_in(tmp_path, models, "[0, 1]")
    path.write_text(path.read_text().replace("level: 0", "level: [0, 3]").replace("epochs: 3", f"epochs: {epochs}"))
    cells = suites.load(str(path)).cells
    assert len(cells) == 4 * each
    kept = affordable_cells(cells, seconds_of(cells, 1.0), 2.0 * each - 1)
    assert len(kept) == each
    assert {(cell.dataset.level, cell.seed) for cell in kept} == {(0, 0)}


def test_arrays_are_split_at_max_array_size(tmp_path: Path) -> None:
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
def test_resources_of_a_suite_give_the_shape_of_jobs(tmp_path: Path, resources: str, shape: Shape) -> None:
    suite = suite_of(tmp_path, resources)
    untrained, trained = shapes(suite, suite.cells, SITE)
    assert (untrained, trained) == (Shape("cpu", 1), shape)


def test_one_rank_cells_share_a_gpu(tmp_path: Path) -> None:
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
def test_resources_that_the_site_lacks_are_refused(tmp_path: Path, resources: str, message: str) -> None:
    suite = suite_of(tmp_path, resources)
    with pytest.raises(UserError, match=message):
        shapes(suite, suite.cells, SITE)


def test_a_cell_longer_than_all_requeues_is_refused(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    cells = suite.cells
    require_enough_time(suite, cells, seconds_of(cells, 60 * 240 * 21.0), SITE)
    with pytest.raises(UserError, match=r"about 8\d h, and a job has 240 minutes 21 times"):
        require_enough_time(suite, cells, seconds_of(cells, 60 * 240 * 21.5), SITE)
    longer = replace(suite, resources=Resources(minutes=300))
    require_enough_time(longer, cells, seconds_of(cells, 60 * 300 * 21.0), SITE)


def test_a_model_may_have_resources_of_its_own(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "{gpus: 4}")
    wide = suite.cells[1]
    suite = replace(suite, own_resources={wide.id: Resources(gpus=1, minutes=120)})
    cpu, many, own = shapes(suite, [suite.cells[0], suite.cells[2], wide], SITE)
    assert (cpu, many, own) == (Shape("cpu", 1), Shape("cuda", 4), Shape("cuda", 1, minutes=120))
    work = batches(suite, suite.cells, seconds_of(suite.cells, 1800.0), SITE)
    times = {batch.shape: script(suite, Store(tmp_path), SITE, batch) for batch in work}
    assert [("--time=120" in times[own], "--gpus-per-node=1" in times[own])] == [(True, True)]
    assert "--time=240" in times[many]
    for resources, message in (
        (Resources(gpus=8), "convnet: resources.gpus: 8 on each of 1 nodes; the site has 4"),
        (Resources(minutes=2), "convnet: resources.minutes: 2 end before the site's signal_seconds, 120"),
    ):
        with pytest.raises(UserError, match=message):
            shapes(replace(suite, own_resources={wide.id: resources}), suite.cells, SITE)


def test_batch_script(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "{gpus: 8, nodes: 2}", name="a 'suite' of \"ours\" é; rm -rf /")
    names = {"partition": "gpu", "cpu_partition": "small", "account": "us", "gres": "gpu:a100"}
    site = SITE.model_copy(update=names | {"setup": ("module load cuda",), "srun": ("--mpi=none",)})
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
    assert "--cpus-per-task=8 --wait=60 --kill-on-bad-exit=0 --mpi=none" in srun
    assert "'" + str(tmp_path / "my store") in srun
    assert lines.index(srun) < lines.index("status=$?") < lines.index("exit $status")
    on_cpus = script(suite, Store(tmp_path), site, untrained)
    assert "#SBATCH --partition=small" in on_cpus
    assert "--gres" not in on_cpus


def test_the_end_of_one_lane_does_not_end_the_others(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    site = SITE.model_copy(update={"cells_per_gpu": 4, "srun": ("--mpi=none",)})
    _, trained = batches(suite, suite.cells, seconds_of(suite.cells, 1800.0), site)
    srun = next(line for line in script(suite, Store(tmp_path), site, trained).splitlines() if line.startswith("srun"))
    assert "--wait=0 --kill-on-bad-exit=0 --mpi=none" in srun


def test_output_of_squeue_and_sacct(fake: FakeSlurm) -> None:
    fake.says("squeue", "12_3 RUNNING", "12_4 PENDING", "15 COMPLETING")
    assert slurm.queue() == {"12_3": "RUNNING", "12_4": "PENDING", "15": "COMPLETING"}
    fake.says("sacct", "16|FAILED", "16.batch|FAILED", "16.0|OUT_OF_MEMORY", "17|TIMEOUT", "17.0|OUT_OF_MEMORY")
    assert slurm.accounting_states(["16", "17"]) == {"16": "OUT_OF_MEMORY", "17": "TIMEOUT"}
    fake.says("sacct", "12_0|COMPLETED", "12_1|CANCELLED by 1000", "12_[2-4,7%2]|PENDING", "15|NODE_FAIL", "15|TIMEOUT")
    assert slurm.accounting_states(["12_0", "15"]) == {
        "12_0": "COMPLETED",
        "12_1": "CANCELLED by 1000",
        **{f"12_{index}": "PENDING" for index in (2, 3, 4, 7)},
        "15": "TIMEOUT",
    }


def test_no_answer_of_the_controller_is_no_empty_queue(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.script("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller'; exit 1")
    fake.script("sacct", "exit 1")
    assert slurm.queue() is None
    assert slurm.accounting_states(["12"]) == {}
    store, suite = Store(tmp_path / "runs"), suite_of(tmp_path)
    jobs = {"12": ("a",)}
    submission = Submission(suite="many", suite_file=suite.path, store=store.root, site=SITE, plugins=(), jobs=jobs)
    note = store.root / "jobs" / "sent" / "submission.json"
    note.parent.mkdir(parents=True)
    note.write_text(submission.model_dump_json())
    with pytest.raises(MachineError, match="squeue does not answer"):
        queued_ids(store, Submission)
    assert InQueue.now(store).queue is None
    fake.says("squeue", "12 RUNNING")
    assert InQueue.now(store).cells == queued_ids(store, Submission) == {"a"}
    fake.says("squeue", "12 COMPLETING")
    assert InQueue.now(store).cells == queued_ids(store, Submission) == set(), (
        "a cancelled job can be sent again at once"
    )


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "gpu_out_of_memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "gpu_out_of_memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "gpu_out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), "gpu_out_of_memory"),
        (
            dist.DistBackendError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
            "gpu_out_of_memory",
        ),
        (dist.DistBackendError("NCCL error: remote process exited"), "communication"),
        (MemoryError(), "host_out_of_memory"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:598] Connection closed by peer [10.0.0.2]:1"), "communication"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "code_error"),
        (UserError("no"), "input"),
        (MachineError("disk full"), "machine"),
        (SystemExit(0), "code_error"),
    ],
)
def test_class_of_an_error(error: BaseException, failure: str) -> None:
    assert failures.classify_exception(error) == failure
    assert failure in policies.POLICIES


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
def test_class_of_an_ended_job(state: str, failure: str) -> None:
    assert policies.classify_job_state(state) == failure
    assert failure in policies.POLICIES


def test_the_documentation_names_every_class_and_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text(encoding="utf-8")
    named = itertools.chain(policies.POLICIES, (key for key in Site.model_fields if key != "scheduler"))
    assert [name for name in named if f"`{name}`" not in page] == []
