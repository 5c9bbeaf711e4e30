"""Simulates the parts of data files in a SLURM array; what is assembled of them is `benchmark.data.prepare`'s."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import submitit

from benchmark.cell import Level
from benchmark.data.dataset import Part
from benchmark.data.prepare import Outline, TotalProgress, outline, simulate_part
from benchmark.errors import MachineError
from benchmark.files import write_json

from .launch import job_folder
from .site import Site

POLL_SECONDS = 2.0
COMMAND_PATIENCE_SECONDS = 60
GONE_AFTER_POLLS = 3
"""A file may be seen on this side a little later than the end of the job that wrote it."""


def simulate_on(site: Site, work: Outline, store_root: Path, progress: TotalProgress) -> None:
    """Leave all missing parts of `work` on the shared disk, by an array of jobs; waits for them.

    The same call goes on after an interruption. MachineError: no SLURM here, the jobs are refused, or end without
    having done their part, with the place of their logs. Ctrl-C cancels the array.
    """
    parts = work.missing_parts()
    if not parts:
        return
    folder = job_folder(store_root)
    shares = _shares(parts, site.jobs)
    share_file = folder / "shares.json"
    write_json(
        share_file,
        {
            "dataset": work.name,
            "preset": work.preset,
            "levels": list(work.levels),
            "folder": str(work.folder.resolve()),
            "solver": work.solver,
            "shares": [[part.key for part in share] for share in shares],
        },
    )
    jobs = _submit(site, folder, share_file, len(shares))
    array = jobs[0].job_id.split("_")[0]
    total = sum(part.work for part in parts)
    polls_without_jobs = 0
    try:
        while missing := [part for part in parts if not work.part_path(part).exists()]:
            progress(total - sum(part.work for part in missing), total)
            polls_without_jobs = 0 if _in_queue(array) else polls_without_jobs + 1
            if polls_without_jobs > GONE_AFTER_POLLS:
                raise MachineError(
                    f"the SLURM job {array} has ended and {len(missing)} of {len(parts)} parts are not simulated;"
                    f" its logs are in {folder}"
                )
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _slurm("scancel", array)
        raise
    progress(total, total)


def simulate_share(share_file: str, index: int) -> None:
    """What a job of the array runs."""
    document = json.loads(Path(share_file).read_text(encoding="utf-8"))
    levels: Sequence[Level] = document["levels"]
    work = outline(document["dataset"], document["preset"], levels, Path(document["folder"]), document["solver"])
    mine = set(document["shares"][index])
    for part in work.missing_parts():
        if part.key in mine:
            simulate_part(work, part, lambda done: None)


def _shares(parts: Sequence[Part], most: int) -> list[list[Part]]:
    """About the same work for each job: the largest part left goes to who has least."""
    shares: list[list[Part]] = [[] for _ in range(min(most, len(parts)))]
    for part in sorted(parts, key=lambda part: -part.work):
        min(shares, key=lambda share: sum(one.work for one in share)).append(part)
    return shares


def _submit(site: Site, folder: Path, share_file: Path, count: int) -> list[submitit.Job[None]]:
    try:
        executor = submitit.SlurmExecutor(folder=folder)
        executor.update_parameters(
            job_name="symbench-data",
            time=site.minutes,
            cpus_per_task=site.cpus,
            mem=f"{int(site.memory_gb * 1024)}M",
            array_parallelism=site.jobs,
            setup=list(site.setup),
            **{
                key: value
                for key in ("partition", "account", "qos", "constraint")
                if (value := getattr(site, key)) is not None
            },
        )
        return executor.map_array(simulate_share, [str(share_file)] * count, range(count))
    except (RuntimeError, submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        reason = " ".join(str(error).split())
        raise MachineError(f"SLURM does not take the jobs: {reason}") from error


def _in_queue(array: str) -> bool:
    """Whether any job of the array waits or runs. A controller that does not answer is no answer: assume so."""
    answer = _slurm("squeue", "--noheader", "--format=%T", f"--jobs={array}")
    if answer is None:
        return True
    return bool(answer.stdout.strip()) or (answer.returncode != 0 and "Invalid job id" not in answer.stderr)


def _slurm(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_PATIENCE_SECONDS, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None
