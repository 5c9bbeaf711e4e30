"""Waits for a job whose answer somebody at the terminal wants."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.slurm import commands as slurm

POLL_SECONDS = 1.0


def wait_for(job: str, patience_seconds: float, say: Callable[[str], None] = lambda state: None) -> str | None:
    """None once `job` has left the queue; its state where it is still there when patience ends. Ctrl-C cancels it.

    A controller that does not answer is no answer. `say` is told each state once.
    """
    deadline, told = time.monotonic() + patience_seconds, ""
    try:
        while (queue := slurm.queue()) is None or job in queue:
            state = "unknown, squeue does not answer" if queue is None else queue[job]
            if state != told:
                say(state + _reason(job, state))
                told = state
            if time.monotonic() > deadline:
                return state + _reason(job, state)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        slurm.cancel([job])
        raise
    return None


def _reason(job: str, state: str) -> str:
    """Why a job waits, in SLURM's words."""
    answer = slurm.call("squeue", "--noheader", "--format=%r", f"--jobs={job}") if state == "PENDING" else None
    words = answer.stdout.strip() if answer is not None and answer.returncode == 0 else ""
    return f" ({words})" if words not in ("", "None") else ""


def wait_for_files(folder: Path, names: set[str], patience_seconds: float) -> bool:
    """Whether all of `names` are seen in `folder`: a network disk may show them some time after the job has ended."""
    deadline = time.monotonic() + patience_seconds
    while missing := names - {path.name for path in folder.iterdir()}:
        if time.monotonic() > deadline:
            return not missing
        time.sleep(POLL_SECONDS)
    return True


def last_log_line(folder: Path, job: str) -> str:
    """The last line that `job` wrote into its logs in `folder`; empty where there is none.

    What srun adds at the end, that a task has ended, is taken only where there is nothing else.
    """
    for path in sorted(folder.glob(f"{job}*_log.out")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        if written := [line for line in lines if line]:
            return ([line for line in written if not line.startswith("srun:")] or written)[-1]
    return ""
