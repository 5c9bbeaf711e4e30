"""Runs the unfinished cells of a suite on this machine, through submitit's local executor."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import submitit

from benchmark import discovery
from benchmark.cell import Cell
from benchmark.data.layout import require_data
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.suite.suite import Suite
from cluster.jobs import policies
from cluster.jobs.capacity import shapes_here, threads_of, visible_gpus
from cluster.jobs.display import Display
from cluster.jobs.job import LAST_RANK_SECONDS, Job, job_folder
from cluster.jobs.packing import Shape, require_precision
from cluster.jobs.signals import caught_interrupts
from cluster.jobs.worker import run_job
from results.store.record import FINISHED, Record
from results.store.store import Store

POLL_SECONDS = 0.5
CTRL_C_PATIENCE_SECONDS = 3.0
TERMINATION_PATIENCE_SECONDS = 10.0
NO_LIMIT_MINUTES = 60 * 24 * 365
"""submitit's local executor needs a time limit."""

FileId = tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """Result of a launch: numbers of trained cells and of cells finished before, and the records of failed ones."""

    done: int
    failed: tuple[Record, ...]
    skipped: int


def run(suite: Suite, store: Store, display: Display, full_suite: Suite, parallel: int | None = None) -> Outcome:
    """Try every unfinished cell of `suite`, a selection from `full_suite`, once.

    One that lacked memory beside others is tried again alone. An error or the death of a process affects only the cell
    that it ran. Raises MachineError if another run holds the store or a cell. KeyboardInterrupt stops the jobs first.
    """
    store.make()
    with store.alone("run"):
        records, _ = store.read(suite.cells)
        finished = {key for key, record in records.items() if record.status.is_result}
        unfinished = [cell for cell in suite.cells if cell.id not in finished]
        if held := [cell for cell in unfinished if store.being_run(cell)]:
            raise MachineError(f"{len(held)} cells are still being run by an earlier job ({held[0]}); wait for it")
        require_data(store.data_folder, unfinished)
        shapes = shapes_here(full_suite, store, parallel)
        parts = replace(full_suite, cells=tuple(unfinished)).by_resources()
        for resources, part in parts.items():
            require_precision(part.cells, shapes[resources].device)
        display.begin(suite.cells, records)
        begun: dict[str, Record] = {}
        for resources, part in parts.items():
            shape = shapes[resources]
            begun |= _run_lanes(part.cells, store, shape, display, suite.keeps_checkpoints)
            for cell in _without_room(part.cells, begun, shape):
                display.announced.discard(cell.id)
                begun |= _run_lanes([cell], store, shape, display, suite.keeps_checkpoints)
        records, broken = store.read(unfinished)
        if broken:
            raise MachineError(f"{broken[0].folder}: cannot be read back: {broken[0].reason}")
        if waiting := [cell for cell in unfinished if cell.id not in begun]:
            raise MachineError(
                f"the job ended before {waiting[0]} began; {_last_error(store)}see the logs in {store.root / 'jobs'},"
                " and whether another process holds that cell"
            )
    failed = tuple(record for record in records.values() if not record.status.is_result)
    return Outcome(len(unfinished) - len(failed), failed, len(finished))


def _without_room(cells: Sequence[Cell], records: Mapping[str, Record], shape: Shape) -> list[Cell]:
    """Cells that ran out of the memory that they shared with other lanes."""
    if shape.lanes == 1 or (shape.device == "cuda" and shape.lanes * shape.ranks <= len(visible_gpus())):
        return []
    failures = {key: record.status.failure for key, record in records.items() if record.status.state == "failed"}
    return [cell for cell in cells if cell.id in failures and policies.POLICIES[failures[cell.id]].halve]


def _last_error(store: Store) -> str:
    """Error of symbench in the log of the newest job, and a semicolon; empty without one."""
    newest = max((store.root / "jobs").iterdir())
    lines = [line for log in newest.glob("*_log.err") for line in log.read_text("utf-8", "replace").splitlines()]
    errors = [line for line in lines if line.startswith(f"{MachineError.__module__}.{MachineError.__name__}: ")]
    return errors[-1].partition(": ")[2] + "; " if errors else ""


def _run_lanes(
    cells: Sequence[Cell], store: Store, shape: Shape, display: Display, keeps_checkpoints: bool
) -> dict[str, Record]:
    """Run one job for each lane, each with all of `cells`, and return the records of the cells that began.

    Leases decide which lane runs a cell. A lane is a separate job, since submitit ends the tasks of a job together.
    A job that ends before all cells began is restarted if any cell began during it.
    """
    files = {cell.id: _status_file(cell, store) for cell in cells}
    seen = {key: status.attempt for key, status in store.statuses(cells)[0].items()}
    begun: dict[str, Record] = {}
    begun_before: dict[int, int] = {}
    jobs: dict[int, submitit.Job[None]] = {}
    complete: dict[int, float] = {}  # lane -> when all its ranks were last seen

    def begin(lane: int, waiting: Sequence[Cell]) -> None:
        job_file = local_job(store, waiting, shape, _gpus_of(lane, shape), seen, keeps_checkpoints)
        jobs[lane] = start(run_job, job_file, shape.ranks)
        begun_before[lane], complete[lane] = len(begun), time.monotonic()

    with caught_interrupts() as interrupted:
        try:
            for lane in range(min(shape.lanes, len(cells))):
                begin(lane, cells)
            while jobs:
                time.sleep(POLL_SECONDS)
                for lane, job in jobs.items():
                    if shape.ranks == 1 or _ranks(job) == shape.ranks:
                        complete[lane] = time.monotonic()
                    elif time.monotonic() - complete[lane] > LAST_RANK_SECONDS:
                        stop([job])
                ended = [lane for lane, job in jobs.items() if job.done()]
                if interrupted.is_set():  # asked after the jobs, which Ctrl-C ends as well
                    raise KeyboardInterrupt
                open_cells = [
                    cell for cell in cells if cell.id not in begun or begun[cell.id].status.state == "running"
                ]
                if ended:
                    _fail_the_dead(open_cells, store, files)
                begun |= _begun(open_cells, store, files)
                display.show(begun)
                for lane in ended:
                    del jobs[lane]
                    waiting = [cell for cell in cells if cell.id not in begun and not store.being_run(cell)]
                    if waiting and len(begun) > begun_before[lane]:
                        begin(lane, waiting)
        finally:
            stop(jobs.values())
    return begun


def _fail_the_dead(cells: Sequence[Cell], store: Store, files: Mapping[str, FileId]) -> None:
    """Mark cells as failed whose records say `running` although no process holds them."""
    not_held = [cell for cell in cells if not store.being_run(cell)]  # before the records: a holder may end meanwhile
    for record in _begun(not_held, store, files).values():
        if record.status.state == "running":
            log = f"`symbench logs {record.cell.id}` shows its output"
            store.fail(record, "killed", f"{policies.POLICIES['killed'].meaning}; {log}")


def local_job(
    store: Store,
    cells: Sequence[Cell],
    shape: Shape,
    visible_gpus: str | None,
    seen: Mapping[str, int] | None = None,
    keeps_checkpoints: bool = False,
) -> Path:
    """Write the file of a job on this machine into a new folder, and return its path."""
    job = Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=discovery.plugin_paths(),
        **shape.processes,
        seen=seen,
        threads=threads_of(shape),
        visible_gpus=visible_gpus,
        keeps_checkpoints=keeps_checkpoints,
    )
    job_file = job_folder(store.root) / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    return job_file


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
    """End the jobs and all their processes: Ctrl-C reaches them by itself, then they get SIGTERM, then SIGKILL.

    SIGINT does not do, since a shell lets the background processes of a script ignore it.
    """
    jobs = list(jobs)
    processes = [one for job in jobs for one in _processes(int(job.job_id))]
    _, alive = psutil.wait_procs(processes, CTRL_C_PATIENCE_SECONDS)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                end(process)
        _, alive = psutil.wait_procs(alive, TERMINATION_PATIENCE_SECONDS)
    while not all(job.done() for job in jobs):
        time.sleep(POLL_SECONDS)


def _ranks(job: submitit.Job[None]) -> int:
    """Number of ranks of a job that have not ended."""
    try:
        return len(psutil.Process(int(job.job_id)).children())
    except psutil.NoSuchProcess:
        return 0


def _processes(controller: int) -> list[psutil.Process]:
    """Process that submitit starts for a job, and its workers."""
    try:
        process = psutil.Process(controller)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _begun(cells: Sequence[Cell], store: Store, files: Mapping[str, FileId]) -> dict[str, Record]:
    """Records, by cell id, whose status was written again since it was one of `files`.

    No time is compared: the clock of the disk may differ from ours.
    """
    records, _ = store.read([cell for cell in cells if _status_file(cell, store) != files[cell.id]])
    return records


def _status_file(cell: Cell, store: Store) -> FileId:
    """Inode and time of the file of a cell's status, which is replaced as a whole; zeros without one."""
    for name in (FINISHED, "status.json"):
        with suppress(FileNotFoundError):
            stat = (store.cell_folder(cell.id) / name).stat()
            return stat.st_ino, stat.st_mtime_ns
    return (0, 0)
