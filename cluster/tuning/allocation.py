"""What runs inside an allocation of SLURM: one task on each node, which keeps a Ray of its own there.

The first task has the head and the driver. The others bring their nodes in, again and again while the head lives; what
they know of it stands in a file beside the job's. A node that is lost takes its trials with it: Tune starts them
elsewhere, from their checkpoints.
"""

from __future__ import annotations

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
from cluster.tuning.job import TuneJob
from cluster.tuning.ray_cluster.ray_node import LOOPBACK, RayNode, address_towards, own_address, running, write_token
from cluster.tuning.supervise import run_studies

POLL_SECONDS = 0.5
MEETING_SECONDS = 600.0
PATIENCE_SHARE = 0.5
"""Of the time between the signal and the limit, that trials are given to save."""


def run_allocation(job_file: str) -> None:
    """Search the studies of `job_file` until they are complete, or until the time is up.

    Then the trials save, and a mark is left for the batch script to put the job back into the queue. Ends the process
    with status 1 where a study came to nothing.
    """
    path = Path(job_file)
    job = TuneJob.load(path)
    task = submitit.JobEnvironment()
    signals = Signals()
    signals.listen()
    start = os.environ.get("SLURM_RESTART_COUNT", "0")
    meeting = path.with_name(f"ray-{path.stem}-{task.job_id}-{start}.json")
    if task.global_rank > 0:
        _join(job, path, meeting, signals)
        return
    token = write_token(path.parent)

    def tell(head: RayNode) -> None:
        write_json(meeting, {"address": head.address})

    try:
        ip = LOOPBACK if job.nodes == 1 else own_address()
        status = run_studies(job, path, token, ip, lambda: signals.stop, job.signal_seconds * PATIENCE_SHARE, tell)
    finally:
        write_json(meeting, {"over": True})
    if signals.time_is_up and int(start) < job.requeues:
        path.with_name(REQUEUE_MARK.format(job=os.environ.get("SLURM_JOB_ID", ""), restart=start)).touch()
    elif status != 0:
        sys.exit(status)


def _join(job: TuneJob, path: Path, meeting: Path, signals: Signals) -> None:
    """Keep a node in the cluster of whatever head there is, until the first task says that it is over.

    A head that was there and is gone is followed by another one, or it was only the way to it that was away.
    """
    token, log = (
        write_token(path.parent),
        path.with_name(f"{path.stem}-ray-{os.environ.get('SLURMD_NODENAME', os.uname().nodename)}.log"),
    )
    deadline = time.monotonic() + MEETING_SECONDS
    while not (there := _read(meeting)).get("over") and not signals.terminated and time.monotonic() < deadline:
        if address := str(there.get("address", "")):
            try:
                ip = address_towards(address.partition(":")[0])
                with running(log, token, ip, job.node_cpus, job.node_gpus, address) as node:
                    while node.alive and _read(meeting) in ({}, {"address": address}):
                        time.sleep(POLL_SECONDS)
                deadline = time.monotonic() + MEETING_SECONDS
            except (MachineError, OSError) as error:  # there may be no way to the head for a while
                print(error, flush=True)
        time.sleep(POLL_SECONDS)


def _read(meeting: Path) -> dict[str, object]:
    """Empty where nobody has come yet, or the disk is away for a moment."""
    try:
        meeting.parent.stat()  # a network disk may go on saying that it is not there
        found: dict[str, object] = json.loads(meeting.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}
