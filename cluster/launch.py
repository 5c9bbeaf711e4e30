"""Runs the open cells of a suite on this machine, through submitit's local executor."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import submitit
import torch

from benchmark import registry
from benchmark.cell import Cell
from benchmark.data.layout import data_path, require
from benchmark.environment import available_cpus
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.suite import Resources, Suite
from results.store import Record, Store

from .display import Display
from .job import Job
from .packing import require_precision
from .worker import run_job

POLL_SECONDS = 0.5
CTRL_C_PATIENCE_SECONDS = 3.0
NEVER_MINUTES = 60 * 24 * 365
"""submitit's local executor wants a time limit; a laptop has none."""


@dataclass(frozen=True)
class Outcome:
    """What a launch came to: cells by how they ended; `skipped` were results before."""

    done: int
    failed: tuple[Record, ...]
    skipped: int


@dataclass(frozen=True)
class Placement:
    """Ranks of a job and where they compute."""

    device: Literal["cpu", "cuda"]
    ranks: int


def place(resources: Resources, batch_sizes: Sequence[int]) -> Placement:
    """Ranks on this machine; `batch_sizes` are divisible by what was asked for. MachineError: too few GPUs."""
    there = torch.cuda.device_count()
    if resources.gpus is not None and resources.gpus > there:
        raise MachineError(f"resources.gpus: {resources.gpus} asked for, this machine has {there}")
    gpus = resources.gpus
    if gpus is None:  # as many as there are, up to the ranks asked for, that can share every batch
        usable = range(1, min(resources.ranks, there) + 1)
        gpus = max((n for n in usable if not any(size % n for size in batch_sizes)), default=0)
    return Placement("cuda", gpus) if gpus else Placement("cpu", resources.ranks)


def run(suite: Suite, store: Store, display: Display) -> Outcome:
    """Run every cell of `suite` that is not a result, each tried once; goes on until none is left.

    A job that dies takes no sibling with it: the cell that was running is marked failed, the others get a new job.
    Raises MachineError where another run holds the store or a cell. On KeyboardInterrupt the job is stopped first.
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
        for cell in left:
            require(data_path(store.data_folder, cell.dataset.name, cell.dataset.preset, cell.dataset.level))
        trained = [cell for cell in left if registry.model(cell.model.name).trained]
        placement = place(suite.resources, [cell.train.batch_size for cell in trained])
        require_precision(trained, placement.device)
        display.start(suite.cells, records)
        tried: set[str] = set()
        while waiting := [cell for cell in left if cell.id not in tried]:
            begun = _run_job(waiting, store, placement, display)
            tried |= begun
            if not begun:
                raise MachineError(
                    f"the job ended before {waiting[0]} began; see the logs in {store.root / 'jobs'},"
                    " and whether another process holds that cell"
                )
        records, broken = store.read(left)
        if broken:
            raise MachineError(f"{broken[0].folder}: cannot be read back: {broken[0].reason}")
    failed = tuple(record for record in records.values() if not record.status.is_result)
    return Outcome(len(left) - len(failed), failed, skipped)


def _run_job(cells: Sequence[Cell], store: Store, placement: Placement, display: Display) -> set[str]:
    """One job with `cells`; returns the ids of those that were begun."""
    job_file = local_job(store, cells, placement)
    started = time.time()
    handle = start(run_job, job_file, placement)
    try:
        while not handle.done():
            display.update(_begun(cells, store, started))
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        stop(handle)
        raise
    for record in _begun(cells, store, started).values():
        if record.status.state == "running" and not store.being_run(record.cell):
            store.fail(record, "killed", f"the process died without a word; see the logs in {job_file.parent}")
    begun = _begun(cells, store, started)
    display.update(begun)
    return set(begun)


def local_job(store: Store, cells: Sequence[Cell], placement: Placement) -> Path:
    """The file of a job on this machine, in a folder of its own."""
    job = Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=registry.plugin_paths(),
        device=placement.device,
        ranks=placement.ranks,
        threads=max(1, available_cpus() // placement.ranks),
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    job_file = job_folder(store.root) / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    return job_file


def start(function: Callable[[str], None], job_file: Path, placement: Placement) -> submitit.Job[None]:
    """Call `function` with the job's file in each of its ranks, in processes of their own."""
    executor = submitit.LocalExecutor(folder=job_file.parent)
    executor.update_parameters(
        timeout_min=NEVER_MINUTES,
        tasks_per_node=placement.ranks,
        gpus_per_node=placement.ranks if placement.device == "cuda" else 0,
    )
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


def stop(job: submitit.Job[None]) -> None:
    """Wait until the job is gone. Ctrl-C on a terminal has reached it, too; a signal to us alone has not."""
    for _ in range(int(CTRL_C_PATIENCE_SECONDS / POLL_SECONDS)):
        if job.done():
            return
        time.sleep(POLL_SECONDS)
    job.cancel()
    while not job.done():
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
