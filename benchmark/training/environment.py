"""Where a result came from: provenance, which is never part of a cell's identity."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import inspect
import os
import platform
import socket
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmark.training.distributed import World

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""As glibc's malloc.h numbers them."""
KEPT_BYTES = 32 * 2**20
"""The largest block that is kept; the pages of a larger one cost little beside what is computed with it."""
LIBRARIES = ("torch", "e2cnn", "numpy", "h5py", "phiflow", "submitit")


def describe(world: World) -> dict[str, Any]:
    """Versions, commit, machine and ranks of this process."""
    cuda = world.device.type == "cuda"
    return {
        "symbench": importlib.metadata.version("symbench"),
        **_git(),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if cuda else platform.processor() or platform.machine(),
        "device_type": world.device.type,
        "world_size": world.size,
        "threads": torch.get_num_threads(),
    }


def anonymous(world: World) -> dict[str, Any]:
    """The same for what is to be committed: names of hosts, and what kernel they run, are nobody's business."""
    return {key: value for key, value in describe(world).items() if key not in ("host", "platform")}


def source_digest(model_class: type) -> str:
    """sha256 of the file that defines the model, since a plug-in stands in no commit of ours."""
    return hashlib.sha256(Path(inspect.getfile(model_class)).read_bytes()).hexdigest()


def available_cpus() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """What this machine has, or the container that this process is in."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for what comes next.

    Otherwise glibc gives it back, and each step of a small network on a CPU asks the system for a thousand new pages.
    Other systems have other allocators, which stay as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(TRIM_THRESHOLD, -1)


def reset_peak_memory(device: torch.device) -> None:
    """Start to measure the peak anew, so that cells packed into one process do not see each other's."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # what was kept is not this cell's
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak since the reset: allocated on the GPU, or resident in this process; None where the system cannot tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@cache
def _git() -> dict[str, Any]:
    folder = Path(__file__).parent
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
