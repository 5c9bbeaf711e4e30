"""Simulates the parts of data files in a SLURM array; `benchmark.data.prepare` assembles them."""

import json
import time
from pathlib import Path

import submitit

from benchmark import discovery
from benchmark.data import dataset_registry
from benchmark.data.prepare import Outline, TotalProgress, outline, simulate_part
from benchmark.errors import MachineError
from benchmark.files import write_json
from cluster.jobs.packing import Shape, balance
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.sbatch import cluster_folder, executor_for, submission_errors

LOOK_SECONDS = 2.0
"""Time between two looks for files; SLURM is asked less often."""
LATE_SECONDS = 8.0
"""A network disk may show a file some time after the end of the job that wrote it."""


def simulate_on(site: Site, work: Outline, store_root: Path, progress: TotalProgress) -> None:
    """Simulate all missing parts of `work` in an array of jobs, and wait for them.

    Ctrl-C cancels the array; finished parts are kept, and the next call simulates the rest. Raises MachineError if
    there is no SLURM, it refuses the jobs, or they end with parts missing; UserError if SLURM would change the path.
    """
    parts = work.missing_parts()
    if not parts:
        return
    folder = cluster_folder(store_root)
    shares = balance(parts, lambda part: part.work, site.jobs, len(parts))
    share_file = folder / "shares.json"
    arguments = (work.name, work.preset, list(work.levels), str(work.folder.resolve()))
    plugins = {name: str(path) for name, path in discovery.DATASETS.plugins.items()}
    keys = [[part.key for part in share] for share in shares]
    write_json(share_file, {"outline": arguments, "plugins": plugins, "shares": keys})
    jobs = _submit(site, folder, share_file, len(shares))
    (array,) = slurm.arrays_of(job.job_id for job in jobs)
    total = sum(part.work for part in parts)
    next_question = time.monotonic() + site.poll_seconds
    deadline: float | None = None
    try:
        while missing := [part for part in parts if not work.part_path(part).exists()]:
            progress(total - sum(part.work for part in missing), total)
            now = time.monotonic()
            if deadline is None and now >= next_question:
                next_question = now + site.poll_seconds
                if (queue := slurm.queue()) is not None and array not in slurm.arrays_of(queue):
                    deadline = now + LATE_SECONDS
            if deadline is not None and now >= deadline:
                raise MachineError(
                    f"the SLURM job {array} has ended and {len(missing)} of {len(parts)} parts are not simulated;"
                    f" its logs are in {folder}"
                )
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        slurm.cancel([array])
        raise
    progress(total, total)


def simulate_share(share_file: str, index: int) -> None:
    """Entry point of a job of the array."""
    document = json.loads(Path(share_file).read_text(encoding="utf-8"))
    dataset_registry.import_plugins({name: Path(path) for name, path in document["plugins"].items()})
    name, preset, levels, folder = document["outline"]
    work = outline(name, preset, levels, Path(folder))
    mine = set(document["shares"][index])
    for part in work.missing_parts():
        if part.key in mine:
            simulate_part(work, part)


def _submit(site: Site, folder: Path, share_file: Path, count: int) -> list[submitit.Job[None]]:
    with submission_errors():
        executor = executor_for(folder, site, Shape("cpu", 1), "symbench-data")
        return executor.map_array(simulate_share, [str(share_file)] * count, range(count))
