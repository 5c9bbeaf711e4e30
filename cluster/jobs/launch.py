"""Runs the unfinished cells of a suite on this machine, through submitit's local executor."""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import submitit
import torch

from benchmark.cell import Cell
from benchmark.data.layout import field_path, require_data
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.models import model_registry
from benchmark.suite.facts import is_trained, task_of
from benchmark.suite.suite import Resources, Suite
from benchmark.training.environment import available_cpus, memory_bytes
from cluster.jobs import failures
from cluster.jobs.display import Display
from cluster.jobs.job import Job
from cluster.jobs.packing import Shape, require_precision
from cluster.jobs.worker import run_job
from results.store.record import Record
from results.store.store import Store

POLL_SECONDS = 0.5
CTRL_C_PATIENCE_SECONDS = 3.0
NO_LIMIT_MINUTES = 60 * 24 * 365
"""submitit's local executor needs a time limit."""
RANK_BYTES = 1e9
"""Memory of a rank without data. Measured: torch 0.25 GB, a network of 5.6 M parameters with its gradients 0.3 GB."""
FIELD_COPIES = 3
"""The field as stored, the field at cell centres, and a temporary copy."""
POINT_BYTES = 12e3
"""Activations for each grid point of a rolled-out batch. Measured on a CPU with batch 16 and 6 steps of 64 x 64: peaks
of 3.3 GB (relaxed steerable), 3.7 GB (ConvNet) and 4.6 GB (relaxed group)."""


@dataclass(frozen=True)
class Outcome:
    """Result of a launch: numbers of trained cells and of cells finished before, and the records of failed ones."""

    done: int
    failed: tuple[Record, ...]
    skipped: int


def local_shape(resources: Resources, batch_sizes: Sequence[int]) -> Shape:
    """Device and ranks of a cell on this machine. Raises MachineError if it has too few GPUs.

    Without `resources.gpus`: as many GPUs as possible, up to `resources.ranks`, that divide every batch size.
    """
    available = torch.cuda.device_count()
    if resources.gpus is not None and resources.gpus > available:
        raise MachineError(f"resources.gpus: the suite needs {resources.gpus}, this machine has {available}")
    gpus = resources.gpus
    if gpus is None:
        usable = range(1, min(resources.ranks, available) + 1)
        gpus = max((n for n in usable if not any(size % n for size in batch_sizes)), default=0)
    return Shape("cuda" if gpus else "cpu", gpus or resources.ranks)


def shape_here(suite: Suite, store: Store, parallel: int | None = None) -> Shape:
    """Device, ranks and lanes of a suite on this machine. Raises MachineError if it has too few GPUs.

    By default there are as many lanes as GPUs (or cores) and memory allow, at most one for each trained cell. `suite`
    must have all cells of its file, finished ones, too: the number of lanes decides the threads of a rank, and another
    number of threads changes the last digits of a result. For the same reason free memory does not count.
    """
    trained = [cell for cell in suite.cells if is_trained(cell)]
    shape = local_shape(suite.resources, [cell.train.batch_size for cell in trained])
    if parallel is None:
        ranks = torch.cuda.device_count() if shape.device == "cuda" else available_cpus()
        kinds = {(cell.dataset, cell.protocol, cell.train.batch_size): cell for cell in trained}
        rank_bytes = max((_rank_bytes(cell, store, shape) for cell in kinds.values()), default=RANK_BYTES)
        parallel = min(ranks, int(memory_bytes() / rank_bytes)) // shape.ranks
    return replace(shape, lanes=max(1, min(parallel, len(trained))))


def threads_of(shape: Shape) -> int:
    """CPU threads of each rank: an equal share of the CPUs, or what OMP_NUM_THREADS says if that is less."""
    share = available_cpus() // (shape.ranks * shape.lanes)
    most = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else share
    return max(1, min(share, most))


def _rank_bytes(cell: Cell, store: Store, shape: Shape) -> float:
    path = field_path(store.data_folder, cell.dataset)
    field = path.stat().st_size if path.exists() else 0
    task = task_of(cell.dataset, cell.protocol)
    points = cell.train.batch_size / shape.ranks * cell.protocol.train_steps * task.height * task.width
    return RANK_BYTES + FIELD_COPIES * field + (POINT_BYTES * points if shape.device == "cpu" else 0.0)


def run(suite: Suite, store: Store, display: Display, full_suite: Suite, parallel: int | None = None) -> Outcome:
    """Try every unfinished cell of `suite`, a selection from `full_suite`, once.

    An error or the death of a process affects only the cell that it ran. Raises MachineError if another run holds the
    store or a cell. KeyboardInterrupt stops the jobs first.
    """
    store.make()
    with store.only_run():
        records, _ = store.read(suite.cells)
        finished = {key for key, record in records.items() if record.status.is_result}
        unfinished = [cell for cell in suite.cells if cell.id not in finished]
        if held := [cell for cell in unfinished if store.being_run(cell)]:
            raise MachineError(f"{len(held)} cells are still being run by an earlier job ({held[0]}); wait for it")
        require_data(store.data_folder, unfinished)
        shape = shape_here(full_suite, store, parallel)
        require_precision(unfinished, shape.device)
        display.begin(suite.cells, records)
        begun = _run_lanes(unfinished, store, shape, display) if unfinished else {}
        if waiting := [cell for cell in unfinished if cell.id not in begun]:
            raise MachineError(
                f"the job ended before {waiting[0]} began; see the logs in {store.root / 'jobs'},"
                " and whether another process holds that cell"
            )
        records, broken = store.read(unfinished)
        if broken:
            raise MachineError(f"{broken[0].folder}: cannot be read back: {broken[0].reason}")
    failed = tuple(record for record in records.values() if not record.status.is_result)
    return Outcome(len(unfinished) - len(failed), failed, len(finished))


def _run_lanes(cells: Sequence[Cell], store: Store, shape: Shape, display: Display) -> dict[str, Record]:
    """Run one job for each lane, each with all of `cells`, and return the records of the cells that began.

    Leases decide which lane runs a cell. A lane is a separate job, since submitit ends the tasks of a job together.
    A job that ends before all cells began is restarted if any cell began during it.
    """
    since = time.time()
    begun: dict[str, Record] = {}
    begun_before: dict[int, int] = {}
    jobs: dict[int, submitit.Job[None]] = {}

    def begin(lane: int, waiting: Sequence[Cell]) -> None:
        job_file = local_job(store, waiting, shape, _gpus_of(lane, shape), since)
        jobs[lane] = start(run_job, job_file, shape.ranks)
        begun_before[lane] = len(begun)

    try:
        for lane in range(min(shape.lanes, len(cells))):
            begin(lane, cells)
        while jobs:
            time.sleep(POLL_SECONDS)
            ended = [lane for lane, job in jobs.items() if job.done()]
            open_cells = [cell for cell in cells if cell.id not in begun or begun[cell.id].status.state == "running"]
            if ended:
                _fail_the_dead(open_cells, store, since)
            begun |= _begun(open_cells, store, since)
            display.show(begun)
            for lane in ended:
                del jobs[lane]
                waiting = [cell for cell in cells if cell.id not in begun and not store.being_run(cell)]
                if waiting and len(begun) > begun_before[lane]:
                    begin(lane, waiting)
    finally:
        stop(jobs.values())
    return begun


def _fail_the_dead(cells: Sequence[Cell], store: Store, since: float) -> None:
    """Mark cells as failed whose records say `running` although no process holds them."""
    not_held = [cell for cell in cells if not store.being_run(cell)]  # before the records: a holder may end meanwhile
    for record in _begun(not_held, store, since).values():
        if record.status.state == "running":
            log = f"`symbench logs {record.cell.id}` shows its output"
            store.fail(record, "killed", f"{failures.POLICIES['killed'].meaning}; {log}")


def local_job(
    store: Store, cells: Sequence[Cell], shape: Shape, visible_gpus: str | None, since: float | None = None
) -> Path:
    """Write the file of a job on this machine into a new folder, and return its path."""
    job = Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=model_registry.plugin_paths(),
        **asdict(shape),
        since=since,
        threads=threads_of(shape),
        visible_gpus=visible_gpus,
    )
    job_file = job_folder(store.root) / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    return job_file


def visible_gpus() -> list[str]:
    """GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if chosen is None else chosen.split(",")[:count]


def _gpus_of(lane: int, shape: Shape) -> str | None:
    """CUDA_VISIBLE_DEVICES of a lane. Lanes share GPUs only if there are more lanes than GPUs."""
    if shape.device == "cpu":
        return None
    gpus = visible_gpus()
    first = lane % (len(gpus) // shape.ranks) * shape.ranks
    return ",".join(gpus[first : first + shape.ranks])


def start(function: Callable[[str], None], job_file: Path, tasks: int) -> submitit.Job[None]:
    """Call `function` with the path of the job's file in `tasks` processes."""
    executor = submitit.LocalExecutor(folder=job_file.parent)
    executor.update_parameters(timeout_min=NO_LIMIT_MINUTES, tasks_per_node=tasks)
    with _stderr_into(job_file.with_name("controller.log")):
        return executor.submit(function, str(job_file))


@contextmanager
def _stderr_into(log: Path) -> Iterator[None]:
    """Give processes started in this context `log` as stderr: submitit's controller prints a traceback when stopped."""
    original = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


def stop(jobs: Iterable[submitit.Job[None]]) -> None:
    """Wait for the jobs, and cancel them after a while: Ctrl-C reaches them, too, but not a signal to this process."""
    jobs = list(jobs)
    for _ in range(int(CTRL_C_PATIENCE_SECONDS / POLL_SECONDS)):
        if all(job.done() for job in jobs):
            return
        time.sleep(POLL_SECONDS)
    for job in jobs:
        job.cancel()
    while not all(job.done() for job in jobs):
        time.sleep(POLL_SECONDS)


def job_folder(store_root: Path) -> Path:
    """Make a new folder for a job and its logs. Raises MachineError if the store cannot be written."""
    try:
        (store_root / "jobs").mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=store_root / "jobs")
    except OSError as error:
        raise MachineError(f"{store_root / 'jobs'}: cannot be written: {error.strerror}") from error
    return Path(name).resolve()


def _begun(cells: Sequence[Cell], store: Store, started: float) -> dict[str, Record]:
    """Records of attempts since `started`, by cell id."""

    def is_new(cell: Cell) -> bool:
        path = store.cell_folder(cell.id) / "status.json"
        return path.exists() and path.stat().st_mtime >= started

    records, _ = store.read([cell for cell in cells if is_new(cell)])
    return {key: record for key, record in records.items() if record.status.heartbeat >= started}
