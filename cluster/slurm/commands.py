"""Calls of SLURM's commands. A missing or hanging command is no error: the result is None or empty."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress

TIMEOUT_SECONDS = 30.0
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING", "SPECIAL_EXIT", "REQUEUE_FED"}
UNFINISHED = WAITING | {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"}


def missing(*commands: str) -> list[str]:
    """Commands that are not on the path, for instance in a container."""
    return [command for command in commands if shutil.which(command) is None]


def queue() -> dict[str, str] | None:
    """Job -> state of this user's queued and running jobs; None if the controller does not answer.

    A job of an array is `<array>_<index>`.
    """
    jobs = queue_with_reasons()
    return None if jobs is None else {job: state.split()[0] for job, state in jobs.items()}


def queue_with_reasons() -> dict[str, str] | None:
    """`queue`, where the state of a pending job is followed by the reason in brackets."""
    # By user id: $USER may be unset, or another user's under sudo.
    answer = call("squeue", "--noheader", "--array", "--format=%i %T %r", f"--user={os.getuid()}")
    if answer is None or answer.returncode != 0 or "Invalid user" in answer.stderr:
        return None  # status 0 and an empty list for a user id without a name, as in some containers
    rows = [line.split(maxsplit=2) for line in answer.stdout.splitlines() if line.strip()]
    return {
        job: f"{state} ({reason[0]})" if state == "PENDING" and reason not in ([], ["None"]) else state
        for job, state, *reason in rows
    }


def arrays_of(jobs: Iterable[str]) -> list[str]:
    """Distinct array numbers of `jobs`; a job outside an array is its own number."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def accounting_states(jobs: Iterable[str]) -> dict[str, str]:
    """Job -> last state according to sacct, which may lag some seconds behind the queue; empty without accounting."""
    arrays = sorted(arrays_of(jobs))
    if not arrays:
        return {}
    text = output("sacct", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(arrays)}")
    states: dict[str, str] = {}
    for line in (text or "").splitlines():
        name, _, state = line.partition("|")
        job, _, step = name.partition(".")
        if not step:
            states |= dict.fromkeys(_members(job), state)
        elif state == "OUT_OF_MEMORY" and states.get(job) == "FAILED":
            states[job] = state  # the job itself only knows that srun failed
    return states


def cancel(jobs: Iterable[str]) -> str | None:
    """Cancel jobs. Returns the reason if SLURM refuses or does not answer, otherwise None."""
    answer = call("scancel", *sorted(set(jobs)))
    if answer is None:
        return "scancel does not answer"
    return answer.stderr.strip() or None if answer.returncode else None


def settings() -> Mapping[str, str]:
    """Settings of the controller (slurm.conf); empty if it does not answer."""
    text = output("scontrol", "show", "config") or ""
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in lines}


def max_submit(account: str | None, partition: str | None) -> int | None:
    """Jobs that this user may have in the queue (MaxSubmitJobs); None without a limit, or without accounting.

    The limit is that of the association with `account`, by default the user's default account, and `partition`.
    """
    with suppress(KeyError):  # a user id without a name
        user = pwd.getpwuid(os.getuid()).pw_name
        form = "--format=DefaultAccount,Account,Partition,MaxSubmitJobs"
        rows = output("sacctmgr", "--noheader", "--parsable2", "show", "user", user, "withassoc", form) or ""
        limits = [
            int(limit)
            for default, of, on, limit in (row.split("|") for row in rows.splitlines() if row.count("|") == 3)
            if of == (account or default) and on in ("", partition) and limit.isdecimal()
        ]
        return min(limits, default=None)
    return None


def output(*command: str, timeout: float = TIMEOUT_SECONDS) -> str | None:
    """Output of a command; None if it is missing, fails, or does not end in time."""
    answer = call(*command, timeout=timeout)
    return answer.stdout if answer is not None and answer.returncode == 0 else None


def call(*command: str, timeout: float = TIMEOUT_SECONDS) -> subprocess.CompletedProcess[str] | None:
    """Completed command; None if it is missing or does not end in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None


def _members(job: str) -> list[str]:
    """Expand `12_[0-2,5%3]` to 12_0, 12_1, 12_2, 12_5."""
    array = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if array is None:
        return [job]
    members = []
    for part in array[2].split(","):
        first, _, last = part.partition("-")
        members += [f"{array[1]}_{index}" for index in range(int(first), int(last or first) + 1)]
    return members
