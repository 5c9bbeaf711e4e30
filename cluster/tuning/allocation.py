"""Task in a SLURM allocation of tuning; one task runs on each node and keeps a Ray node there.

The first task runs the head and the driver, and writes the head's address to a file beside the job. The other tasks
join that head, repeatedly while it exists. If a node is lost, Tune resumes its trials elsewhere from their checkpoints.
"""

import json
import os
import sys
import time
from pathlib import Path

import submitit

from benchmark.errors import MachineError
from benchmark.files import write_json
from cluster.jobs.job import REQUEUE_MARK
from cluster.jobs.signals import Signals
from cluster.tuning.hangs import HangCount
from cluster.tuning.job import TuneJob
from cluster.tuning.ray_cluster.ray_node import RayNode, address_towards
from cluster.tuning.supervise import run_studies
from results.store.studies import StudyFolder

POLL_SECONDS = 0.5
MEETING_SECONDS = 600.0
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
    meeting = path.with_name(f"ray-{path.stem}-{task.job_id}-{restart}.json")
    if task.global_rank > 0:
        _join(job, path, meeting, signals)
        return
    patience = job.signal_seconds * PATIENCE_SHARE
    hangs = HangCount([StudyFolder(job.store, study) for study in job.studies])
    try:
        status = run_studies(
            job, path, lambda: signals.stop, patience, lambda head: write_json(meeting, {"address": head.address})
        )
    finally:
        write_json(meeting, {"over": True})
    if signals.time_is_up and int(restart) < job.requeues:
        path.with_name(REQUEUE_MARK.format(job=os.environ.get("SLURM_JOB_ID", ""), restart=restart)).touch()
        hangs.time_is_up()
    elif status != 0:
        sys.exit(status)


def _join(job: TuneJob, path: Path, meeting: Path, signals: Signals) -> None:
    """Keep a node in the cluster of the current head until the first task declares the job over.

    A lost node joins again: the first task may have started another head, or the network may have been interrupted.
    """
    log = path.with_name(f"{path.stem}-ray-{os.environ.get('SLURMD_NODENAME', os.uname().nodename)}.log")
    deadline = time.monotonic() + MEETING_SECONDS
    while not (message := _read(meeting)).get("over") and not signals.terminated and time.monotonic() < deadline:
        if address := str(message.get("address", "")):
            try:
                ip = address_towards(address.partition(":")[0])
                with RayNode(log, ip, job.node_cpus, job.node_gpus, address) as node:
                    while node.alive and _read(meeting) in ({}, message):
                        time.sleep(POLL_SECONDS)
                deadline = time.monotonic() + MEETING_SECONDS
            except (MachineError, OSError) as error:  # the head may be unreachable for a while
                print(error, flush=True)
        time.sleep(POLL_SECONDS)


def _read(meeting: Path) -> dict[str, object]:
    """Message of the first task; empty before the first one, or while the disk is away."""
    try:
        meeting.parent.stat()  # a network disk may cache that the file is absent
        return dict(json.loads(meeting.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
