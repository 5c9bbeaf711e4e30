"""Hands the open cells of a suite to SLURM in arrays of jobs, and leaves a note of what was handed over."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from pydantic import BaseModel, ConfigDict

from benchmark import registry
from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.files import write_text
from benchmark.suite import Suite
from results.store import Store

from . import failures, slurm
from .job import Job
from .launch import job_folder
from .packing import Shape, pack, shapes
from .site import Site
from .worker import run_job

DEFAULT_MAX_ARRAY_SIZE = 1001


class Submission(BaseModel):
    """What was handed to SLURM in one go; `STORE/jobs/<folder>/submission.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    suite_file: Path
    """A copy of the YAML as it was then."""
    store: Path
    site: Site
    plugins: tuple[Path, ...]
    jobs: Mapping[str, tuple[str, ...]]
    """SLURM job -> ids of its cells."""
    collector: str | None = None
    """The job that comes after all of them."""
    attempts: Mapping[str, int] = {}
    """Cell id -> how often it had been sent again by itself, for failures that are retried."""


@dataclass(frozen=True)
class Batch:
    """Jobs of one shape, in one array."""

    shape: Shape
    jobs: tuple[tuple[Cell, ...], ...]


def batches(suite: Suite, cells: Sequence[Cell], seconds: Mapping[str, float], site: Site) -> list[Batch]:
    """The arrays that run `cells`: one for each shape and MaxArraySize jobs. `seconds` are estimates by cell id."""
    most = site.max_array_size or max(1, int(slurm.settings().get("MaxArraySize", DEFAULT_MAX_ARRAY_SIZE)))
    made = []
    for shape, members in shapes(suite, cells, site).items():
        jobs = [tuple(job) for job in pack(members, seconds, site, shape.lanes)]
        made += [Batch(shape, tuple(jobs[start : start + most])) for start in range(0, len(jobs), most)]
    return made


def submit(
    suite: Suite,
    store: Store,
    site: Site,
    work: Sequence[Batch],
    collect: Callable[[str], None],
    attempts: Mapping[str, int] | None = None,
    micro_batches: Mapping[str, int] | None = None,
) -> Submission:
    """Hand `work` over: one sbatch for each batch, and one for a job after all of them, which calls `collect` with the
    path of the note.

    MachineError: SLURM refuses; what it had taken by then is cancelled. UserError: a path that SLURM would rewrite.
    """
    if "%" in str(store.root.resolve()):
        raise UserError(f"store {store.root}: a path with % in it cannot be given to SLURM")
    folder = job_folder(store.root)
    suite_file = folder / "suite.yaml"
    shutil.copyfile(suite.path, suite_file)
    jobs: dict[str, tuple[str, ...]] = {}
    try:
        for number, batch in enumerate(work):
            files = []
            for index, cells in enumerate(batch.jobs):
                file = folder / f"job-{number}-{index}.json"
                write_text(file, _job(store, site, batch.shape, cells, micro_batches or {}).model_dump_json(indent=1))
                files.append(str(file))
            name = f"symbench {suite.name}"
            handles = executor_for(folder, site, batch.shape, name).map_array(run_job, files)
            jobs |= {
                handle.job_id: tuple(cell.id for cell in cells)
                for handle, cells in zip(handles, batch.jobs, strict=True)
            }
        submission = Submission(
            suite=suite.name,
            suite_file=suite_file,
            store=store.root.resolve(),
            site=site,
            plugins=registry.plugin_paths(),
            jobs=jobs,
            attempts=attempts or {},
        )
        write_text(folder / "submission.json", submission.model_dump_json(indent=1))
        after = "afterany:" + ":".join(sorted({job.partition("_")[0] for job in jobs}))
        executor = executor_for(folder, site, Shape("cpu", 1), f"symbench collect {suite.name}", after)
        collector = executor.submit(collect, str(folder / "submission.json"))
    except KeyboardInterrupt:
        slurm.cancel({job.partition("_")[0] for job in jobs})
        raise
    except (RuntimeError, submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        if jobs:
            slurm.cancel({job.partition("_")[0] for job in jobs})
        reason = " ".join(str(error).split())
        raise MachineError(f"SLURM does not take the jobs: {reason}") from error
    submission = submission.model_copy(update={"collector": collector.job_id})
    write_text(folder / "submission.json", submission.model_dump_json(indent=1))
    return submission


def script(suite: Suite, store: Store, site: Site, batch: Batch) -> str:
    """The text that sbatch would get for a batch, with which SLURM is not bothered."""
    folder = store.root.resolve() / "jobs" / "<new>"
    executor = executor_for(folder, site, batch.shape, f"symbench {suite.name}", dry=True)
    if len(batch.jobs) > 1:
        executor.parameters["map_count"] = len(batch.jobs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submissions(store: Store) -> list[Submission]:
    """All that was ever handed to a cluster from this store, the oldest first."""
    files = sorted((store.root / "jobs").glob("*/submission.json"))
    return [Submission.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


def _job(store: Store, site: Site, shape: Shape, cells: Sequence[Cell], micro_batches: Mapping[str, int]) -> Job:
    return Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=registry.plugin_paths(),
        device=shape.device,
        ranks=shape.ranks,
        nodes=shape.nodes,
        lanes=shape.lanes,
        threads=site.cpus,
        micro_batches={cell.id: micro_batches[cell.id] for cell in cells if cell.id in micro_batches},
        requeues=failures.POLICIES["time_limit"].retries,
        scratch=site.scratch,
    )


class _DryExecutor(submitit.SlurmExecutor):
    """Needs no srun on this machine."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def executor_for(
    folder: Path, site: Site, shape: Shape, name: str, dependency: str | None = None, dry: bool = False
) -> submitit.SlurmExecutor:
    gpus = shape.gpus_per_node(site)
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": site.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "cpus_per_task": site.cpus,
        "mem": f"{round(site.memory_gb * 1024) * shape.tasks_per_node}M",
        "signal_delay_s": site.signal_seconds,
        "array_parallelism": site.jobs,
        "setup": list(site.setup),
        "stderr_to_stdout": True,
        # Since SLURM 22.05 srun does not take the batch's --cpus-per-task over.
        "srun_args": [f"--cpus-per-task={site.cpus}", *site.srun],
        "additional_parameters": {"requeue": True},
        "dependency": dependency,
        **{key: getattr(site, key) for key in ("partition", "account", "qos", "constraint")},
    }
    if gpus:
        parameters |= {"gres": f"{site.gres}:{gpus}"} if site.gres else {"gpus_per_node": gpus}
    executor = (_DryExecutor if dry else submitit.SlurmExecutor)(folder=folder, python=site.python)
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    return executor
