"""Waits for a job while the user waits at the terminal."""

import time
from collections.abc import Callable
from pathlib import Path

from cluster.slurm import commands as slurm

LOOK_SECONDS = 1.0
"""Time between two looks at a folder, which disturb nobody; SLURM is asked less often, see `Site.poll_seconds`."""


def wait_for(
    job: str,
    folder: Path,
    patience_seconds: float,
    poll_seconds: float,
    on_state: Callable[[str], None] = lambda state: None,
) -> str | None:
    """Wait until `job` has written its result to `folder`, or leaves the queue, of which SLURM is asked now and then.

    Returns None, or its state after `patience_seconds`. `on_state` is called at each change of state. Ctrl-C cancels
    the job.
    """
    now = time.monotonic()
    deadline, next_question, last_state = now + patience_seconds, now, ""
    result = folder / f"{job}_0_result.pkl"
    try:
        while result not in folder.iterdir():
            if time.monotonic() >= next_question:
                if (queue := slurm.queue_with_reasons()) is not None and job not in queue:
                    return None
                state = "unknown, squeue does not answer" if queue is None else queue[job]
                if state != last_state:
                    on_state(state)
                    last_state = state
                next_question = time.monotonic() + poll_seconds
            if time.monotonic() > deadline:
                return last_state
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        slurm.cancel([job])
        raise
    return None


def wait_for_files(folder: Path, names: set[str], patience_seconds: float) -> bool:
    """Wait for files, which a network disk may show some time after the end of a job. Returns whether all appeared."""
    deadline = time.monotonic() + patience_seconds
    while names - {path.name for path in folder.iterdir()}:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def last_log_line(folder: Path, job: str) -> str:
    """Last line of the logs of `job` in `folder`, if possible not one of srun; empty without logs."""
    for path in sorted(folder.glob(f"{job}*_log.out")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if lines := [line.strip() for line in text.splitlines() if line.strip()]:
            return ([line for line in lines if not line.startswith("srun:")] or lines)[-1]
    return ""
