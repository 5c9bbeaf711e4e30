"""Runs one command and leaves nothing of it behind: `python -m cluster.tuning.ray_cluster.guard FOLDER LOG COMMAND...`.

It ends the command when its own standard input ends, which happens however its parent dies, kills whatever the command
has started, those included that it has lost sight of, and removes FOLDER. It is a process of its own because the
parent may be killed without a word.
"""

from __future__ import annotations

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
    """The command's exit status; -SIGTERM where it was ended."""
    is_over = threading.Event()
    for number in (signal.SIGINT, signal.SIGUSR2):  # for those who decide; children inherit that they are ignored
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: is_over.set())
    threading.Thread(target=_until_the_parent_is_gone, args=(is_over,), daemon=True).start()
    _prctl(_SET_CHILD_SUBREAPER, 1)  # what loses its parent below becomes our child
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
    while left := psutil.Process().children(recursive=True):
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=2)
    shutil.rmtree(folder, ignore_errors=True)
    return child.poll() or 0


def _until_the_parent_is_gone(is_over: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    is_over.set()


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere what the command has lost sight of is left to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
