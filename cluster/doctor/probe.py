"""The trial job of `symbench doctor`: every rank reports its environment."""

import importlib
import itertools
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import submitit
import torch

from benchmark.errors import MachineError
from benchmark.files import write_json
from benchmark.training.distributed import join, network_problem
from benchmark.training.machine import available_cpus, compute_modes, mig_slices
from cluster.jobs.staging import scratch_folder
from cluster.slurm import commands as slurm

QUESTION, ANSWER, DONE = "question.json", "rank-{}.json", "done.json"
IN_JOB_COMMANDS = ("sbatch", "srun", "squeue", "sacct")
"""Commands that the last job of a submission needs."""
IMPORTED = ("e2cnn", "h5py", "mlflow")


COMPILE_SECONDS = 300.0
COMPILE = """
import sys, torch
from benchmark.training.loss import compiled

class Increment(torch.nn.Module):
    def forward(self, x):
        return x + 1

device = torch.device(sys.argv[1])
compiled(Increment(), device)(torch.zeros(2, device=device))
"""


def probe(folder: str, ranks: int, nodes: int, device: str, scratch: str | None) -> None:
    """Write the answer of this rank to `folder`; then sum numbers over all ranks, and write the result on rank 0."""
    task = submitit.JobEnvironment()
    answers = Path(folder)
    gpus = torch.cuda.device_count()
    problem = compile_problem(device) if task.global_rank == 0 and (gpus or device == "cpu") else None
    write_json(answers / ANSWER.format(task.global_rank), {"compile": problem, **describe(answers, scratch)})
    if device == "cuda" and not gpus:
        return
    rank_device = torch.device("cuda", task.local_rank % gpus) if device == "cuda" else torch.device("cpu")
    started = time.perf_counter()
    with join(task.global_rank, ranks, rank_device, answers / "rendezvous.json", nodes) as world:
        summed = float(world.sum(torch.ones(1 << 20, device=rank_device))[0])
    if task.global_rank == 0:
        write_json(answers / DONE, {"sum": summed, "seconds": time.perf_counter() - started})


def describe(folder: Path, scratch: str | None) -> dict[str, Any]:
    """Environment of this process: versions, devices, visible files, SLURM's commands, and the time."""
    environment = {
        "host": socket.gethostname(),
        "executable": sys.executable,
        **versions(),
        "broken": import_problems(),
        "gpus": gpu_names(),
        "peers": gpus_reach_each_other(),
        "shm_bytes": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").exists() else 0,
        "slices": len(mig_slices()),
        "compute_modes": compute_modes(),
        "cpus": available_cpus(),
        "network": network_problem(),
        "scratch": _scratch_problem(scratch),
        "question": _read(folder / QUESTION),
        "missing_commands": slurm.missing(*IN_JOB_COMMANDS),
        "controller": slurm.queue() is not None,
    }
    return {**environment, "time": time.time()}  # last, since it is compared with the mtime of the file


def versions() -> dict[str, str]:
    """Versions that must be equal on the login node and in jobs."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "symbench": version("symbench"),
        "checkout": str(Path(__file__).resolve().parents[2]),
    }


def gpu_names() -> list[str]:
    """Names of the GPUs that torch sees."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpus_reach_each_other() -> bool:
    """Whether each GPU that torch sees can read the memory of every other; True with one or none."""
    pairs = itertools.permutations(range(torch.cuda.device_count()), 2)
    return all(torch.cuda.can_device_access_peer(*pair) for pair in pairs)


def compile_problem(device: str) -> str:
    """Reason why `train.compile` does not work on this machine; empty if it does. In a process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        command = [sys.executable, "-c", COMPILE, device]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"x + 1 is not compiled after {COMPILE_SECONDS:.0f} s"
    errors = re.findall(r"^[\w.]+: .+|.*fatal error: .+", done.stderr, re.M)
    return "" if done.returncode == 0 else (errors or [f"status {done.returncode}"])[0]


def import_problems() -> list[str]:
    """Error of each library that cannot be imported."""
    problems = []
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a library that does not fit its machine may raise anything
            problems.append(f"{name}: {type(error).__name__}: {error}")
    return problems


def _scratch_problem(scratch: str | None) -> str:
    """Reason why data cannot be copied to `scratch`; empty if they can, or if it is None."""
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
