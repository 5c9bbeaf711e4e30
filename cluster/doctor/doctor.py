"""Checks of a machine or a cluster before cells run there. Each problem comes with advice."""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmark.errors import MachineError
from benchmark.files import write_json
from benchmark.training.machine import EXCLUSIVE, compute_modes, mig_slices
from cluster.doctor.probe import (
    ANSWER,
    DONE,
    QUESTION,
    compile_problem,
    gpu_names,
    import_problems,
    probe,
    versions,
)
from cluster.jobs.packing import Shape
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.sbatch import cluster_folder, executor_for, require_plain_path, submission_errors
from cluster.slurm.waiting import last_log_line, wait_for, wait_for_files

Answer = Mapping[str, Any]
"""Environment of a rank, from `cluster.doctor.probe.describe`."""
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
CLOCK_SECONDS = 30.0
DISK_SECONDS, LATE_SECONDS = 60.0, 5.0
"""Longest wait for files of an ended job: if nothing of it is visible, and if its log is."""
CONNECTION_SECONDS = 60.0
"""Longest time in which ranks that have started connect."""
FREE_GB = 5.0
SHM_GB = 1.0
"""Memory that NCCL may need in /dev/shm. Containers often have 64 MB."""
SHARED_DISK_ADVICE = "put the store on a disk that login and compute nodes share"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is empty if all is well."""

    check: str
    verdict: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""


def examine_here(store_root: Path) -> Iterator[Finding]:
    """Check this machine: Python, torch, GPUs, compiler, libraries, store."""
    yield Finding("python", "ok", f"{platform.python_version()}, torch {torch.__version__}")
    gpus, no_gpu = ", ".join(gpu_names()), "cells run on the CPU; a suite with `gpus` is refused"
    yield Finding("gpu", "ok", gpus) if gpus else Finding("gpu", "warning", "torch sees none", no_gpu)
    yield from gpu_findings(compute_modes(), len(mig_slices()))
    yield _compiler(compile_problem("cuda" if gpus else "cpu"))
    for problem in import_problems():
        yield Finding("libraries", "failed", problem, "run `make install` again")
    yield _store(store_root)


def examine_site(site: Site, store_root: Path, patience_seconds: float) -> Iterator[Finding]:
    """Check a cluster from its login node, with one trial job that takes seconds once it starts.

    Raises UserError if SLURM would change the store's path.
    """
    require_plain_path(store_root)
    store = _store(store_root)
    yield store
    if missing := slurm.missing(*COMMANDS):
        advice = "run this on a login node of the cluster, or `module load slurm`"
        yield Finding("commands", "failed", f"{', '.join(missing)} not found", advice)
        return
    yield Finding("commands", "ok", ", ".join(COMMANDS))
    config = slurm.settings()
    if not config:
        yield Finding("controller", "failed", "slurmctld does not answer", "`scontrol ping`; ask the administrators")
        return
    version, name = config.get("SLURM_VERSION", "?"), config.get("ClusterName", "?")
    yield Finding("controller", "ok", f"SLURM {version}, cluster {name}")
    if slurm.output("sacct", "-X", "--noheader", "--format=JobID", timeout=20) is not None:
        yield Finding("accounting", "ok", "sacct answers")
    else:
        advice = "jobs run without it; a process that dies then counts as `killed`, whatever the reason"
        yield Finding("accounting", "warning", "sacct does not answer", advice)
    limit = int(config.get("MaxArraySize", 0))
    if site.max_array_size is not None and site.max_array_size > limit:
        detail = f"max_array_size {site.max_array_size} is more than SLURM's MaxArraySize {limit}"
        yield Finding("arrays", "failed", detail, f"set max_array_size to {limit} or less")
    else:
        yield Finding("arrays", "ok", f"up to {site.max_array_size or limit} jobs in one")
    if store.verdict == "failed":
        return
    if site.gpus_per_node and (refusal := _refusal(Shape("cpu", 1), site, store_root)):
        advice = "set `cpu_partition` in the site file: untrained models and the last job of a submission need no GPU"
        yield Finding("jobs without a GPU", "failed", refusal, advice)
    each = max(1, min(2, site.gpus_per_node))
    shape = Shape("cuda" if site.gpus_per_node else "cpu", 2 * each, nodes=2)
    if refusal := _refusal(shape, site, store_root):
        shape = Shape(shape.device, each)
        if refusal_of_one_node := _refusal(shape, site, store_root):
            advice = "correct partition, account, qos, constraint, minutes, cpus, memory_gb or gres in the site file"
            yield Finding("limits", "failed", refusal_of_one_node, advice)
            return
        yield Finding("two nodes", "warning", refusal, "cells with `nodes: 2` cannot run here")
    yield Finding("limits", "ok", f"{site.minutes} minutes, {site.cpus} CPUs and {site.memory_gb:g} GB for each rank")
    yield from _trial(site, shape, store_root, patience_seconds)


def _compiler(problem: str) -> Finding:
    advice = "`train: {compile: true}` needs a C++ compiler and Python.h (python3-dev), or `module load gcc` in `setup`"
    return Finding("compiler", "warning", problem, advice) if problem else Finding("compiler", "ok", "compiles x + 1")


def _store(root: Path) -> Finding:
    """Whether the store, or the nearest existing folder above it, can be written. Does not make it."""
    advice = "set SYMBENCH_STORE to a folder that you can write to"
    try:
        folder = next(folder for folder in (root.resolve(), *root.resolve().parents) if folder.exists())
    except OSError as error:  # a folder above is not readable
        return Finding("store", "failed", f"{root}: {error.strerror}", advice)
    if not folder.is_dir():
        return Finding("store", "failed", f"{root}: {folder} is a file", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("store", "failed", f"{root}: no permission to write in {folder}", advice)
    free = shutil.disk_usage(folder).free / 1e9
    if free < FREE_GB:
        advice = "paper-size data take about 0.4 GB for each level"
        return Finding("store", "warning", f"{root}: {free:.1f} GB free", advice)
    return Finding("store", "ok", f"{root}: {free:.0f} GB free" + ("" if root.exists() else "; does not exist yet"))


def _refusal(shape: Shape, site: Site, store_root: Path) -> str:
    """Reason why SLURM would refuse a job; empty if it would accept it."""
    executor = executor_for(store_root, site, shape, "symbench doctor", dry=True)
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        script.write(executor._make_submission_file_text("true", ""))
        script.flush()
        answer = slurm.call("sbatch", "--test-only", script.name)
    if answer is None:
        return "sbatch does not answer"
    return " ".join(answer.stderr.split()) if answer.returncode else ""


def _trial(site: Site, shape: Shape, store_root: Path, patience_seconds: float) -> Iterator[Finding]:
    """Findings of one job. Its folder, and new folders above it, are removed if nothing failed."""
    new_folders = [folder for folder in (store_root / "jobs", store_root) if not folder.exists()]
    folder = cluster_folder(store_root)
    has_failed = False
    for finding in _job(site, shape, folder, patience_seconds):
        has_failed |= finding.verdict == "failed"
        yield finding
    if not has_failed:
        shutil.rmtree(folder, ignore_errors=True)
        for new in new_folders:
            with suppress(OSError):  # another process has written into it
                new.rmdir()


def _job(site: Site, shape: Shape, folder: Path, patience_seconds: float) -> Iterator[Finding]:
    write_json(folder / QUESTION, str(folder))
    disk_ahead_seconds = (folder / QUESTION).stat().st_mtime - time.time()
    try:
        with submission_errors("trial job"):
            executor = executor_for(folder, site, shape, "symbench doctor")
            job = executor.submit(probe, str(folder), shape.ranks, shape.nodes, shape.device, site.scratch)
    except MachineError as error:
        yield Finding("job", "failed", str(error), "correct the site file as sbatch says")
        return
    yield Finding("job", "ok", f"{job.job_id} is sent; waiting up to {patience_seconds:.0f} s for it")
    state = wait_for(job.job_id, folder, patience_seconds, site.poll_seconds)
    answers = [ANSWER.format(rank) for rank in range(shape.ranks)]
    answered = state is not None and wait_for_files(folder, set(answers), 0.0)
    if answered:  # the queue was long, or the ranks hang
        state = wait_for(job.job_id, folder, CONNECTION_SECONDS, site.poll_seconds)
    if state is not None:
        slurm.cancel([job.job_id])
    if state is not None and not answered:
        advice = "wait longer with --patience, or choose a partition with free nodes"
        yield Finding("job", "failed", f"{job.job_id} is {state} after {patience_seconds:.0f} s", advice)
        return
    deadline = time.monotonic() + DISK_SECONDS
    while not (complete := wait_for_files(folder, set(answers), LATE_SECONDS)) and time.monotonic() < deadline:
        if last_log_line(folder, job.job_id):
            break
    line = last_log_line(folder, job.job_id)
    if not complete:
        state = slurm.accounting_states([job.job_id]).get(job.job_id, "state unknown")
        detail = f"no file of job {job.job_id} ({state}) appears in {folder}"
        advice = "set `setup` or `python` in the site file so that this Python starts in a job"
        no_python = Finding("environment", "failed", f"{line} ({folder})", advice)
        yield no_python if line else Finding("shared folder", "failed", detail, SHARED_DISK_ADVICE)
        return
    ranks = [json.loads((folder / answer).read_text(encoding="utf-8")) for answer in answers]
    for rank, answer in zip(ranks, answers, strict=True):
        rank["ahead_of_disk"] = rank["time"] - (folder / answer).stat().st_mtime
    yield from rank_findings(site, ranks, str(folder), disk_ahead_seconds)
    if (folder / DONE).exists():
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        yield _sum(shape, "nccl" if shape.device == "cuda" else "gloo", done)
    elif shape.device == "cpu" or ranks[0]["gpus"]:
        advice = (
            "choose the network with NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME in `setup`; NCCL_DEBUG=INFO says more"
        )
        hang = f"they have started, and hang for more than {CONNECTION_SECONDS:.0f} s"
        yield Finding("ranks", "failed", f"no connection between ranks: {hang if state else line} ({folder})", advice)


def _sum(shape: Shape, backend: str, done: Mapping[str, float]) -> Finding:
    where = f"{shape.ranks} on {'two nodes' if shape.nodes > 1 else 'one node'}"
    if done["sum"] != shape.ranks:
        detail = f"{where}: the sum of {shape.ranks} ones is {done['sum']:g} ({backend})"
        advice = "the network between nodes, or its driver, corrupts numbers: tell the administrators"
        return Finding("ranks", "failed", detail, advice)
    return Finding("ranks", "ok", f"{where}: connected and summed in {done['seconds']:.1f} s ({backend})")


def rank_findings(site: Site, ranks: Sequence[Answer], question: str, disk_ahead_seconds: float) -> Iterator[Finding]:
    """Findings from the answers of the ranks."""
    first, hosts = ranks[0], ", ".join(dict.fromkeys(rank["host"] for rank in ranks))
    if blind := next((rank for rank in ranks if rank["question"] != question), None):
        detail = f"{blind['host']} does not see a file written here: {blind['question']}"
        yield Finding("shared folder", "failed", detail, SHARED_DISK_ADVICE)
    else:
        yield Finding("shared folder", "ok", f"{hosts} and this machine see each other's files")
    software = f"Python {first['python']}, torch {first['torch']}, symbench {first['symbench']}"
    yield Finding("environment", "ok", f"{software}, {first['cpus']} CPUs; {first['executable']}")
    for key, here in versions().items():
        if other := next((rank[key] for rank in ranks if rank[key] != here), None):
            advice = "set `python` in the site file to this environment, or bind this checkout into the container"
            yield Finding("versions", "warning", f"{key}: {here} here, {other} in the job", advice)
    for problem in dict.fromkeys(problem for rank in ranks for problem in rank["broken"]):
        yield Finding("libraries", "failed", problem, "run `make install` for the Python of the job")
    yield _commands_in_job(first)
    blind_hosts = dict.fromkeys(rank["host"] for rank in ranks if not rank["gpus"])
    if site.gpus_per_node and blind_hosts:
        advice = "check gres, the driver, that torch is a CUDA build, and `--nv` of a container"
        yield Finding("gpu", "failed", f"torch sees none in the job on {', '.join(blind_hosts)}", advice)
    elif site.gpus_per_node:
        yield Finding("gpu", "ok", ", ".join(dict.fromkeys(name for rank in ranks for name in rank["gpus"])))
        for modes, slices in {(tuple(rank["compute_modes"]), rank["slices"]): None for rank in ranks}:
            yield from gpu_findings(modes, slices, site.cells_per_gpu)
        if site.gpus_per_node > 1:
            yield _gpus_of_a_node(ranks)
    if first["compile"] is not None:
        yield _compiler(first["compile"])
    offset = max(abs(disk_ahead_seconds), *(abs(rank["ahead_of_disk"]) for rank in ranks))
    if offset > CLOCK_SECONDS:
        advice = "times in tables will be wrong; tell the administrators"
        yield Finding("clock", "warning", f"clocks of nodes, disk and this machine are {offset:.0f} s apart", advice)
    else:
        yield Finding("clock", "ok", f"nodes, disk and this machine are within {max(offset, 0.1):.1f} s")
    for rank in ranks:
        if rank["network"] and len({rank["host"] for rank in ranks}) > 1:
            yield Finding("network", "failed", rank["network"], "a cell with `nodes: 2` needs it")
        if rank["scratch"]:
            advice = "correct or remove `scratch` in the site file; until then data are read from the store"
            yield Finding("scratch", "warning", f"{rank['host']}: {rank['scratch']}", advice)


def _gpus_of_a_node(ranks: Sequence[Answer]) -> Finding:
    """Whether the GPUs of one node can exchange gradients."""
    check, shm = "gpus of a node", min(rank["shm_bytes"] for rank in ranks) / 1e9
    peers = "reach" if all(rank["peers"] for rank in ranks) else "do not reach"
    detail = f"they {peers} each other's memory; /dev/shm has {shm:.2g} GB"
    if shm < SHM_GB:
        return Finding(check, "warning", detail, "NCCL needs about 1 GB: bind /dev/shm of the node into the container")
    return Finding(check, "ok", detail)


def gpu_findings(compute_modes: Sequence[str], slices: int, cells_per_gpu: int = 1) -> Iterator[Finding]:
    """Findings about GPUs that are divided, or that take one process or none."""
    if "Prohibited" in compute_modes:
        advice = "ask the administrators for the compute mode Default, or choose other GPUs with CUDA_VISIBLE_DEVICES"
        yield Finding("gpu mode", "failed", "a GPU takes no process (Prohibited)", advice)
    if EXCLUSIVE in compute_modes and cells_per_gpu > 1:
        detail = f"cells_per_gpu {cells_per_gpu}, but a GPU takes one process ({EXCLUSIVE})"
        yield Finding("gpu mode", "failed", detail, "set `cells_per_gpu: 1`, or ask for the compute mode Default")
    elif EXCLUSIVE in compute_modes:
        yield Finding("gpu mode", "ok", f"a GPU takes one process ({EXCLUSIVE}), and one cell runs on each")
    if slices:
        number = f"{slices} MIG slice{'s' if slices > 1 else ''}"
        yield Finding("gpu slices", "ok", f"{number}: a cell has one, and `resources: {{gpus: 2}}` is refused")


def _commands_in_job(rank: Answer) -> Finding:
    """Whether the last job of a submission can send failed cells again."""
    check, missing = "commands in a job", ", ".join(rank["missing_commands"])
    if rank["controller"] and not missing:
        return Finding(check, "ok", "sbatch and squeue are available")
    advice = (
        "failed cells are not sent again automatically, use `symbench run`; or bind the commands, slurm.conf and "
        "munge's socket into the container"
    )
    return Finding(check, "warning", f"not found: {missing}" if missing else "squeue does not answer there", advice)


def require_ready(findings: Sequence[Finding]) -> None:
    """Raise MachineError if a check failed."""
    if failed := [finding.check for finding in findings if finding.verdict == "failed"]:
        raise MachineError(f"not ready: {', '.join(failed)}")
