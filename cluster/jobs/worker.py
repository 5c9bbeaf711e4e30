"""Worker: entry point of a job on every rank."""

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

from benchmark import discovery
from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.suite.tuned import provenance
from benchmark.training import gpu
from benchmark.training.distributed import World, join
from benchmark.training.environment import return_freed_memory
from benchmark.training.loop import Execution, StoppedError
from benchmark.training.recorder import Follower
from benchmark.training.run import run_cell
from cluster.jobs import failures, snapshot
from cluster.jobs.job import REQUEUE_MARK, Job
from cluster.jobs.signals import Signals, interrupt_on_signals
from cluster.jobs.staging import stage
from results.store.cell_recorder import CellRecorder, LeaseLostError
from results.store.lease import BEAT_SECONDS, STALE_SECONDS, Holder
from results.store.store import Store

POLL_SECONDS = 5.0


def run_job(job_file: str) -> None:
    """Run every unfinished cell of the job in `job_file` that no other process holds.

    An error in a cell is recorded and ends that cell. It also ends the job if there are several ranks, which may wait
    in a collective operation, or if the GPU works no more; the launcher sends the remaining cells again. At the time
    limit all lanes save, and a lane with unfinished cells writes a mark, so that the batch script requeues the job.
    """
    path = Path(job_file)
    job = load(path)
    on_slurm = submitit.JobEnvironment().cluster == "slurm"
    signals = Signals()
    if on_slurm:
        signals.listen()
    with lane_of(job, path) as (world, lane):
        store = Store(job.store)
        errors = path.with_name(f"errors-{lane}")
        # A cell may be held by this job before its node died; its lease gets stale after this time.
        patience = STALE_SECONDS + BEAT_SECONDS if on_slurm else 0.0
        unfinished: list[Cell] = list(job.cells)
        deadline: float | None = None
        while unfinished:
            held = [cell for cell in unfinished if not _run(cell, job, store, world, signals, errors)]
            if deadline is None or len(held) < len(unfinished):
                deadline = time.monotonic() + patience
            unfinished = held
            if world.any(signals.stop or time.monotonic() >= deadline):
                break
            if held:
                return_freed_memory(world.device)
                time.sleep(POLL_SECONDS)
        time_is_up = world.any(signals.time_is_up)
    if time_is_up and unfinished and world.is_main and int(_restart()) < job.requeues:
        path.with_name(REQUEUE_MARK.format(job=os.environ.get("SLURM_JOB_ID", ""), restart=_restart())).touch()


def load(path: Path) -> Job:
    """Read the job in `path` and set up this process for it: visible GPUs, plug-ins, threads."""
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    snapshot.require(job.code)
    if job.visible_gpus is not None:  # before plug-ins, which may look for GPUs; submitit hides them
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpus
    _choose_slice(job, submitit.JobEnvironment().local_rank)
    for plugin in job.plugins:
        discovery.add_plugin(plugin)
    torch.set_num_threads(job.threads)
    if submitit.JobEnvironment().cluster != "slurm":
        interrupt_on_signals()
    return job


def _choose_slice(job: Job, local_rank: int) -> None:
    """Show CUDA one of several MIG slices: a process that is shown more takes the first."""
    slices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if job.device == "cuda" and len(slices) > 1 and slices[0].startswith("MIG-"):
        if job.ranks > 1:
            raise MachineError(f"{job.ranks} ranks on MIG slices of {socket.gethostname()}: use `gpus: 1`")
        os.environ["CUDA_VISIBLE_DEVICES"] = slices[local_rank % len(slices)]


@contextmanager
def lane_of(job: Job, path: Path) -> Iterator[tuple[World, str]]:
    """Process group of this process's lane, and a name of the lane that is unique for each start of the job."""
    task = submitit.JobEnvironment()
    lane, rank = divmod(task.global_rank, job.ranks)
    name = f"{task.job_id}-{_restart()}-{lane}"
    rendezvous = path.with_name(f"rendezvous-{name}.json")
    with join(rank, job.ranks, _device(job, task.local_rank), rendezvous, job.nodes) as world:
        yield world, name


def _restart() -> str:
    """Number of times that SLURM has requeued this job."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def _device(job: Job, local_rank: int) -> torch.device:
    if job.device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 0:
        raise MachineError(f"torch sees no GPU on {socket.gethostname()}; run `symbench doctor --on SITE`")
    return torch.device("cuda", local_rank % count)


def _run(cell: Cell, job: Job, store: Store, world: World, signals: Signals, errors: Path) -> bool:
    """Run one cell under its lease, which rank 0 holds. Returns False if the cell is held elsewhere or was stopped."""
    if world.any(signals.stop):
        return False
    if job.lanes > 1 and world.any(world.is_main and _tried_by_another_lane(cell, job, store)):
        return True
    checkpoint = store.cell_folder(cell.id) / "checkpoint.pt"
    with _holding(cell, store) if world.is_main else nullcontext(Follower(checkpoint)) as recorder:
        if world.any(recorder is None) or recorder is None:
            return False
        if world.any(world.is_main and store.is_result(cell)):
            return True
        print(f"{cell.id} {cell}", flush=True)

        lease = None
        if isinstance(recorder, CellRecorder):
            lease, recorder.keeps_checkpoint = recorder.lease, job.keeps_checkpoints

        def may_save() -> bool:
            return lease is None or not lease.lost

        def should_stop() -> bool:  # called at every step, so it must not read the disk
            return signals.stop or (lease is not None and lease.known_lost)

        execution = Execution(world, should_stop, may_save, job.micro_batches.get(cell.id))
        try:
            recorder.start()
            data = stage(store.data_folder, cell, job.scratch)
            notes = {**provenance(store.root, cell), "lanes": job.lanes}
            run_cell(cell, recorder, data, execution, notes)
        except LeaseLostError as error:
            print(error, flush=True)
            if world.size > 1:  # the other ranks may wait in a collective operation
                raise
        except StoppedError:
            with suppress(LeaseLostError, MachineError):
                recorder.fail("preempted" if signals.terminated else "time_limit", "saved; continues at the next start")
            return False
        except KeyboardInterrupt:  # the record says `running`, and nobody holds it: interrupted
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # submitit sends it twice; the rest is short
            raise
        except (Exception, SystemExit) as error:
            print(traceback.format_exc(), flush=True)  # for `symbench logs`
            failure = failures.classify_exception(error, world.device)
            failure, message = failures.classify_on_rank(failure, error, world, errors)
            try:
                recorder.fail(failure, message)
            except (LeaseLostError, MachineError) as unrecorded:
                print(unrecorded, flush=True)
            if world.size > 1 or not gpu.works(world.device):
                raise
    return True


@contextmanager
def _holding(cell: Cell, store: Store) -> Iterator[CellRecorder | None]:
    """Recorder of the cell; None if another process holds it or its folder cannot be written."""
    with ExitStack() as stack:
        try:
            recorder = stack.enter_context(store.recorder(cell))
        except MachineError as error:
            print(f"{cell.id} {cell}\n{error}", flush=True)
            recorder = None
        yield recorder


def _tried_by_another_lane(cell: Cell, job: Job, store: Store) -> bool:
    """Whether another lane runs the cell or has tried it since the start of the job."""
    if job.seen is not None:
        status = store.statuses([cell])[0].get(cell.id)
        return status is not None and status.attempt != job.seen.get(cell.id, 0)
    last, here = store.last_holder(cell), Holder.this_process()
    return last is not None and last.job != "" and (last.job, last.restart) == (here.job, here.restart)
