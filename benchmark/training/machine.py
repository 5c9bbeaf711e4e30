"""Processors, memory and GPUs of this machine, without torch, whose import takes seconds."""

import os
from contextlib import suppress
from pathlib import Path

import psutil

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of the drivers of NVIDIA and of AMD, and of both below Windows."""


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
    """Number of GPUs that torch sees; it is not imported where no driver of a GPU is loaded."""
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return 0
    import torch  # takes seconds

    return torch.cuda.device_count()
