"""What runs inside a job, once on every rank."""

from __future__ import annotations

import os
import signal
import traceback
from contextlib import nullcontext
from pathlib import Path

import submitit
import torch

from benchmark import registry
from benchmark.cell import Cell
from benchmark.distributed import World, join
from benchmark.errors import MachineError, UserError
from benchmark.recorder import Follower
from benchmark.run import run_cell
from results.store import Store

from .job import Job


def run_job(job_file: str) -> None:
    """Run every cell of the job in `job_file` that is not a result yet.

    An error ends a cell and is recorded. With several ranks it also ends the job, since the others may wait in a
    collective; the launcher then starts a new job with the cells that are left.
    """
    path = Path(job_file)
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    for plugin in job.plugins:
        registry.add_plugin(plugin)
    if job.visible_gpus is not None:  # submitit's local executor counts from 0, whatever this machine's user chose
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpus
    task = submitit.JobEnvironment()
    torch.set_num_threads(job.threads)
    device = torch.device("cuda", task.local_rank) if job.device == "cuda" else torch.device("cpu")
    rendezvous = path.with_name(f"rendezvous-{task.job_id}")
    with join(task.global_rank, job.ranks, device, rendezvous) as world:
        store = Store(job.store)
        for cell in job.cells:
            _run(cell, store, world)


def _run(cell: Cell, store: Store, world: World) -> None:
    """One cell under its lock, which rank 0 holds for all."""
    checkpoint = store.cell_folder(cell.id) / "checkpoint.pt"
    with store.recorder(cell) if world.is_main else nullcontext(Follower(checkpoint)) as recorder:
        skip = recorder is None or (world.is_main and store.is_result(cell))
        if world.maximum(float(skip)) or recorder is None:
            return
        print(f"{cell.id} {cell}", flush=True)
        try:
            recorder.start()
            run_cell(cell, recorder, world, store.data_folder)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # submitit sends it once more; what follows is short
            traceback.print_exc()
            recorder.fail(failure_class(error), describe(error))
            if world.size > 1 or isinstance(error, KeyboardInterrupt):
                raise


def failure_class(error: BaseException) -> str:
    """The class of a failure, which decides what is done about it."""
    if isinstance(error, KeyboardInterrupt):
        return "cancelled"
    if isinstance(error, UserError):
        return "input"
    if isinstance(error, MachineError):
        return "machine"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    return "code_error"


def describe(error: BaseException) -> str:
    """One line for the status."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the next run goes on from the last finished epoch"
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | MachineError) else f"{type(error).__name__}: {text}"
