"""Supervisor of a Ray cluster and its driver, which starts both again when one of them dies."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmark.discovery import ROOT
from benchmark.errors import MachineError
from cluster.tuning.job import STUDY_FAILED, TuneJob, stop_file
from cluster.tuning.ray_cluster.ray_node import LOOPBACK, RayNode, environment, own_address
from results.store.studies import StudyFolder

ATTEMPTS = 3
"""Deaths of Ray in a row, without a trial that finished, after which the supervisor gives up."""
POLL_SECONDS = 0.2


def run_studies(
    job: TuneJob,
    job_file: Path,
    should_stop: Callable[[], bool],
    patience_seconds: float,
    on_start: Callable[[RayNode], None] = lambda head: None,
) -> int:
    """Run the studies of a job and return 0, or 1 if a study failed. The cluster has ended by then.

    Once `should_stop` is true, the trials have `patience_seconds` to save. `on_start` gets each head that is started.
    Raises MachineError if Ray dies ATTEMPTS times in a row.
    """
    deaths = 0
    folders = [StudyFolder(job.store, study) for study in job.studies]
    ip = LOOPBACK if job.nodes == 1 else own_address()
    log = job_file.with_name(f"{job_file.stem}-ray.log")
    stop_file(job_file).unlink(missing_ok=True)
    while True:
        closed_before = sum(folder.closed_trials() for folder in folders)
        with RayNode(log, ip, job.node_cpus, job.node_gpus) as head:
            on_start(head)
            status = _drive(job, job_file, head, should_stop, patience_seconds)
        if status is not None:
            return status
        deaths = 0 if sum(folder.closed_trials() for folder in folders) > closed_before else deaths + 1
        if deaths == ATTEMPTS:
            raise MachineError(f"Ray died {ATTEMPTS} times in a row; see {job_file.parent}")
        print("Ray or its driver died; going on from the trials' checkpoints", flush=True)


def _drive(
    job: TuneJob, job_file: Path, head: RayNode, should_stop: Callable[[], bool], patience_seconds: float
) -> int | None:
    """Run the driver; 0, 1 if a study failed, None if the driver or the head died."""
    with _driver(job, job_file, head) as driver:
        deadline: float | None = None
        while driver.poll() is None and head.alive:
            if deadline is None and should_stop():
                stop_file(job_file).touch()
                deadline = time.monotonic() + patience_seconds
            if deadline is not None and time.monotonic() > deadline:
                return 0
            time.sleep(POLL_SECONDS)
        status = {0: 0, STUDY_FAILED: 1}.get(-1 if driver.poll() is None else driver.returncode)
        if status is None and (deadline is not None or should_stop()):  # SLURM may end all processes of a step
            return 0
        return status


@contextmanager
def _driver(job: TuneJob, job_file: Path, head: RayNode) -> Iterator[subprocess.Popen[bytes]]:
    """Driver process, killed at the end of the block; its stderr goes to a log beside the job."""
    with job_file.with_name(f"{job_file.stem}-driver.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.tuning.driver", str(job_file), head.address],
            stdin=subprocess.PIPE,
            stderr=log,
            env=environment(head.token, head.ip),
            cwd=None if job.code is None else ROOT,  # Ray puts it first on the path of its workers
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
