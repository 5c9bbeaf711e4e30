"""What runs inside an allocation of SLURM: one task on each node, which keeps a Ray of its own there.

The first task has the head and the driver. The others bring their nodes in, again and again while the head lives; what
they know of it stands in a file beside the job's. A node that is lost takes its trials with it: Tune starts them
elsewhere, from their checkpoints.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import submitit

from benchmark.errors import MachineError
from benchmark.files import write_json

from ..job import REQUEUE_MARK
from ..signals import Signals
from .job import TuneJob
from .ray_node import LOOPBACK, RayNode, address_towards, own_address, running, write_token
from .supervise import run_studies

POLL_SECONDS = 0.5
MEETING_SECONDS = 600.0
PATIENCE_SHARE = 0.5
"""Of the time between the signal and the limit, that trials are given to save."""


def run_allocation(job_file: str) -> None:
    """Search the studies of `job_file` until they are complete, or until the time is up.

    Then the trials save, and a mark is left for the batch script to put the job back into the queue.
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
    ip = LOOPBACK if job.nodes == 1 else own_address()
    token = write_token(path.parent)

    def tell(head: RayNode) -> None:
        write_json(meeting, {"address": head.address})

    try:
        run_studies(job, path, token, ip, lambda: signals.stop, job.signal_seconds * PATIENCE_SHARE, tell)
    finally:
        write_json(meeting, {"over": True})
    if signals.time_is_up and int(start) < job.requeues:
        path.with_name(REQUEUE_MARK.format(job=os.environ.get("SLURM_JOB_ID", ""), restart=start)).touch()


def _join(job: TuneJob, path: Path, meeting: Path, signals: Signals) -> None:
    """Keep a node in the cluster of whatever head there is, until the first task says that it is over."""
    token, log = (
        write_token(path.parent),
        path.with_name(f"{path.stem}-ray-{os.environ.get('SLURMD_NODENAME', os.uname().nodename)}.log"),
    )
    deadline = time.monotonic() + MEETING_SECONDS
    tried = ""
    while not (there := _read(meeting)).get("over"):
        address = str(there.get("address", ""))
        if address in ("", tried):
            if time.monotonic() > deadline or signals.terminated:
                return
            time.sleep(POLL_SECONDS)
            continue
        host = address.partition(":")[0]
        try:
            with running(log, token, address_towards(host), job.node_cpus, job.node_gpus, address) as node:
                while node.alive and (there := _read(meeting)).get("address") == address:
                    time.sleep(POLL_SECONDS)
        except MachineError as error:
            print(error, flush=True)
        # A head that was there and is gone: the first task starts another one, elsewhere.
        tried = address if not there.get("over") else ""
        deadline = time.monotonic() + MEETING_SECONDS


def _read(meeting: Path) -> dict[str, object]:
    """Empty where nobody has come yet, or the disk is away for a moment."""
    try:
        meeting.parent.stat()  # a network disk may go on saying that it is not there
        found: dict[str, object] = json.loads(meeting.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}
