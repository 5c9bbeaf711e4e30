"""Holds a Ray cluster and its driver together, and starts both anew when one of them dies."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmark.errors import MachineError
from cluster.tuning.job import FRUITLESS, TuneJob, stop_file
from cluster.tuning.ray_cluster.ray_node import RayNode, environment, running
from results.store.studies import StudyFolder

ATTEMPTS = 3
"""So often in a row Ray may die without a trial that came to its end."""
POLL_SECONDS = 0.2


def run_studies(
    job: TuneJob,
    job_file: Path,
    token: Path,
    ip: str,
    to_stop: Callable[[], bool],
    patience_seconds: float,
    tell: Callable[[RayNode], None] = lambda node: None,
) -> int:
    """The driver's exit status, its cluster gone. After `to_stop` all are given `patience_seconds` to save.

    `tell` is told of each head that is started. MachineError: Ray dies again and again.
    """
    fruitless = 0
    stop_file(job_file).unlink(missing_ok=True)
    while True:
        before = _ended(job)
        with running(job_file.with_name(f"{job_file.stem}-ray.log"), token, ip, job.node_cpus, job.node_gpus) as head:
            tell(head)
            status = _drive(job_file, token, ip, head, to_stop, patience_seconds)
        if status is not None:
            return status
        fruitless = 0 if _ended(job) > before else fruitless + 1
        if fruitless == ATTEMPTS:
            raise MachineError(f"Ray died {ATTEMPTS} times in a row; see {job_file.parent}")
        print("Ray or its driver died; going on from the trials' checkpoints", flush=True)


def _drive(
    job_file: Path, token: Path, ip: str, head: RayNode, to_stop: Callable[[], bool], patience_seconds: float
) -> int | None:
    """The driver's exit status; None where it or the head died."""
    with _driver(job_file, token, ip, head.address) as driver:
        deadline: float | None = None
        while driver.poll() is None and head.alive:
            if deadline is None and to_stop():
                stop_file(job_file).touch()
                deadline = time.monotonic() + patience_seconds
            if deadline is not None and time.monotonic() > deadline:
                return 0
            time.sleep(POLL_SECONDS)
        status = {0: 0, FRUITLESS: 1}.get(-1 if driver.poll() is None else driver.returncode)
        if status is None and (deadline is not None or to_stop()):  # who ends a whole step ends the driver, too
            return 0
        return status


@contextmanager
def _driver(job_file: Path, token: Path, ip: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process that speaks to Ray, gone at the end; what it says of itself is in a log beside the job."""
    with job_file.with_name(f"{job_file.stem}-driver.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.tuning.driver", str(job_file), address],
            stdin=subprocess.PIPE,
            stderr=log,
            env=environment(token, ip),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            if process.stdin is not None:
                process.stdin.close()


def _ended(job: TuneJob) -> int:
    """Trials that are at their end, of all studies."""
    folders = [StudyFolder(job.store, study) for study in job.studies]
    return sum(trial.closed for folder in folders for trial in folder.trials())
