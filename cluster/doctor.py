"""Tries a machine or a cluster before hundreds of cells do; each finding says what to do."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import submitit
import torch

from benchmark.errors import MachineError

from . import slurm
from .launch import job_folder
from .packing import Shape
from .probe import probe
from .site import Site
from .submit import executor_for

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
CLOCK_SECONDS = 30.0
DISK_SECONDS = 60.0
"""A file of a job that is not seen after so long is on another disk."""
FREE_GB = 5.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `advice` is empty where all is well."""

    check: str
    verdict: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""


def examine_here(store_root: Path) -> Iterator[Finding]:
    """This machine: Python, torch, GPUs, a compiler, the store."""
    yield Finding("python", "ok", f"{platform.python_version()}, torch {torch.__version__}")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if gpus:
        yield Finding("gpu", "ok", ", ".join(gpus))
    else:
        yield Finding("gpu", "warning", "none that torch can use", "cells run on the CPU; a suite's `gpus` is refused")
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        yield Finding("compiler", "ok", "there is one for train.compile")
    else:
        yield Finding(
            "compiler", "warning", "no C++ compiler", "install one before a suite says `train: {compile: true}`"
        )
    for name in ("e2cnn", "phi", "mlflow", "submitit"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield Finding(name, "failed", str(error), "run `make install` again")
    yield _store(store_root)


def examine_site(site: Site, store_root: Path, patience_seconds: float) -> Iterator[Finding]:
    """A cluster, from the machine on which jobs are submitted. Sends one job, which takes seconds once it starts."""
    yield _store(store_root)
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        advice = "work on a login node of the cluster, or `module load slurm`"
        yield Finding("commands", "failed", f"{', '.join(missing)} not found", advice)
        return
    yield Finding("commands", "ok", ", ".join(COMMANDS))
    config = slurm.settings()
    if not config:
        yield Finding("controller", "failed", "slurmctld does not answer", "`scontrol ping`; ask the administrators")
        return
    yield Finding(
        "controller", "ok", f"SLURM {config.get('SLURM_VERSION', '?')}, cluster {config.get('ClusterName', '?')}"
    )
    yield _accounting()
    largest = int(config.get("MaxArraySize", 0))
    if site.max_array_size is not None and site.max_array_size > largest:
        yield Finding("arrays", "failed", f"max_array_size {site.max_array_size}, MaxArraySize {largest}", "lower it")
    else:
        yield Finding("arrays", "ok", f"up to {site.max_array_size or largest} jobs in one")
    gpus = site.gpus_per_node
    two = Shape("cuda" if gpus else "cpu", 2, nodes=2)
    refused = _refused(two, site, store_root)
    shape = two
    if refused:
        shape = Shape(two.device, 1)
        alone = _refused(shape, site, store_root)
        if alone:
            advice = "correct partition, account, qos, constraint, minutes, cpus, memory_gb or gres in the site file"
            yield Finding("limits", "failed", alone, advice)
            return
        yield Finding("two nodes", "warning", refused, "cells with `nodes: 2` cannot run here")
    yield Finding("limits", "ok", f"{site.minutes} minutes, {site.cpus} CPUs and {site.memory_gb:g} GB for each rank")
    yield from _job(site, shape, store_root, patience_seconds)


def _store(root: Path) -> Finding:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        return Finding(
            "store", "failed", f"{root}: {error.strerror}", "set SYMBENCH_STORE to a folder you can write to"
        )
    free = shutil.disk_usage(root).free / 1e9
    if free < FREE_GB:
        return Finding(
            "store", "warning", f"{root}: {free:.1f} GB free", "data at paper size take about 0.4 GB a level"
        )
    return Finding("store", "ok", f"{root}: {free:.0f} GB free")


def _accounting() -> Finding:
    answer = slurm.call("sacct", "-X", "--noheader", "--format=JobID", patience=20)
    if answer is not None and answer.returncode == 0:
        return Finding("accounting", "ok", "sacct answers")
    advice = "jobs run without it; why one died (memory, node, time) is then not known, and counts as `killed`"
    return Finding("accounting", "warning", "sacct does not answer", advice)


def _refused(shape: Shape, site: Site, store_root: Path) -> str:
    """Why SLURM would not take such a job; empty where it would."""
    executor = executor_for(store_root, site, shape, "symbench doctor", dry=True)
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        script.write(executor._make_submission_file_text("true", ""))
        script.flush()
        answer = slurm.call("sbatch", "--test-only", script.name)
    if answer is None:
        return "sbatch does not answer"
    return " ".join(answer.stderr.split()) if answer.returncode else ""


def _job(site: Site, shape: Shape, store_root: Path, patience_seconds: float) -> Iterator[Finding]:
    folder = job_folder(store_root)
    executor = executor_for(folder, site, shape, "symbench doctor")
    try:
        job = executor.submit(probe, str(folder), shape.ranks, shape.nodes, shape.device, site.scratch)
    except (RuntimeError, submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        yield Finding("job", "failed", " ".join(str(error).split()), "see what sbatch says above")
        return
    deadline = time.monotonic() + patience_seconds
    while (queue := slurm.queue()) is None or job.job_id in queue:
        if time.monotonic() > deadline:
            state = (queue or {}).get(job.job_id, "unknown")
            slurm.cancel([job.job_id])
            advice = "wait longer with --patience, or choose a partition with free nodes"
            yield Finding("job", "failed", f"{job.job_id} is {state} after {patience_seconds:.0f} s", advice)
            return
        time.sleep(POLL_SECONDS)
    seen = time.monotonic() + DISK_SECONDS
    while not (folder / "rank-0.json").exists() and time.monotonic() < seen and not _log(folder, job.job_id):
        time.sleep(POLL_SECONDS)
    if not (folder / "rank-0.json").exists():
        log = _log(folder, job.job_id)
        if log:
            advice = "set `setup` or `python` in the site file so that this Python starts in a job"
            yield Finding("environment", "failed", log, advice)
        else:
            advice = "put the store on a disk that login and compute nodes share"
            yield Finding("shared folder", "failed", f"nothing of job {job.job_id} is seen in {folder}", advice)
        return
    ranks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rank-*.json"))]
    hosts = ", ".join(dict.fromkeys(rank["host"] for rank in ranks))
    yield Finding("shared folder", "ok", f"files of {hosts} are seen here")
    yield Finding(
        "environment", "ok", f"Python {ranks[0]['python']}, torch {ranks[0]['torch']}, {ranks[0]['cpus']} CPUs"
    )
    yield from _devices(site, ranks[0]["gpus"])
    off = max(
        abs(rank["time"] - path.stat().st_mtime)
        for rank, path in zip(ranks, sorted(folder.glob("rank-*.json")), strict=True)
    )
    if off > CLOCK_SECONDS:
        yield Finding(
            "clock",
            "warning",
            f"nodes and disk are {off:.0f} s apart",
            "times in tables will be off; tell the administrators",
        )
    else:
        yield Finding("clock", "ok", f"within {max(off, 0.1):.1f} s")
    if problem := next((rank["scratch"] for rank in ranks if rank["scratch"]), ""):
        yield Finding("scratch", "failed", problem, "correct `scratch` in the site file, or leave it out")
    if (folder / "done.json").exists():
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        yield Finding("ranks", "ok", f"{shape.ranks} on {shape.nodes} nodes met and summed in {done['seconds']:.1f} s")
    else:
        advice = "choose the network with NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME in `setup`"
        yield Finding("ranks", "failed", f"they did not find each other: {_log(folder, job.job_id)}", advice)


def _devices(site: Site, gpus: int) -> Iterator[Finding]:
    if site.gpus_per_node and not gpus:
        yield Finding(
            "gpu", "failed", "torch sees none in the job", "check gres, the driver, and that torch is a CUDA build"
        )
    elif gpus:
        yield Finding("gpu", "ok", f"{gpus} in the job")


def _log(folder: Path, job_id: str) -> str:
    """The last line that the job wrote."""
    for path in sorted(folder.glob(f"{job_id}*_log.out")):
        lines = [
            line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        if lines:
            return lines[-1]
    return ""


def require_ready(findings: list[Finding]) -> None:
    """MachineError where something failed."""
    failed = [finding.check for finding in findings if finding.verdict == "failed"]
    if failed:
        raise MachineError(f"not ready: {', '.join(failed)}")
