"""Environment of a training: provenance, cores and memory. None of it is part of a cell's identity."""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import, and `plan` asks for the commit alone
    import torch

    from benchmark.training.distributed import World

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
KEPT_BYTES = 32 * 2**20
"""Largest block that malloc keeps; new pages for a larger one cost little compared with computing on it."""
CODE = (":/benchmark", ":/cluster", ":/results", ":/symbench.py", ":!/results/published")
"""Pathspecs of git: the folders whose changes make a record one of uncommitted code."""
STATE_FILE = "git.json"
"""File beside this one, in a copy of the code outside of its checkout, with what `git_state` has to return."""
LIBRARIES = ("torch", "e2cnn", "numpy", "h5py", "phiflow", "submitit")


def describe(world: "World") -> dict[str, Any]:
    """Versions, commit, machine and ranks of this process."""
    import torch

    cuda = world.device.type == "cuda"
    return {
        "symbench": importlib.metadata.version("symbench"),
        **git_state(Path(__file__).parent),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if cuda else platform.processor() or platform.machine(),
        "device_type": world.device.type,
        "processor": _processor(),
        "world_size": world.size,
        "threads": torch.get_num_threads(),
    }


def anonymous(world: "World") -> dict[str, Any]:
    """Provenance without the name and the kernel of the host, for files that are committed."""
    return {key: value for key, value in describe(world).items() if key not in ("host", "platform")}


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory; other allocators stay unchanged.

    Otherwise glibc returns it, and each step of a small network on a CPU asks the system for a thousand new pages.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(TRIM_THRESHOLD, -1)  # never


def return_freed_memory(device: "torch.device") -> None:
    """Return the memory of an earlier cell to the system, and to other processes on the GPU."""
    gc.collect()  # parametrised layers refer to themselves
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def reset_peak_memory(device: "torch.device") -> None:
    """Reset the peak and return freed memory, so that cells packed into one process do not report each other's."""
    return_freed_memory(device)
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: "torch.device") -> int | None:
    """Peak since the reset: allocated on the GPU, or resident in this process. None if the system reports none."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@cache
def _processor() -> str:
    """Model of the CPU, which decides the instructions that libraries choose, and so the last bits of a result."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


@cache
def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the checkout that `folder` lies in, and whether code differs from it, suites of a user left aside.

    Both are None outside of a checkout.
    """
    if (folder / STATE_FILE).exists():
        return dict(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *CODE)
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
