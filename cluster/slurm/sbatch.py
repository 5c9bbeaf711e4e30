"""Job submission through submitit: resources of a job, job arrays, and errors of sbatch."""

import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import submitit
from pydantic import BaseModel

from benchmark.errors import MachineError, SymbenchError, UserError
from benchmark.files import write_text
from cluster.jobs.job import LAST_RANK_SECONDS, REQUEUE_MARK, job_folder
from cluster.jobs.packing import Shape
from cluster.jobs.snapshot import require_own
from cluster.site import Site
from cluster.slurm import commands as slurm

_EXPANDED_BY_SLURM = {"%": "%", "\\": "a backslash", "\n": "a line break", "\r": "a line break"}


def cluster_folder(store_root: Path) -> Path:
    """Make a new folder for a SLURM job and its logs. Raises UserError if SLURM would change its path."""
    require_plain_path(store_root)
    return job_folder(store_root)


def require_plain_path(path: Path) -> None:
    """Raise UserError if `path` has a character that SLURM expands or drops in paths of files."""
    if special := [name for letter, name in _EXPANDED_BY_SLURM.items() if letter in str(path.resolve())]:
        raise UserError(f"store {str(path)!r}: a path with {special[0]} in it cannot be given to SLURM")


class RefusedError(MachineError):
    """SLURM does not take jobs."""


def room(site: Site, others: int = 0) -> int | None:
    """Number of jobs that may be sent now beside `others`; None without a limit.

    Raises MachineError if there is no room, or if SLURM does not answer.
    """
    limit = site.max_jobs or slurm.max_submit(site.account, site.partition)
    if limit is None:
        return None
    if (queue := slurm.queue()) is None:
        raise MachineError(f"squeue does not answer, and at most {limit} jobs may be in the queue; try again later")
    if (free := limit - len(queue) - others) < 1:
        source = "max_jobs of the site" if site.max_jobs else "MaxSubmitJobs of your association"
        raise MachineError(
            f"no room: {len(queue)} jobs of yours are in the queue, and {source} is {limit}; wait for them"
        )
    return free


@contextmanager
def submission_errors(what: str = "jobs") -> Iterator[None]:
    """Turn errors of sbatch in this context into RefusedError, and others of the system into MachineError."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"the {what} cannot be sent: {error}") from error
    except (RuntimeError, submitit.core.utils.FailedJobError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        advice = "; set `max_jobs` in the site file" if "job submit limit" in reason else ""
        raise RefusedError(f"SLURM does not take the {what}: {reason}{advice}") from error


def submit_array(
    executor: submitit.SlurmExecutor, function: Callable[[str], None], folder: Path, documents: Mapping[str, BaseModel]
) -> list[str]:
    """Submit an array with one job for each of `documents` (file name -> content), and return the job ids in order.

    Each document is written to `folder` as JSON, and its job calls `function` with the path. Raises RefusedError if
    SLURM refuses the array, and MachineError if a file cannot be written.
    """
    for name, document in documents.items():
        write_text(folder / name, document.model_dump_json(indent=1))
    with submission_errors():
        return [job.job_id for job in executor.map_array(function, [str(folder / name) for name in documents])]


@contextmanager
def cancel_on_error(note: Path) -> Iterator[list[str]]:
    """Yield a list to collect submitted jobs in; after an error, cancel them and delete the note.

    After a refusal they stay, and so does their note.
    """
    submitted: list[str] = []
    try:
        yield submitted
    except BaseException as error:
        if submitted and isinstance(error, RefusedError):
            raise
        refusal = slurm.cancel(submitted) if submitted else None
        if refusal is None:
            with suppress(OSError):
                note.unlink(missing_ok=True)
        elif isinstance(error, SymbenchError):
            raise MachineError(
                f"{error}; jobs {', '.join(submitted)} are in the queue and cannot be cancelled ({refusal}); "
                "cancel them with scancel"
            ) from error
        raise


def requeue_if_marked(folder: Path) -> list[str]:
    """Shell lines after srun that requeue a marked job: all lanes have saved, and no container hides scontrol."""
    mark = REQUEUE_MARK.format(job="$SLURM_JOB_ID", restart="${SLURM_RESTART_COUNT:-0}")
    refused = "symbench: job $SLURM_JOB_ID cannot be requeued; the last job sends its cells again"
    return [
        "status=$?",
        f'if [ -e {shlex.quote(str(folder))}/"{mark}" ]; then',
        f'  scontrol requeue "$SLURM_JOB_ID" || echo "{refused}"',
        "fi",
        "exit $status",
    ]


class _DryExecutor(submitit.SlurmExecutor):
    """Executor that works without srun on this machine."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def executor_for(
    folder: Path, site: Site, shape: Shape, name: str, teardown: Sequence[str] = (), dry: bool = False
) -> submitit.SlurmExecutor:
    """Executor for jobs of `shape`; `teardown` are shell lines after srun. A `dry` one only writes batch scripts."""
    # By default SLURM may end a job soon after its first task, while other lanes work, or rank 0 notes an error.
    tasks = []
    if shape.tasks_per_node * shape.nodes > 1:
        tasks = [f"--wait={0 if shape.lanes > 1 else LAST_RANK_SECONDS}", "--kill-on-bad-exit=0"]
    gpus = shape.gpus_per_node(site)
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": shape.minutes or site.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "cpus_per_task": site.cpus,
        "mem": f"{round(site.memory_gb * 1024) * shape.tasks_per_node}M",
        "signal_delay_s": site.signal_seconds,
        "array_parallelism": site.jobs,
        "setup": [*site.setup, require_own(folder)],
        "stderr_to_stdout": True,
        # Since SLURM 22.05 srun ignores the --cpus-per-task of the batch script.
        "srun_args": [f"--cpus-per-task={site.cpus}", *tasks, *site.srun],
        "teardown": list(teardown) or None,
        "additional_parameters": {"requeue": True},
        "partition": site.partition_of(shape.device),
        **{key: getattr(site, key) for key in ("account", "qos", "constraint")},
    }
    if gpus:
        parameters |= {"gres": f"{site.gres}:{gpus}"} if site.gres else {"gpus_per_node": gpus}
    executor = (_DryExecutor if dry else submitit.SlurmExecutor)(folder=folder, python=site.python)
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    return executor
