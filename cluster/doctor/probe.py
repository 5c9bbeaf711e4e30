"""What `symbench doctor` runs in a job, on every rank of it."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import submitit
import torch

from benchmark.errors import MachineError
from benchmark.files import write_json
from benchmark.training.distributed import join
from benchmark.training.environment import available_cpus
from cluster.jobs.staging import scratch_folder
from cluster.slurm import commands as slurm

QUESTION, ANSWER, DONE = "question.json", "rank-{}.json", "done.json"
IN_JOB_COMMANDS = ("sbatch", "srun", "squeue", "sacct")
"""What the last job of a submission calls."""
IMPORTED = ("e2cnn", "h5py", "mlflow")


def probe(folder: str, ranks: int, nodes: int, device: str, scratch: str | None) -> None:
    """Leave in `folder` what each rank finds: versions, devices, the time; then, whether they can add numbers up."""
    task = submitit.JobEnvironment()
    where = Path(folder)
    write_json(where / ANSWER.format(task.global_rank), describe(where, scratch))
    gpus = torch.cuda.device_count()
    if device == "cuda" and not gpus:
        return
    place = torch.device("cuda", task.local_rank % gpus) if device == "cuda" else torch.device("cpu")
    started = time.perf_counter()
    with join(task.global_rank, ranks, place, where / "rendezvous.json", nodes) as world:
        summed = float(world.sum(torch.ones(1 << 20, device=place))[0])
    if task.global_rank == 0:
        write_json(where / DONE, {"sum": summed, "seconds": time.perf_counter() - started})


def describe(folder: Path, scratch: str | None) -> dict[str, Any]:
    """This process as somebody on the login node has to know it."""
    missing = slurm.missing(*IN_JOB_COMMANDS)
    found = {
        "host": socket.gethostname(),
        "executable": sys.executable,
        **versions(),
        "broken": [problem for name in IMPORTED if (problem := _import_error(name))],
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cpus": available_cpus(),
        "scratch": _scratch_problem(scratch),
        "question": _read(folder / QUESTION),
        "missing_commands": missing,
        "controller": slurm.queue() is not None,
    }
    return {**found, "time": time.time()}  # at the end: it is compared to the time of the file


def versions() -> dict[str, str]:
    """What has to be the same where jobs are sent and where they run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "symbench": version("symbench"),
        "checkout": str(Path(__file__).resolve().parents[2]),
    }


def _import_error(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a library that does not fit its machine may raise anything
        return f"{name}: {type(error).__name__}: {error}"
    return ""


def _scratch_problem(scratch: str | None) -> str:
    """Why data cannot be copied to `scratch`; empty where they can, or need not."""
    if scratch is None:
        return ""
    try:
        folder = scratch_folder(scratch)
        with (folder / f".probe-{os.getpid()}").open("w") as file:
            file.write("a line")
        Path(file.name).unlink()
        shutil.disk_usage(folder)
    except MachineError as error:
        return str(error)
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return ""


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return str(error)
