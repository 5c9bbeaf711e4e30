"""Submission: arrays of jobs that run cells, and the job that collects after them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import submitit

from benchmark.cell import Cell
from benchmark.files import write_text
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from benchmark.terminal import duration
from cluster.jobs import policies
from cluster.jobs.job import Job
from cluster.jobs.packing import Shape, pack, shapes
from cluster.jobs.snapshot import plugin_in, plugins_in, with_code
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
    """Snapshot of the code, earlier retries of cells by cell id, and more; all fields as in `Submission`."""

    code: Path | None = None
    sent_again: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    micro_batches: Mapping[str, int] = field(default_factory=dict)
    keeps_checkpoints: bool = False


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

    Cells for which the queue has no room, or which SLURM refuses after it took others, are the note's `unsent`. Raises
    RefusedError if SLURM refuses the first array, or the job after all; arrays that it took stay. Raises MachineError
    if there is no room or a file cannot be written; jobs submitted by then are cancelled. Raises UserError if SLURM
    would change the store's path.
    """
    work, unsent = _first_wave(work, sbatch.room(site, others=1))
    folder = sbatch.cluster_folder(store.root)
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
        unsent=unsent,
        seen={cell_id: status.attempt for cell_id, status in statuses.items()},
        epochs={cell_id: status.epoch for cell_id, status in statuses.items()},
        sent_again=options.sent_again,
        micro_batches=options.micro_batches,
        keeps_checkpoints=suite.keeps_checkpoints,
    )
    with sbatch.cancel_on_error(note) as submitted:
        write_text(suite_file, suites.copied(suite, [str(plugin_in(options.code, path)) for path in suite.plugins]))
        for number, batch in enumerate(work):
            try:
                jobs = _send_array(submission, folder, batch, number)
            except sbatch.RefusedError as error:
                if not submitted:
                    raise
                later = (*_ids(work[number:]), *unsent)
                submission = submission.model_copy(update={"unsent": later, "refusal": str(error)})
                break
            submitted += slurm.arrays_of(jobs)
            submission = submission.model_copy(update={"jobs": {**submission.jobs, **jobs}})
            write_text(note, submission.model_dump_json(indent=1))  # at once, since this process may be killed
        collector = _send_collector(submission, folder, collect)
        submitted.append(collector)
        submission = submission.model_copy(update={"collector": collector})
        write_text(note, submission.model_dump_json(indent=1))
    return submission


def _first_wave(work: Sequence[Batch], room: int | None) -> tuple[list[Batch], tuple[str, ...]]:
    """Arrays of at most `room` jobs in all, and the ids of the other cells; everything if `room` is None."""
    first: list[Batch] = []
    later: list[Batch] = []
    for batch in work:
        count = len(batch.jobs) if room is None else min(room, len(batch.jobs))
        first += [replace(batch, jobs=batch.jobs[:count])] if count else []
        later.append(replace(batch, jobs=batch.jobs[count:]))
        room = None if room is None else room - count
    return first, _ids(later)


def _ids(work: Sequence[Batch]) -> tuple[str, ...]:
    return tuple(cell.id for batch in work for cells in batch.jobs for cell in cells)


def _send_array(submission: Submission, folder: Path, batch: Batch, number: int) -> dict[str, tuple[str, ...]]:
    """Submit array `number`; the ids of its cells by job."""
    options = Options(submission.code, {}, submission.micro_batches, submission.keeps_checkpoints)
    documents = {
        f"job-{number}-{index}.json": job_for(Store(submission.store), submission.site, batch.shape, cells, options)
        for index, cells in enumerate(batch.jobs)
    }
    executor = _executor(submission.suite, folder, with_code(submission.site, submission.code), batch.shape)
    from cluster.jobs.worker import run_job  # torch takes seconds to import, and a plan needs none

    sent = sbatch.submit_array(executor, run_job, folder, documents)
    return {job: tuple(cell.id for cell in cells) for job, cells in zip(sent, batch.jobs, strict=True)}


def _send_collector(submission: Submission, folder: Path, collect: Callable[[str], None]) -> str:
    """Submit the job after all others; its number."""
    site = with_code(submission.site, submission.code)
    try:
        with sbatch.submission_errors():
            executor = sbatch.executor_for(folder, site, Shape("cpu", 1), f"symbench collect {submission.suite}")
            executor.update_parameters(dependency="afterany:" + ":".join(sorted(submission.arrays)))
            return str(executor.submit(collect, str(folder / Submission.FILE)).job_id)
    except sbatch.RefusedError as error:
        more = f", and {len(submission.unsent)} cells are not sent" if submission.unsent else ""
        raise sbatch.RefusedError(
            f"{error}; jobs {', '.join(submission.arrays)} stay in the queue, but none follows that sends failed cells "
            f"again{more}: `symbench run` again when they have ended"
        ) from error


def script(suite: Suite, store: Store, site: Site, batch: Batch) -> str:
    """Batch script of an array, without submitting it."""
    sbatch.require_plain_path(store.root)
    executor = _executor(suite.name, store.root.resolve() / "jobs" / "<new>", site, batch.shape, dry=True)
    if len(batch.jobs) > 1:
        executor.parameters["map_count"] = len(batch.jobs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _executor(suite: str, folder: Path, site: Site, shape: Shape, dry: bool = False) -> submitit.SlurmExecutor:
    return sbatch.executor_for(folder, site, shape, f"symbench {suite}", sbatch.requeue_if_marked(folder), dry)


def job_for(store: Store, site: Site, shape: Shape, cells: Sequence[Cell], options: Options = Options()) -> Job:
    """Description of a job on `site` for its worker."""
    return Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=plugins_in(options.code),
        code=options.code,
        **shape.processes,
        threads=site.cpus,
        micro_batches={cell.id: options.micro_batches[cell.id] for cell in cells if cell.id in options.micro_batches},
        keeps_checkpoints=options.keeps_checkpoints,
        requeues=policies.POLICIES["time_limit"].retries,
        scratch=site.scratch,
    )
