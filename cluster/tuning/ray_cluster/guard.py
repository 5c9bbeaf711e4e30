"""Guard of one command: `python -m cluster.tuning.ray_cluster.guard FOLDER LOG COMMAND...`.

When its standard input ends, which happens however its parent dies, the guard ends the command, kills all processes
that the command has started, and removes FOLDER. It is a separate process because the parent may be killed with -9.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 8.0
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36


def main(folder: Path, log: Path, command: list[str]) -> int:
    """Exit status of the command, -SIGTERM if the guard ended it."""
    is_over = threading.Event()
    for number in (signal.SIGINT, signal.SIGUSR2):  # sent to a whole job; only the parent reacts. Children inherit it
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: is_over.set())
    threading.Thread(target=_wait_for_parent, args=(is_over,), daemon=True).start()
    _prctl(_SET_CHILD_SUBREAPER, 1)  # orphaned descendants become children of the guard
    with log.open("ab") as output:
        output.write(f"Ray's own files are in {folder}, as long as it runs\n".encode())
        output.flush()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM),
        )
        while child.poll() is None and not is_over.wait(0.1):
            pass
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(descendants, timeout=2)
    shutil.rmtree(folder, ignore_errors=True)
    return child.poll() or 0


def _wait_for_parent(is_over: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    is_over.set()


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere orphaned descendants are not killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
