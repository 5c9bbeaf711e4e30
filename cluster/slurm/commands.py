"""SLURM's own commands; nothing else calls them. A command that hangs or is not there is no answer, never an error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping

PATIENCE_SECONDS = 30.0
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING", "SPECIAL_EXIT", "REQUEUE_FED"})
ACTIVE = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"})


def missing(*commands: str) -> list[str]:
    """Those of `commands` that are not on the path, as in a container."""
    return [command for command in commands if shutil.which(command) is None]


def queue() -> dict[str, str] | None:
    """Job -> state of all of ours that wait or run, in one call; None where the controller does not answer.

    A job of an array is `<array>_<index>`.
    """
    # By number, as SLURM knows the owner of a job: $USER may be another's, under sudo for instance, or not set.
    answer = call("squeue", "--noheader", "--array", "--format=%i %T", f"--user={os.getuid()}")
    if answer is None or answer.returncode != 0 or "Invalid user" in answer.stderr:
        return None  # a number without a name, as in some containers, ends with status 0 and an empty list
    return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())


def arrays_of(jobs: Iterable[str]) -> list[str]:
    """Numbers of the arrays that `jobs` belong to, each once; a job that is not of an array is itself."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def accounts(jobs: Iterable[str]) -> dict[str, str]:
    """Job -> state of those that accounting knows, in one call; the last state where a job was requeued.

    Empty where there is no accounting. It may lag some seconds behind the queue.
    """
    arrays = sorted(arrays_of(jobs))
    if not arrays:
        return {}
    answer = call("sacct", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(arrays)}")
    if answer is None or answer.returncode != 0:
        return {}
    states: dict[str, str] = {}
    for line in answer.stdout.splitlines():
        name, _, state = line.partition("|")
        job, _, step = name.partition(".")
        if not step:
            states |= dict.fromkeys(_members(job), state)
        elif state == "OUT_OF_MEMORY" and states.get(job) == "FAILED":
            states[job] = state  # what srun started was killed; of the job it is only known that srun failed
    return states


def cancel(jobs: Iterable[str]) -> str | None:
    """Cancel them in one call; the reason where SLURM refuses or does not answer."""
    answer = call("scancel", *sorted(set(jobs)))
    if answer is None:
        return "scancel does not answer"
    return answer.stderr.strip() or None if answer.returncode else None


def settings() -> Mapping[str, str]:
    """slurm.conf as the controller sees it; empty where it does not answer."""
    answer = call("scontrol", "show", "config")
    if answer is None or answer.returncode != 0:
        return {}
    lines = (line.partition("=") for line in answer.stdout.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in lines}


def call(*command: str, patience: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str] | None:
    """What a command prints; None where it is not there or does not come to an end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None


def _members(job: str) -> list[str]:
    """`12_[0-2,5%3]` -> 12_0, 12_1, 12_2, 12_5; a plain job is itself."""
    array = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if array is None:
        return [job]
    members = []
    for part in array[2].split(","):
        first, _, last = part.partition("-")
        members += [f"{array[1]}_{index}" for index in range(int(first), int(last or first) + 1)]
    return members
