"""Task in a SLURM allocation of tuning; one task runs on each node and keeps a Ray node there.

The first task runs the head and the driver, and writes the head's address to a file beside the job. The other tasks
join that head, repeatedly while it exists. If a node is lost, Tune resumes its trials elsewhere from their checkpoints.
If the first node is lost, SLURM lets the others run on without a head (`--no-kill`), and one of them requeues the job.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import submitit

from benchmark.errors import MachineError
from benchmark.files import write_json
from cluster.jobs.job import REQUEUE_MARK
from cluster.jobs.signals import Signals
from cluster.slurm import commands as slurm
from cluster.tuning.hangs import HangCount
from cluster.tuning.job import TuneJob
from cluster.tuning.ray_cluster.ray_node import RayNode, address_towards
from cluster.tuning.supervise import run_studies
from results.store.lease import STALE_SECONDS, held, live_holder
from results.store.studies import StudyFolder

POLL_SECONDS = 0.5
MEETING_SECONDS = 600.0
"""Time in which the first task must begin."""
LOST_SECONDS = 120.0 - STALE_SECONDS
"""Time after which the first task is lost once its lease is stale: two minutes in all."""
PATIENCE_SHARE = 0.5
"""Share of the time between the signal and the limit in which trials may save."""


def run_allocation(job_file: str) -> None:
    """Search the studies of `job_file` until they are complete or the time is up.

    When the time is up, the trials save, and a mark makes the batch script requeue the job. Exits with status 1 if a
    study failed.
    """
    path = Path(job_file)
    job = TuneJob.load(path)
    task = submitit.JobEnvironment()
    signals = Signals()
    signals.listen()
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    meeting = Meeting(path.with_name(f"ray-{path.stem}-{task.job_id}-{restart}"))
    if task.global_rank > 0:
        _join(job, path, meeting, signals)
        return
    patience = job.signal_seconds * PATIENCE_SHARE
    hangs = HangCount([StudyFolder(job.store, study) for study in job.studies])
    with meeting.hold():
        status = run_studies(
            job, path, lambda: signals.stop, patience, lambda head: meeting.write({"address": head.address})
        )
    if signals.time_is_up and int(restart) < job.requeues:
        path.with_name(REQUEUE_MARK.format(job=os.environ.get("SLURM_JOB_ID", ""), restart=restart)).touch()
        hangs.time_is_up()
    elif status != 0:
        sys.exit(status)


def _join(job: TuneJob, path: Path, meeting: Meeting, signals: Signals) -> None:
    """Keep a node in the cluster of the current head until the first task declares the job over, or is lost.

    A lost node joins again: the first task may have started another head, or the network may have been interrupted.
    """
    log = path.with_name(f"{path.stem}-ray-{os.environ.get('SLURMD_NODENAME', os.uname().nodename)}.log")
    while not (message := meeting.read()).get("over") and not signals.terminated:
        if (address := str(message.get("address", ""))) and meeting.is_held:
            try:
                ip = address_towards(address.partition(":")[0])
                with RayNode(log, ip, job.node_cpus, job.node_gpus, address) as node:
                    while node.alive and meeting.read() in ({}, message) and not meeting.is_deserted:
                        time.sleep(POLL_SECONDS)
            except (MachineError, OSError) as error:  # the head may be unreachable for a while
                print(error, flush=True)
        if meeting.is_deserted and _end(job):
            return
        time.sleep(POLL_SECONDS)


class Meeting:
    """Folder beside the job, with the address of the head and the lease of the first task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen, self.patience_seconds = time.monotonic(), MEETING_SECONDS

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Tell the other tasks that the first one lives, during the block, and then that the job is over."""
        self.folder.mkdir(exist_ok=True)
        with held(self.folder):
            try:
                yield
            finally:
                self.write({"over": True})

    def write(self, message: dict[str, object]) -> None:
        """Write a message of the first task."""
        write_json(self.folder / "head.json", message)

    def read(self) -> dict[str, object]:
        """Message of the first task; empty before the first one, or while the disk is away."""
        try:
            self.folder.stat()  # a network disk may cache that the file is absent
            return dict(json.loads((self.folder / "head.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    @property
    def is_held(self) -> bool:
        """Whether the first task lives."""
        if live_holder(self.folder) is None:
            return False
        self.seen, self.patience_seconds = time.monotonic(), LOST_SECONDS
        return True

    @property
    def is_deserted(self) -> bool:
        """Whether the first task has been lost for a while, or has not come."""
        return not self.is_held and time.monotonic() - self.seen > self.patience_seconds and not self.read().get("over")


def _end(job: TuneJob) -> bool:
    """Requeue the job without its first task, or cancel it if it was requeued too often; False if SLURM does not."""
    number, restart = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")
    shown = slurm.output("scontrol", "show", "job", number)
    if shown is None:
        print("the first node of the job is lost, and SLURM does not answer", flush=True)
        return False
    if f"Restarts={restart}" in shown.split():  # otherwise another task was faster
        verb = "requeued" if int(restart) < job.requeues else "cancelled, since it was requeued too often"
        print(f"the first node of job {number} is lost; the job is {verb}", flush=True)
        command = ("scontrol", "requeue") if int(restart) < job.requeues else ("scancel",)
        if (answer := slurm.call(*command, number)) is None or answer.returncode != 0:
            print(answer.stderr.strip() if answer else "SLURM does not answer", flush=True)
            return False
    return True
