"""Tries a machine or a cluster before hundreds of cells do; each finding says what to do."""

from __future__ import annotations

import importlib
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
from cluster.doctor.probe import ANSWER, DONE, QUESTION, probe, versions
from cluster.jobs.packing import Shape
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.executor import cluster_folder, executor_for, require_plain_path, submission_errors
from cluster.slurm.waiting import last_log_line, wait_for, wait_for_files

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
CLOCK_SECONDS = 30.0
DISK_SECONDS, LATE_SECONDS = 60.0, 5.0
"""A job's files that are not seen after so long are on another disk; where its log is seen, they come soon or never."""
FREE_GB = 5.0


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
    for name in ("e2cnn", "mlflow", "submitit"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield Finding(name, "failed", str(error), "run `make install` again")
    yield _store(store_root)


def examine_site(site: Site, store_root: Path, patience_seconds: float) -> Iterator[Finding]:
    """A cluster, from the machine on which jobs are submitted. Sends one job, which takes seconds once it starts.

    UserError: SLURM would rewrite the store's path.
    """
    require_plain_path(store_root)
    store = _store(store_root)
    yield store
    missing = slurm.missing(*COMMANDS)
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
    yield _arrays(site, config)
    if store.verdict == "failed":
        return
    shape = Shape("cuda" if site.gpus_per_node else "cpu", 2, nodes=2)
    refused = _refused(shape, site, store_root)
    if refused:
        shape = Shape(shape.device, 1)
        alone = _refused(shape, site, store_root)
        if alone:
            advice = "correct partition, account, qos, constraint, minutes, cpus, memory_gb or gres in the site file"
            yield Finding("limits", "failed", alone, advice)
            return
        yield Finding("two nodes", "warning", refused, "cells with `nodes: 2` cannot run here")
    yield Finding("limits", "ok", f"{site.minutes} minutes, {site.cpus} CPUs and {site.memory_gb:g} GB for each rank")
    yield from _trial(site, shape, store_root, patience_seconds)


def _store(root: Path) -> Finding:
    """Looked at and left alone: where it is not there yet, the nearest folder above it decides."""
    advice = "set SYMBENCH_STORE to a folder you can write to"
    try:
        there = next(folder for folder in (root.resolve(), *root.resolve().parents) if folder.exists())
    except OSError as error:  # a folder above it that may not be looked into
        return Finding("store", "failed", f"{root}: {error.strerror}", advice)
    if not there.is_dir():
        return Finding("store", "failed", f"{root}: {there} is a file", advice)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("store", "failed", f"{root}: no permission to write in {there}", advice)
    free = shutil.disk_usage(there).free / 1e9
    if free < FREE_GB:
        return Finding(
            "store", "warning", f"{root}: {free:.1f} GB free", "data at paper size take about 0.4 GB a level"
        )
    return Finding("store", "ok", f"{root}: {free:.0f} GB free" + ("" if root.exists() else "; it is not there yet"))


def _accounting() -> Finding:
    answer = slurm.call("sacct", "-X", "--noheader", "--format=JobID", patience=20)
    if answer is not None and answer.returncode == 0:
        return Finding("accounting", "ok", "sacct answers")
    advice = "jobs run without it; why one died (memory, node, time) is then not known, and counts as `killed`"
    return Finding("accounting", "warning", "sacct does not answer", advice)


def _arrays(site: Site, config: Mapping[str, str]) -> Finding:
    largest = int(config.get("MaxArraySize", 0))
    if site.max_array_size is not None and site.max_array_size > largest:
        return Finding("arrays", "failed", f"max_array_size {site.max_array_size}, MaxArraySize {largest}", "lower it")
    return Finding("arrays", "ok", f"up to {site.max_array_size or largest} jobs in one")


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


def _trial(site: Site, shape: Shape, store_root: Path, patience_seconds: float) -> Iterator[Finding]:
    """One job. What it leaves is removed where all went well."""
    above = [folder for folder in (store_root / "jobs", store_root) if not folder.exists()]
    folder = cluster_folder(store_root)
    write_json(folder / QUESTION, str(folder))
    written = (folder / QUESTION).stat().st_mtime - time.time()
    findings = []
    for finding in _job(site, shape, folder, patience_seconds, written):
        findings.append(finding)
        yield finding
    if not any(finding.verdict == "failed" for finding in findings):
        shutil.rmtree(folder, ignore_errors=True)
        for made in above:
            with suppress(OSError):  # somebody else has put something there
                made.rmdir()


def _job(
    site: Site, shape: Shape, folder: Path, patience_seconds: float, disk_is_ahead_seconds: float
) -> Iterator[Finding]:
    try:
        with submission_errors("trial job"):
            executor = executor_for(folder, site, shape, "symbench doctor")
            job = executor.submit(probe, str(folder), shape.ranks, shape.nodes, shape.device, site.scratch)
    except MachineError as error:
        yield Finding("job", "failed", str(error), "correct the site file by what sbatch says")
        return
    yield Finding("job", "ok", f"{job.job_id} is sent; waiting up to {patience_seconds:.0f} s for it")
    state = wait_for(job.job_id, patience_seconds)
    if state is not None:
        slurm.cancel([job.job_id])
        advice = "wait longer with --patience, or choose a partition with free nodes"
        yield Finding("job", "failed", f"{job.job_id} is {state} after {patience_seconds:.0f} s", advice)
        return
    answers = [ANSWER.format(rank) for rank in range(shape.ranks)]
    ended = time.monotonic()
    while not wait_for_files(folder, set(answers), LATE_SECONDS) and time.monotonic() - ended < DISK_SECONDS:
        if last_log_line(folder, job.job_id):
            break
    words = last_log_line(folder, job.job_id)
    missing = [answer for answer in answers if not (folder / answer).exists()]
    if missing and words:
        advice = "set `setup` or `python` in the site file so that this Python starts in a job"
        yield Finding("environment", "failed", f"{words} ({folder})", advice)
        return
    if missing:
        state = slurm.accounts([job.job_id]).get(job.job_id, "")
        detail = f"nothing of job {job.job_id}{f' ({state})' if state else ''} is seen in {folder}"
        yield Finding("shared folder", "failed", detail, "put the store on a disk that login and compute nodes share")
        return
    ranks = [json.loads((folder / answer).read_text(encoding="utf-8")) for answer in answers]
    for rank, answer in zip(ranks, answers, strict=True):
        rank["ahead_of_disk"] = rank["time"] - (folder / answer).stat().st_mtime
    yield from rank_findings(site, ranks, str(folder), disk_is_ahead_seconds)
    if (folder / DONE).exists():
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        backend = "nccl" if shape.device == "cuda" else "gloo"
        yield _sum(shape, backend, done)
    elif shape.device == "cpu" or ranks[0]["gpus"]:
        advice = "choose the network with NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME in `setup`"
        yield Finding("ranks", "failed", f"they did not find each other: {words} ({folder})", advice)


def _sum(shape: Shape, backend: str, done: Mapping[str, float]) -> Finding:
    where = f"{shape.ranks} on {shape.nodes} nodes" if shape.ranks > 1 else "one"
    if done["sum"] != shape.ranks:
        advice = "the network between nodes, or its driver, gives wrong numbers: tell the administrators"
        return Finding(
            "ranks", "failed", f"{where}: the sum of {shape.ranks} ones is {done['sum']:g} ({backend})", advice
        )
    return Finding("ranks", "ok", f"{where} met and summed in {done['seconds']:.1f} s ({backend})")


def rank_findings(
    site: Site, ranks: Sequence[Mapping[str, Any]], question: str, disk_is_ahead_seconds: float
) -> Iterator[Finding]:
    """What is made of the ranks' answers (cluster/doctor/probe.py)."""
    first, hosts = ranks[0], ", ".join(dict.fromkeys(rank["host"] for rank in ranks))
    if all(rank["question"] == question for rank in ranks):
        yield Finding("shared folder", "ok", f"files of {hosts} are seen here, and ours there")
    else:
        unread = next(rank for rank in ranks if rank["question"] != question)
        advice = "put the store on a disk that login and compute nodes share"
        yield Finding(
            "shared folder", "failed", f"{unread['host']} does not see our file: {unread['question']}", advice
        )
    told = f"Python {first['python']}, torch {first['torch']}, symbench {first['symbench']}, {first['cpus']} CPUs"
    yield Finding("environment", "ok", f"{told}; {first['executable']}")
    ours = versions()
    for key in ("symbench", "checkout", "python", "torch"):
        if other := next((rank[key] for rank in ranks if rank[key] != ours[key]), None):
            advice = (
                "let `python` in the site file start what is installed here, or bind this checkout into the container"
            )
            yield Finding("versions", "warning", f"{key}: {ours[key]} here, {other} in the job", advice)
    for problem in dict.fromkeys(problem for rank in ranks for problem in rank["broken"]):
        yield Finding("libraries", "failed", problem, "run `make install` where the job's Python is")
    yield from _commands_in_job(first)
    yield from _devices(site, ranks)
    off = max(abs(disk_is_ahead_seconds), *(abs(rank["ahead_of_disk"]) for rank in ranks))
    if off > CLOCK_SECONDS:
        advice = "times in tables will be off; tell the administrators"
        yield Finding("clock", "warning", f"nodes, disk and this machine are {off:.0f} s apart", advice)
    else:
        yield Finding("clock", "ok", f"nodes, disk and this machine are within {max(off, 0.1):.1f} s")
    for rank in ranks:
        if rank["scratch"]:
            advice = "correct `scratch` in the site file, or leave it out; until then data are read from the store"
            yield Finding("scratch", "warning", f"{rank['host']}: {rank['scratch']}", advice)


def _commands_in_job(rank: Mapping[str, Any]) -> Iterator[Finding]:
    """The last job of a submission asks SLURM what became of the others, and sends some again."""
    if rank["missing_commands"] or not rank["controller"]:
        missing = ", ".join(rank["missing_commands"])
        detail = f"not in reach: {missing}" if missing else "squeue does not answer there"
        advice = (
            "what fails is then not sent again by itself: `symbench run` does it; or bind the commands, slurm.conf and "
            "munge's socket into the container"
        )
        yield Finding("commands in a job", "warning", detail, advice)
    else:
        yield Finding("commands in a job", "ok", "sbatch and squeue are in reach")


def _devices(site: Site, ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    blind = [rank["host"] for rank in ranks if not rank["gpus"]]
    if site.gpus_per_node and blind:
        advice = "check gres, the driver, that torch is a CUDA build, and `--nv` of a container"
        yield Finding("gpu", "failed", f"torch sees none in the job on {', '.join(dict.fromkeys(blind))}", advice)
    elif site.gpus_per_node:
        names = dict.fromkeys(name for rank in ranks for name in rank["gpus"])
        yield Finding("gpu", "ok", ", ".join(names))


def require_ready(findings: list[Finding]) -> None:
    """MachineError where something failed."""
    failed = [finding.check for finding in findings if finding.verdict == "failed"]
    if failed:
        raise MachineError(f"not ready: {', '.join(failed)}")
