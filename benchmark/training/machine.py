"""Processors, memory and GPUs of this machine, without torch, whose import takes seconds."""

import os
import re
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of the drivers of NVIDIA and of AMD, and of both below Windows."""

EXCLUSIVE = "Exclusive_Process"
"""Compute mode of a GPU that takes one process at a time."""
NVIDIA_SMI_SECONDS = 30.0


def available_cpus() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of this machine, or of the container that limits this process."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or it contains "max"
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)


def gpu_count() -> int:
    """Number of GPUs that torch sees, or of MIG slices; torch is not imported where no driver of a GPU is loaded."""
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return 0
    if slices := mig_slices():
        return len(slices)
    import torch  # takes seconds

    return torch.cuda.device_count()


def mig_slices() -> list[str]:
    """UUIDs of the MIG slices of this machine, or of those that CUDA_VISIBLE_DEVICES names; empty if there are none.

    CUDA gives a process one slice alone, so that torch counts GPUs where a machine has slices.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = _nvidia_smi("-L") if chosen is None else chosen.split(",")
    return [match[0] for line in listed if (match := re.search(r"MIG-[^)\s]+", line))]


def compute_modes() -> list[str]:
    """Compute mode of each GPU in the words of its driver, as `Default` or `Exclusive_Process`; empty if unknown."""
    return list(_nvidia_smi("--query-gpu=compute_mode", "--format=csv,noheader"))


@cache
def _nvidia_smi(*arguments: str) -> tuple[str, ...]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
