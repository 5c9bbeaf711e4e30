"""Waits for a job while the user waits at the terminal."""

import time
from collections.abc import Callable
from pathlib import Path

from cluster.slurm import commands as slurm

POLL_SECONDS = 1.0


def wait_for(job: str, patience_seconds: float, on_state: Callable[[str], None] = lambda state: None) -> str | None:
    """Wait until `job` leaves the queue. Returns None, or its state after `patience_seconds`. Ctrl-C cancels the job.

    `on_state` is called at each change of state.
    """
    deadline, last_state = time.monotonic() + patience_seconds, ""
    try:
        while (queue := slurm.queue()) is None or job in queue:
            state = "unknown, squeue does not answer" if queue is None else queue[job]
            if state != last_state:
                on_state(state + _reason(job, state))
                last_state = state
            if time.monotonic() > deadline:
                return state + _reason(job, state)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        slurm.cancel([job])
        raise
    return None


def _reason(job: str, state: str) -> str:
    """Reason of SLURM why a job is pending, in brackets; otherwise empty."""
    if state != "PENDING":
        return ""
    reason = (slurm.output("squeue", "--noheader", "--format=%r", f"--jobs={job}") or "").strip()
    return f" ({reason})" if reason not in ("", "None") else ""


def wait_for_files(folder: Path, names: set[str], patience_seconds: float) -> bool:
    """Wait for files, which a network disk may show some time after the end of a job. Returns whether all appeared."""
    deadline = time.monotonic() + patience_seconds
    while names - {path.name for path in folder.iterdir()}:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def last_log_line(folder: Path, job: str) -> str:
    """Last line of the logs of `job` in `folder`, if possible not one of srun; empty without logs."""
    for path in sorted(folder.glob(f"{job}*_log.out")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if lines := [line.strip() for line in text.splitlines() if line.strip()]:
            return ([line for line in lines if not line.startswith("srun:")] or lines)[-1]
    return ""
