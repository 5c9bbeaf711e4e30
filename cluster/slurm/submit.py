"""Submission: arrays of jobs that run cells, and the job that collects after them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import submitit

from benchmark.cell import Cell
from benchmark.files import write_text
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from benchmark.terminal import duration
from cluster.jobs import failures
from cluster.jobs.job import Job
from cluster.jobs.packing import Shape, pack, shapes
from cluster.jobs.snapshot import plugin_in, plugins_in, with_code
from cluster.jobs.worker import run_job
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm import sbatch
from cluster.slurm.submissions import Submission
from results.store.store import Store

DEFAULT_MAX_ARRAY_SIZE = 1001


@dataclass(frozen=True)
class Batch:
    """Jobs of one shape, in one array."""

    shape: Shape
    jobs: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Options:
    """Snapshot of the code, and earlier retries of cells by cell id; all fields as in `Submission`."""

    code: Path | None = None
    sent_again: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    micro_batches: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Estimated cost of batches. Rank-hours are those of jobs without GPUs."""

    jobs: int
    longest_seconds: float
    gpu_hours: float
    rank_hours: float

    @classmethod
    def of(cls, work: Sequence[Batch], seconds: Mapping[str, float], site: Site) -> Cost:
        """Cost of `work`, from estimates by cell id."""
        times = [(batch.shape, batch.shape.job_seconds(job, seconds)) for batch in work for job in batch.jobs]
        hours = {"cuda": 0.0, "cpu": 0.0}
        for shape, job_seconds in times:
            hours[shape.device] += shape.units(site) * job_seconds / 3600
        return cls(len(times), max((job_seconds for _, job_seconds in times), default=0.0), hours["cuda"], hours["cpu"])

    def __str__(self) -> str:
        on_gpus, on_cpus = f"{self.gpu_hours:.3g} GPU-hours", f"{self.rank_hours:.3g} rank-hours"
        hours = [*([on_gpus] if self.gpu_hours else []), *([on_cpus] if self.rank_hours or not self.gpu_hours else [])]
        return f"{self.jobs} jobs, the longest about {duration(self.longest_seconds)}; {', '.join(hours)}"


def batches(
    suite: Suite, cells: Sequence[Cell], seconds: Mapping[str, float], site: Site, alone: Collection[str] = ()
) -> list[Batch]:
    """Divide cells into arrays of jobs with equal resources, each within MaxArraySize. `seconds` are by cell id.

    A cell whose id is in `alone` has a job to itself.
    """
    limit = site.max_array_size or max(1, int(slurm.settings().get("MaxArraySize", DEFAULT_MAX_ARRAY_SIZE)))
    arrays = []
    for shape, members in shapes(suite, cells, site).items():
        together = [cell for cell in members if cell.id not in alone]
        jobs = [tuple(job) for job in pack(together, seconds, site, shape)]
        jobs += [(cell,) for cell in members if cell.id in alone]
        arrays += [Batch(shape, tuple(jobs[start : start + limit])) for start in range(0, len(jobs), limit)]
    return arrays


def submit(
    suite: Suite,
    store: Store,
    site: Site,
    work: Sequence[Batch],
    collect: Callable[[str], None],
    options: Options = Options(),
) -> Submission:
    """Submit one array for each batch, and a job after all of them that calls `collect` with the path of the note.

    Raises MachineError if SLURM refuses or a file cannot be written; jobs submitted by then are cancelled. Raises
    UserError if SLURM would change the store's path.
    """
    folder, in_job = sbatch.cluster_folder(store.root), with_code(site, options.code)
    store.make()
    note, suite_file = folder / Submission.FILE, folder / "suite.yaml"
    statuses, _ = store.statuses([cell for batch in work for cells in batch.jobs for cell in cells])
    submission = Submission(
        suite=suite.name,
        suite_file=suite_file,
        tuned=suite.tuned,
        store=store.root.resolve(),
        site=site,
        plugins=plugins_in(options.code),
        code=options.code,
        jobs={},
        seen={cell_id: status.attempt for cell_id, status in statuses.items()},
        epochs={cell_id: status.epoch for cell_id, status in statuses.items()},
        sent_again=options.sent_again,
        micro_batches=options.micro_batches,
    )
    with sbatch.cancel_on_error(note) as submitted:
        plugins = [str(plugin_in(options.code, path)) for path in suite.plugins]
        write_text(suite_file, suites.copied(suite, plugins))
        for number, batch in enumerate(work):
            documents = {
                f"job-{number}-{index}.json": job_for(store, site, batch.shape, cells, options)
                for index, cells in enumerate(batch.jobs)
            }
            sent = sbatch.submit_array(_executor(suite, folder, in_job, batch.shape), run_job, folder, documents)
            submitted += slurm.arrays_of(sent)
            jobs = {job: tuple(cell.id for cell in cells) for job, cells in zip(sent, batch.jobs, strict=True)}
            submission = submission.model_copy(update={"jobs": {**submission.jobs, **jobs}})
            write_text(note, submission.model_dump_json(indent=1))  # at once, since this process may be killed
        with sbatch.submission_errors():
            executor = sbatch.executor_for(folder, in_job, Shape("cpu", 1), f"symbench collect {suite.name}")
            executor.update_parameters(dependency="afterany:" + ":".join(sorted(submitted)))
            collector = executor.submit(collect, str(note))
        submitted.append(collector.job_id)
        submission = submission.model_copy(update={"collector": collector.job_id})
        write_text(note, submission.model_dump_json(indent=1))
    return submission


def script(suite: Suite, store: Store, site: Site, batch: Batch) -> str:
    """Batch script of an array, without submitting it."""
    sbatch.require_plain_path(store.root)
    executor = _executor(suite, store.root.resolve() / "jobs" / "<new>", site, batch.shape, dry=True)
    if len(batch.jobs) > 1:
        executor.parameters["map_count"] = len(batch.jobs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _executor(suite: Suite, folder: Path, site: Site, shape: Shape, dry: bool = False) -> submitit.SlurmExecutor:
    return sbatch.executor_for(folder, site, shape, f"symbench {suite.name}", sbatch.requeue_if_marked(folder), dry)


def job_for(store: Store, site: Site, shape: Shape, cells: Sequence[Cell], options: Options = Options()) -> Job:
    """Description of a job on `site` for its worker."""
    return Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=plugins_in(options.code),
        code=options.code,
        **asdict(shape),
        threads=site.cpus,
        micro_batches={cell.id: options.micro_batches[cell.id] for cell in cells if cell.id in options.micro_batches},
        requeues=failures.POLICIES["time_limit"].retries,
        scratch=site.scratch,
    )
