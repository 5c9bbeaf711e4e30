"""Divides cells into arrays of jobs and hands them to SLURM; a note says what was handed over."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.cell import Cell
from benchmark.files import replacing, write_text
from benchmark.models import model_registry
from benchmark.suite.suite import Suite
from benchmark.terminal import duration
from cluster.jobs import failures
from cluster.jobs.job import Job
from cluster.jobs.packing import Shape, pack, shapes
from cluster.jobs.worker import run_job
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.executor import (
    cancel_on_error,
    cluster_folder,
    executor_for,
    requeue_if_marked,
    require_plain_path,
    submission_errors,
    submit_array,
)
from cluster.slurm.submissions import Submission
from results.store.store import Store

DEFAULT_MAX_ARRAY_SIZE = 1001


@dataclass(frozen=True)
class Batch:
    """Jobs of one shape, in one array."""

    shape: Shape
    jobs: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Cost:
    """What batches come to: jobs, the longest of them, and the hours of GPUs, and of ranks that have none."""

    jobs: int
    longest_seconds: float
    gpu_hours: float
    rank_hours: float

    @classmethod
    def of(cls, work: Sequence[Batch], seconds: Mapping[str, float], site: Site) -> Cost:
        """By the estimates for each cell by id."""
        jobs = [(batch.shape, batch.shape.job_seconds(job, seconds)) for batch in work for job in batch.jobs]
        hours = {"cuda": 0.0, "cpu": 0.0}
        for shape, each in jobs:
            hours[shape.device] += shape.units(site) * each / 3600
        return cls(len(jobs), max((each for _, each in jobs), default=0.0), hours["cuda"], hours["cpu"])

    def __str__(self) -> str:
        on_gpus, on_cpus = f"{self.gpu_hours:.3g} GPU-hours", f"{self.rank_hours:.3g} rank-hours"
        hours = [*([on_gpus] if self.gpu_hours else []), *([on_cpus] if self.rank_hours or not self.gpu_hours else [])]
        return f"{self.jobs} jobs, the longest about {duration(self.longest_seconds)}; {', '.join(hours)}"


def batches(suite: Suite, cells: Sequence[Cell], seconds: Mapping[str, float], site: Site) -> list[Batch]:
    """The arrays that run `cells`: one for each shape and MaxArraySize jobs. `seconds` are estimates by cell id."""
    most = site.max_array_size or max(1, int(slurm.settings().get("MaxArraySize", DEFAULT_MAX_ARRAY_SIZE)))
    made = []
    for shape, members in shapes(suite, cells, site).items():
        jobs = [tuple(job) for job in pack(members, seconds, site, shape)]
        made += [Batch(shape, tuple(jobs[start : start + most])) for start in range(0, len(jobs), most)]
    return made


def submit(
    suite: Suite,
    store: Store,
    site: Site,
    work: Sequence[Batch],
    collect: Callable[[str], None],
    sent_again: Mapping[str, Mapping[str, int]] | None = None,
    micro_batches: Mapping[str, int] | None = None,
) -> Submission:
    """Hand `work` over: one sbatch for each batch, and one for a job after all of them, which calls `collect` with the
    path of the note.

    MachineError: SLURM refuses, or a file cannot be written; what was taken by then is cancelled. UserError: a path
    that SLURM would rewrite.
    """
    folder = cluster_folder(store.root)
    store.make()
    note, suite_file = folder / Submission.FILE, folder / "suite.yaml"
    statuses, _ = store.statuses([cell for batch in work for cells in batch.jobs for cell in cells])
    submission = Submission(
        suite=suite.name,
        suite_file=suite_file,
        tuned=suite.tuned,
        store=store.root.resolve(),
        site=site,
        plugins=model_registry.plugin_paths(),
        jobs={},
        seen={cell_id: status.attempt for cell_id, status in statuses.items()},
        sent_again=sent_again or {},
        micro_batches=micro_batches or {},
    )
    with cancel_on_error(note) as taken:
        with replacing(suite_file) as temporary:
            shutil.copyfile(suite.path, temporary)
        for number, batch in enumerate(work):
            documents = {
                f"job-{number}-{index}.json": job_for(store, site, batch.shape, cells, micro_batches)
                for index, cells in enumerate(batch.jobs)
            }
            name, teardown = f"symbench {suite.name}", requeue_if_marked(folder)
            executor = executor_for(folder, site, batch.shape, name, teardown=teardown)
            sent = submit_array(executor, run_job, folder, documents)
            taken += slurm.arrays_of(sent)
            jobs = {job: tuple(cell.id for cell in cells) for job, cells in zip(sent, batch.jobs, strict=True)}
            submission = submission.model_copy(update={"jobs": {**submission.jobs, **jobs}})
            write_text(note, submission.model_dump_json(indent=1))  # now: this process may be killed at any time
        with submission_errors():
            name, after = f"symbench collect {suite.name}", "afterany:" + ":".join(sorted(taken))
            collector = executor_for(folder, site, Shape("cpu", 1), name, after).submit(collect, str(note))
        taken.append(collector.job_id)
        submission = submission.model_copy(update={"collector": collector.job_id})
        write_text(note, submission.model_dump_json(indent=1))
    return submission


def script(suite: Suite, store: Store, site: Site, batch: Batch) -> str:
    """The text that sbatch would get for a batch, with which SLURM is not bothered."""
    require_plain_path(store.root)
    folder = store.root.resolve() / "jobs" / "<new>"
    name, teardown = f"symbench {suite.name}", requeue_if_marked(folder)
    executor = executor_for(folder, site, batch.shape, name, dry=True, teardown=teardown)
    if len(batch.jobs) > 1:
        executor.parameters["map_count"] = len(batch.jobs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def job_for(
    store: Store, site: Site, shape: Shape, cells: Sequence[Cell], micro_batches: Mapping[str, int] | None = None
) -> Job:
    """What a worker of `site` is told."""
    sizes = micro_batches or {}
    return Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=model_registry.plugin_paths(),
        device=shape.device,
        ranks=shape.ranks,
        nodes=shape.nodes,
        lanes=shape.lanes,
        threads=site.cpus,
        micro_batches={cell.id: sizes[cell.id] for cell in cells if cell.id in sizes},
        requeues=failures.POLICIES["time_limit"].retries,
        scratch=site.scratch,
    )
