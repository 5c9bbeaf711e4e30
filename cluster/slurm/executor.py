"""Job submission through submitit: resources of a job, job arrays, and errors of sbatch."""

from __future__ import annotations

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
from cluster.jobs.job import REQUEUE_MARK
from cluster.jobs.launch import job_folder
from cluster.jobs.packing import Shape
from cluster.site import Site
from cluster.slurm import commands as slurm

_REWRITTEN = {"%": "%", "\\": "a backslash", "\n": "a line break", "\r": "a line break"}


def cluster_folder(store_root: Path) -> Path:
    """A new folder for a job of a cluster and its logs. UserError: SLURM would not take its path as it stands."""
    require_plain_path(store_root)
    return job_folder(store_root)


def require_plain_path(path: Path) -> None:
    """UserError where SLURM, which is given paths below `path`, would make others of them."""
    wrong = [name for letter, name in _REWRITTEN.items() if letter in str(path.resolve())]
    if wrong:
        raise UserError(f"store {str(path)!r}: a path with {wrong[0]} in it cannot be given to SLURM")


@contextmanager
def submission_errors(what: str = "jobs") -> Iterator[None]:
    """MachineError where SLURM does not take what is submitted within."""
    try:
        yield
    except (RuntimeError, submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        raise MachineError(f"SLURM does not take the {what}: {' '.join(str(error).split())}") from error


def submit_array(
    executor: submitit.SlurmExecutor, function: Callable[[str], None], folder: Path, documents: Mapping[str, BaseModel]
) -> list[str]:
    """Send an array with a job for each of `documents`, and return their ids in that order.

    A document is written as JSON into `folder` under its name; the job calls `function` with that path. MachineError:
    SLURM refuses, or a file cannot be written.
    """
    for name, document in documents.items():
        write_text(folder / name, document.model_dump_json(indent=1))
    with submission_errors():
        return [job.job_id for job in executor.map_array(function, [str(folder / name) for name in documents])]


@contextmanager
def cancel_on_error(note: Path) -> Iterator[list[str]]:
    """Yields a list for the arrays that SLURM takes; after an error they are cancelled, and the note is removed."""
    taken: list[str] = []
    try:
        yield taken
    except BaseException as error:
        refusal = slurm.cancel(taken) if taken else None
        if refusal is None:
            with suppress(OSError):
                note.unlink(missing_ok=True)
        elif isinstance(error, SymbenchError):
            there = f"jobs {', '.join(taken)} are in the queue and cannot be cancelled ({refusal}); do so with scancel"
            raise MachineError(f"{error}; {there}") from error
        raise


def requeue_if_marked(folder: Path) -> list[str]:
    """Shell after srun: by then all lanes have saved, and SLURM's commands are there whatever image Python runs in."""
    mark = REQUEUE_MARK.format(job="$SLURM_JOB_ID", restart="${SLURM_RESTART_COUNT:-0}")
    refused = "symbench: job $SLURM_JOB_ID cannot be put back into the queue; the last job sends its cells again"
    return [
        "status=$?",
        f'if [ -e {shlex.quote(str(folder))}/"{mark}" ]; then',
        f'  scontrol requeue "$SLURM_JOB_ID" || echo "{refused}"',
        "fi",
        "exit $status",
    ]


class _DryExecutor(submitit.SlurmExecutor):
    """Needs no srun on this machine."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def executor_for(
    folder: Path,
    site: Site,
    shape: Shape,
    name: str,
    dependency: str | None = None,
    dry: bool = False,
    teardown: Sequence[str] = (),
) -> submitit.SlurmExecutor:
    """An executor for jobs of `shape`; `teardown` is shell that comes after srun."""
    # A cluster may end a whole job soon after its first task, which among lanes is just the one with least to do.
    lanes = ["--wait=0", "--kill-on-bad-exit=0"] if shape.lanes > 1 else []
    gpus = shape.gpus_per_node(site)
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": site.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "cpus_per_task": site.cpus,
        "mem": f"{round(site.memory_gb * 1024) * shape.tasks_per_node}M",
        "signal_delay_s": site.signal_seconds,
        "array_parallelism": site.jobs,
        "setup": list(site.setup),
        "stderr_to_stdout": True,
        # Since SLURM 22.05 srun does not take the batch's --cpus-per-task over.
        "srun_args": [f"--cpus-per-task={site.cpus}", *lanes, *site.srun],
        "teardown": list(teardown) or None,
        "additional_parameters": {"requeue": True},
        "dependency": dependency,
        **{key: getattr(site, key) for key in ("partition", "account", "qos", "constraint")},
    }
    if gpus:
        parameters |= {"gres": f"{site.gres}:{gpus}"} if site.gres else {"gpus_per_node": gpus}
    executor = (_DryExecutor if dry else submitit.SlurmExecutor)(folder=folder, python=site.python)
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    return executor
