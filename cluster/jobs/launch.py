"""Runs the open cells of a suite on this machine, through submitit's local executor."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import submitit
import torch

from benchmark.cell import Cell
from benchmark.data.layout import field_path, require_data
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.models import model_registry
from benchmark.suite.suite import Resources, Suite
from benchmark.training.environment import available_cpus, memory_bytes
from benchmark.training.experiment import is_trained, task_of
from cluster.jobs.display import Display
from cluster.jobs.job import Job
from cluster.jobs.packing import Shape, require_precision
from cluster.jobs.worker import run_job
from results.store.record import Record
from results.store.store import Store

POLL_SECONDS = 0.5
CTRL_C_PATIENCE_SECONDS = 3.0
NEVER_MINUTES = 60 * 24 * 365
"""submitit's local executor wants a time limit; a laptop has none."""
RANK_BYTES = 1e9
"""torch took 0.25 GB and a network of 5.6 M parameters with its gradients 0.3 GB; CUDA has libraries of its own."""
FIELDS = 3
"""The field as the file has it, moved to cell centres, and a copy on the way."""
POINT_BYTES = 12e3
"""Of activations for each point of a rolled-out batch: the published rotation cells, batch 16 over 6 steps of 64 x 64,
peaked at 3.3 GB (relaxed steerable), 3.7 GB (ConvNet) and 4.6 GB (relaxed group) on a CPU."""


@dataclass(frozen=True)
class Outcome:
    """What a launch came to: cells by how they ended; `skipped` were results before."""

    done: int
    failed: tuple[Record, ...]
    skipped: int


def local_shape(resources: Resources, batch_sizes: Sequence[int]) -> Shape:
    """Ranks on this machine; `batch_sizes` are divisible by what was asked for. MachineError: too few GPUs."""
    there = torch.cuda.device_count()
    if resources.gpus is not None and resources.gpus > there:
        raise MachineError(f"resources.gpus: {resources.gpus} asked for, this machine has {there}")
    gpus = resources.gpus
    if gpus is None:  # as many as there are, up to the ranks asked for, that can share every batch
        usable = range(1, min(resources.ranks, there) + 1)
        gpus = max((n for n in usable if not any(size % n for size in batch_sizes)), default=0)
    return Shape("cuda" if gpus else "cpu", gpus or resources.ranks)


def shape_here(suite: Suite, cells: Sequence[Cell], store: Store, parallel: int | None = None) -> Shape:
    """Ranks and lanes for `cells`, all those of `suite`'s file, on this machine; MachineError as of `local_shape`.

    `parallel` lanes, or as many as its GPUs or cores, and its memory, have room for; no more than would have
    anything to train in the beginning. How many cells are left says nothing, nor how much memory is free: a rank has
    the more threads the fewer lanes there are, and another number of threads gives other last digits.
    """
    trained = [cell for cell in cells if is_trained(cell)]
    shape = local_shape(suite.resources, [cell.train.batch_size for cell in trained])
    if parallel is None:
        ranks = torch.cuda.device_count() if shape.device == "cuda" else available_cpus()
        kinds = {(cell.dataset, cell.protocol, cell.train.batch_size): cell for cell in trained}
        need = max((_rank_bytes(cell, store, shape) for cell in kinds.values()), default=RANK_BYTES)
        parallel = min(ranks, int(memory_bytes() / need)) // shape.ranks
    return replace(shape, lanes=max(1, min(parallel, len(trained))))


def threads_of(shape: Shape) -> int:
    """CPU threads of each rank."""
    return max(1, available_cpus() // (shape.ranks * shape.lanes))


def _rank_bytes(cell: Cell, store: Store, shape: Shape) -> float:
    """Memory of a rank that trains `cell`, roughly."""
    path = field_path(store.data_folder, cell.dataset)
    field = path.stat().st_size if path.exists() else 0
    task = task_of(cell.dataset, cell.protocol)
    points = cell.train.batch_size / shape.ranks * cell.protocol.train_steps * task.height * task.width
    return RANK_BYTES + FIELDS * field + (POINT_BYTES * points if shape.device == "cpu" else 0.0)


def run(
    suite: Suite, store: Store, display: Display, parallel: int | None = None, whole: Suite | None = None
) -> Outcome:
    """Run every cell of `suite` that is not a result, each tried once; goes on until none is left.

    As many side by side as `shape_here` says, where `suite` may be a selection from the `whole`. A job that dies takes
    no sibling with it: the cell that was running is marked failed, the others go on. Raises MachineError where another
    run holds the store or a cell. On KeyboardInterrupt the jobs are stopped first.
    """
    store.make()
    with store.only_run():
        records, _ = store.read(suite.cells)
        finished = {key for key, record in records.items() if record.status.is_result}
        left = [cell for cell in suite.cells if cell.id not in finished]
        skipped = len(suite.cells) - len(left)
        held = [cell for cell in left if store.being_run(cell)]
        if held:
            raise MachineError(f"{len(held)} cells are still being run by an earlier job ({held[0]}); wait for it")
        require_data(store.data_folder, left)
        shape = shape_here(suite, (whole or suite).cells, store, parallel)
        require_precision(left, shape.device)
        display.start(suite.cells, records)
        begun = _run_lanes(left, store, shape, display) if left else {}
        if waiting := [cell for cell in left if cell.id not in begun]:
            raise MachineError(
                f"the job ended before {waiting[0]} began; see the logs in {store.root / 'jobs'},"
                " and whether another process holds that cell"
            )
        records, broken = store.read(left)
        if broken:
            raise MachineError(f"{broken[0].folder}: cannot be read back: {broken[0].reason}")
    failed = tuple(record for record in records.values() if not record.status.is_result)
    return Outcome(len(left) - len(failed), failed, skipped)


def _run_lanes(cells: Sequence[Cell], store: Store, shape: Shape, display: Display) -> dict[str, Record]:
    """Jobs side by side, each with all of `cells`: leases decide who runs which. Returns the records of those begun.

    A lane is a job of its own, since submitit ends the tasks of one together. One that ended and left cells that
    nobody has begun is followed by another, unless none was begun meanwhile.
    """
    since = time.time()
    begun: dict[str, Record] = {}
    begun_before = dict.fromkeys(range(shape.lanes), 0)
    jobs: dict[int, submitit.Job[None]] = {}

    def begin(lane: int, waiting: Sequence[Cell]) -> None:
        job_file = local_job(store, waiting, shape, _gpus_of(lane, shape), since)
        jobs[lane] = start(run_job, job_file, shape.ranks)
        begun_before[lane] = len(begun)

    try:
        for lane in list(begun_before)[: len(cells)]:
            begin(lane, cells)
        while jobs:
            time.sleep(POLL_SECONDS)
            ended = [lane for lane, job in jobs.items() if job.done()]
            open_cells = [cell for cell in cells if cell.id not in begun or begun[cell.id].status.state == "running"]
            if ended:
                _fail_the_dead(open_cells, store, since)
            begun |= _begun(open_cells, store, since)
            display.update(begun)
            for lane in ended:
                del jobs[lane]
                waiting = [cell for cell in cells if cell.id not in begun and not store.being_run(cell)]
                if waiting and len(begun) > begun_before[lane]:
                    begin(lane, waiting)
    finally:
        stop(jobs.values())
    return begun


def _fail_the_dead(cells: Sequence[Cell], store: Store, since: float) -> None:
    """Mark those of `cells` as failed that have been running, and that nobody runs."""
    left_alone = [cell for cell in cells if not store.being_run(cell)]  # first: whoever runs one may end it meanwhile
    for record in _begun(left_alone, store, since).values():
        if record.status.state == "running":
            log = f"`symbench logs {record.cell.id}` shows what it wrote"
            store.fail(record, "killed", f"the process died without a word; {log}")


def local_job(
    store: Store, cells: Sequence[Cell], shape: Shape, visible_gpus: str | None, since: float | None = None
) -> Path:
    """The file of a job on this machine, in a folder of its own; `since` when it is one lane of several."""
    job = Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=model_registry.plugin_paths(),
        device=shape.device,
        ranks=shape.ranks,
        lanes=shape.lanes,
        since=since,
        threads=threads_of(shape),
        visible_gpus=visible_gpus,
    )
    job_file = job_folder(store.root) / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    return job_file


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    there = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(there)] if chosen is None else chosen.split(",")[:there]


def _gpus_of(lane: int, shape: Shape) -> str | None:
    """CUDA_VISIBLE_DEVICES of a lane: GPUs of its own; where lanes outnumber them, they share in turn."""
    if shape.device == "cpu":
        return None
    there = visible_gpus()
    first = lane % (len(there) // shape.ranks) * shape.ranks
    return ",".join(there[first : first + shape.ranks])


def start(function: Callable[[str], None], job_file: Path, tasks: int) -> submitit.Job[None]:
    """Call `function` with the job's file in so many processes."""
    executor = submitit.LocalExecutor(folder=job_file.parent)
    executor.update_parameters(timeout_min=NEVER_MINUTES, tasks_per_node=tasks)
    with _stderr_into(job_file.with_name("controller.log")):
        return executor.submit(function, str(job_file))


@contextmanager
def _stderr_into(log: Path) -> Iterator[None]:
    """What is started here has its stderr in `log`: submitit's controller prints a traceback when it is stopped."""
    kept = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def stop(jobs: Iterable[submitit.Job[None]]) -> None:
    """Wait until the jobs are gone. Ctrl-C on a terminal has reached them, too; a signal to us alone has not."""
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
    """A new folder for a job and its logs."""
    try:
        (store_root / "jobs").mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=store_root / "jobs")
    except OSError as error:
        raise MachineError(f"{store_root / 'jobs'}: cannot be written: {error.strerror}") from error
    return Path(name).resolve()


def _begun(cells: Sequence[Cell], store: Store, started: float) -> dict[str, Record]:
    """The records that were written since `started`, by id."""

    def is_new(cell: Cell) -> bool:
        path = store.cell_folder(cell.id) / "status.json"
        return path.exists() and path.stat().st_mtime >= started

    records, _ = store.read([cell for cell in cells if is_new(cell)])
    return {key: record for key, record in records.items() if record.status.heartbeat >= started}
