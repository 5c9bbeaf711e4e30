"""What runs inside a job, once on every rank."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import submitit
import torch

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.models import model_registry
from benchmark.suite.tuned import provenance
from benchmark.training.distributed import World, join
from benchmark.training.loop import Execution, StoppedError
from benchmark.training.recorder import Follower
from benchmark.training.run import run_cell
from cluster.jobs import failures
from cluster.jobs.job import REQUEUE_MARK, Job
from cluster.jobs.signals import Signals
from cluster.jobs.staging import stage
from results.store.cell_recorder import CellRecorder, LeaseLostError
from results.store.lease import BEAT_SECONDS, STALE_SECONDS, Holder
from results.store.store import Store

WAIT_SECONDS = 5.0


def run_job(job_file: str) -> None:
    """Run every cell of the job in `job_file` that is not a result yet and that nobody else runs.

    An error ends a cell and is recorded. With several ranks it also ends the job, since the others may wait in a
    collective; who launched it starts a new job with the cells that are left. When the time is up, all save, and
    whoever has cells left leaves a mark: the batch script, which comes after all lanes, then requeues the job.
    """
    path = Path(job_file)
    job = load(path)
    on_slurm = submitit.JobEnvironment().cluster == "slurm"
    signals = Signals()
    if on_slurm:
        signals.listen()
    with lane_of(job, path) as (world, lane):
        store = Store(job.store)
        words = path.with_name(f"words-{lane}")
        # Whoever holds a cell may be this job before its node died: then the lease goes stale, and the cell is ours.
        patience = STALE_SECONDS + BEAT_SECONDS if on_slurm else 0.0
        left, deadline = list(job.cells), 0.0
        while left:
            held = [cell for cell in left if not _run(cell, job, store, world, signals, words)]
            if len(held) < len(left) or deadline == 0.0:
                deadline = time.monotonic() + patience
            left = held
            if world.any(signals.stop or time.monotonic() >= deadline):
                break
            time.sleep(WAIT_SECONDS if held else 0.0)
        time_is_up = world.any(signals.time_is_up)
    if time_is_up and left and world.is_main and int(_restart()) < job.requeues:
        path.with_name(REQUEUE_MARK.format(job=os.environ.get("SLURM_JOB_ID", ""), restart=_restart())).touch()


def load(path: Path) -> Job:
    """The job in `path`, for which this process is prepared: visible GPUs, plug-ins, threads."""
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    if job.visible_gpus is not None:  # submitit's local executor hides them; a plug-in may look for them on import
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpus
    for plugin in job.plugins:
        model_registry.add_plugin(plugin)
    torch.set_num_threads(job.threads)
    return job


@contextmanager
def lane_of(job: Job, path: Path) -> Iterator[tuple[World, str]]:
    """The ranks of this process's lane, and a name for the lane that no other one of this start has."""
    task = submitit.JobEnvironment()
    lane, rank = divmod(task.global_rank, job.ranks)
    name = f"{task.job_id}-{_restart()}-{lane}"
    rendezvous = path.with_name(f"rendezvous-{name}.json")
    with join(rank, job.ranks, _device(job, task.local_rank), rendezvous, job.nodes) as world:
        yield world, name


def _restart() -> str:
    """How often SLURM has requeued this job."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def _device(job: Job, local_rank: int) -> torch.device:
    """Lanes share the GPUs of a node in turn."""
    if job.device == "cpu":
        return torch.device("cpu")
    there = torch.cuda.device_count()
    if there == 0:
        raise MachineError(
            f"torch sees no GPU on {socket.gethostname()}; `symbench doctor --on SITE` looks for the reason"
        )
    return torch.device("cuda", local_rank % there)


def _run(cell: Cell, job: Job, store: Store, world: World, signals: Signals, words: Path) -> bool:
    """One cell under its lease, which rank 0 holds for all; False where another process has it, or all had to stop."""
    if world.any(signals.stop):
        return False
    if job.lanes > 1 and world.any(world.is_main and _is_of_another_lane(cell, job, store)):
        return True
    checkpoint = store.cell_folder(cell.id) / "checkpoint.pt"
    with _holding(cell, store) if world.is_main else nullcontext(Follower(checkpoint)) as recorder:
        if world.any(recorder is None) or recorder is None:
            return False
        if world.any(world.is_main and store.is_result(cell)):
            return True
        print(f"{cell.id} {cell}", flush=True)

        lease = recorder.lease if isinstance(recorder, CellRecorder) else None

        def may_save() -> bool:
            return lease is None or not lease.lost

        def should_stop() -> bool:  # asked at every step: the disk is not to be looked at
            return signals.stop or (lease is not None and lease.known_lost)

        execution = Execution(world, should_stop, may_save, job.micro_batches.get(cell.id))
        try:
            recorder.start()
            data = stage(store.data_folder, cell, job.scratch)
            notes = {**provenance(store.root, cell), "lanes": job.lanes}
            run_cell(cell, recorder, data, execution, notes)
        except LeaseLostError as error:
            print(error, flush=True)
            if world.size > 1:  # the others do not know, and may wait in a collective
                raise
        except StoppedError:
            if may_save():
                why = "preempted" if signals.terminated else "time_limit"
                with suppress(LeaseLostError):
                    recorder.fail(why, "saved where it was; goes on when it is started again")
            return False
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # submitit sends it once more; what follows is short
            print(traceback.format_exc(), flush=True)  # where `symbench logs` finds it
            with suppress(LeaseLostError):
                recorder.fail(*failures.classify_on_rank(failures.classify_exception(error), error, world, words))
            if world.size > 1 or isinstance(error, KeyboardInterrupt):
                raise
    return True


@contextmanager
def _holding(cell: Cell, store: Store) -> Iterator[CellRecorder | None]:
    """The recorder; None also where the cell's folder cannot be written, which the siblings need not suffer for."""
    with ExitStack() as stack:
        try:
            recorder = stack.enter_context(store.recorder(cell))
        except MachineError as error:
            print(f"{cell.id} {cell}\n{error}", flush=True)
            recorder = None
        yield recorder


def _is_of_another_lane(cell: Cell, job: Job, store: Store) -> bool:
    """Whether another lane runs the cell, or has tried it since the job was started."""
    if job.since is not None:
        status = store.statuses([cell])[0].get(cell.id)
        return status is not None and status.heartbeat >= job.since
    last, here = store.last_holder(cell), Holder.this_process()
    return last is not None and last.job != "" and (last.job, last.restart) == (here.job, here.restart)
