"""What `symbench doctor` runs in a job, on every rank of it."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

import submitit
import torch

from benchmark.distributed import join
from benchmark.files import write_json


def probe(folder: str, ranks: int, nodes: int, device: str, scratch: str | None) -> None:
    """Leave in `folder` what rank 0 finds: versions, devices, the time, and whether ranks can add numbers up."""
    task = submitit.JobEnvironment()
    where = Path(folder)
    found = {
        "host": socket.gethostname(),
        "time": time.time(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpus": torch.cuda.device_count(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "scratch": _scratch(scratch),
    }
    write_json(where / f"rank-{task.global_rank}.json", found)
    place = torch.device("cuda", task.local_rank) if device == "cuda" else torch.device("cpu")
    started = time.perf_counter()
    with join(task.global_rank, ranks, place, where / "rendezvous.json", nodes) as world:
        total = world.sum(torch.ones(1 << 20, device=place))
        summed = float(total[0])
    if task.global_rank == 0:
        write_json(where / "done.json", {"sum": summed, "seconds": time.perf_counter() - started})


def _scratch(scratch: str | None) -> str:
    if scratch is None:
        return ""
    folder = Path(os.path.expandvars(scratch))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".symbench-probe").touch()
        (folder / ".symbench-probe").unlink()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return "" if "$" not in str(folder) else f"{folder}: the job has no such variable"
