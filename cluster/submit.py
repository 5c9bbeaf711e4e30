"""Hands the open cells of a suite to SLURM in arrays of jobs, and leaves a note of what was handed over."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from benchmark import registry
from benchmark.cell import Cell
from benchmark.errors import MachineError, SymbenchError, UserError
from benchmark.files import replacing, write_text
from benchmark.suite import Suite
from benchmark.terminal import duration
from results.record import Broken
from results.store import Store

from . import failures, slurm
from .job import REQUEUE_MARK, Job
from .launch import job_folder
from .packing import Shape, pack, shapes
from .site import Site
from .worker import run_job

DEFAULT_MAX_ARRAY_SIZE = 1001
_REWRITTEN = {"%": "%", "\\": "a backslash", "\n": "a line break", "\r": "a line break"}


class Submission(BaseModel):
    """What was handed to SLURM in one go; `STORE/jobs/<folder>/submission.json`.

    Versions of symbench before and after this one read it, too: new fields have defaults, and unknown ones are let be.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    suite: str
    suite_file: Path
    """A copy of the YAML as it was then."""
    tuned: bool = False
    """Whether its cells have the settings that `symbench tune` found."""
    store: Path
    site: Site
    plugins: tuple[Path, ...]
    jobs: Mapping[str, tuple[str, ...]]
    """SLURM job -> ids of its cells."""
    collector: str | None = None
    """The job that comes after all of them."""
    seen: Mapping[str, int] = {}
    """Cell id -> the attempt that its record told of before; a record that still does is not of these jobs."""
    sent_again: Mapping[str, Mapping[str, int]] = {}
    """Cell id -> class of failure -> how often it had been sent again for that."""
    micro_batches: Mapping[str, int] = {}
    """Cell id -> windows at once on each rank, where a whole share of the batch had not fitted."""

    @field_validator("site", mode="before")
    @classmethod
    def _without_keys_that_sites_had_once(cls, site: object) -> object:
        if not isinstance(site, dict):
            return site
        return {k: tuple(v) if isinstance(v, list) else v for k, v in site.items() if k in Site.model_fields}


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
    note, suite_file = folder / "submission.json", folder / "suite.yaml"
    statuses, _ = store.statuses([cell for batch in work for cells in batch.jobs for cell in cells])
    submission = Submission(
        suite=suite.name,
        suite_file=suite_file,
        tuned=suite.tuned,
        store=store.root.resolve(),
        site=site,
        plugins=registry.plugin_paths(),
        jobs={},
        seen={cell_id: status.attempt for cell_id, status in statuses.items()},
        sent_again=sent_again or {},
        micro_batches=micro_batches or {},
    )
    with _all_or_nothing(note) as taken:
        with replacing(suite_file) as temporary:
            shutil.copyfile(suite.path, temporary)
        for number, batch in enumerate(work):
            files = []
            for index, cells in enumerate(batch.jobs):
                file = folder / f"job-{number}-{index}.json"
                write_text(file, job_for(store, site, batch.shape, cells, micro_batches).model_dump_json(indent=1))
                files.append(str(file))
            with refusals():
                name, teardown = f"symbench {suite.name}", requeue_if_marked(folder)
                handles = executor_for(folder, site, batch.shape, name, teardown=teardown).map_array(run_job, files)
            taken += {handle.job_id.partition("_")[0] for handle in handles}
            jobs = {
                handle.job_id: tuple(cell.id for cell in cells)
                for handle, cells in zip(handles, batch.jobs, strict=True)
            }
            submission = submission.model_copy(update={"jobs": {**submission.jobs, **jobs}})
            write_text(note, submission.model_dump_json(indent=1))  # now: this process may be killed at any time
        with refusals():
            name, after = f"symbench collect {suite.name}", "afterany:" + ":".join(sorted(taken))
            collector = executor_for(folder, site, Shape("cpu", 1), name, after).submit(collect, str(note))
        taken.append(collector.job_id)
        submission = submission.model_copy(update={"collector": collector.job_id})
        write_text(note, submission.model_dump_json(indent=1))
    return submission


@contextmanager
def _all_or_nothing(note: Path) -> Iterator[list[str]]:
    """Yields a list for the arrays that SLURM takes; after an error they are cancelled, and the note is removed."""
    taken: list[str] = []
    try:
        yield taken
    except BaseException as error:
        refusal = slurm.cancel(taken) if taken else None
        if refusal is None:
            with suppress(OSError):
                note.unlink(missing_ok=True)
        elif isinstance(error, SymbenchError):
            there = f"jobs {', '.join(taken)} are in the queue and cannot be cancelled ({refusal}); do so with scancel"
            raise MachineError(f"{error}; {there}") from error
        raise


def script(suite: Suite, store: Store, site: Site, batch: Batch) -> str:
    """The text that sbatch would get for a batch, with which SLURM is not bothered."""
    require_plain(store.root)
    folder = store.root.resolve() / "jobs" / "<new>"
    name, teardown = f"symbench {suite.name}", requeue_if_marked(folder)
    executor = executor_for(folder, site, batch.shape, name, dry=True, teardown=teardown)
    if len(batch.jobs) > 1:
        executor.parameters["map_count"] = len(batch.jobs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submissions(store: Store) -> tuple[list[Submission], list[Broken]]:
    """All that was ever handed to a cluster from this store, the oldest first, and the notes that cannot be read."""
    found, broken = [], []
    for note in sorted((store.root / "jobs").glob("*/submission.json")):
        try:
            found.append(read(note))
        except MachineError as error:
            broken.append(Broken(note.parent, str(error).removeprefix(f"{note.parent}: ")))
    return found, broken


def read(note: Path) -> Submission:
    """A note that `submit` left. MachineError: it is damaged, or of a version of symbench that wrote it otherwise."""
    try:
        return Submission.model_validate_json(note.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    except (OSError, ValueError) as error:
        reason = str(error)
    raise MachineError(f"{note.parent}: {note.name} cannot be read: {reason}")


def arrays_of(folder: Path) -> set[str]:
    """The jobs that were sent from a folder, by what submitit leaves there; for notes that cannot be read."""
    return {path.name.partition("_")[0] for path in folder.glob("*_submission.sh")}


def requeue_if_marked(folder: Path) -> list[str]:
    """Shell after srun: by then all lanes have saved, and SLURM's commands are there whatever image Python runs in."""
    mark = REQUEUE_MARK.format(job="$SLURM_JOB_ID", restart="${SLURM_RESTART_COUNT:-0}")
    refused = "symbench: job $SLURM_JOB_ID cannot be put back into the queue; the last job sends its cells again"
    return [
        "status=$?",
        f'if [ -e {shlex.quote(str(folder))}/"{mark}" ]; then',
        f'  scontrol requeue "$SLURM_JOB_ID" || echo "{refused}"',
        "fi",
        "exit $status",
    ]


def job_for(
    store: Store, site: Site, shape: Shape, cells: Sequence[Cell], micro_batches: Mapping[str, int] | None = None
) -> Job:
    """What a worker of `site` is told."""
    sizes = micro_batches or {}
    return Job(
        store=store.root.resolve(),
        cells=tuple(cells),
        plugins=registry.plugin_paths(),
        device=shape.device,
        ranks=shape.ranks,
        nodes=shape.nodes,
        lanes=shape.lanes,
        threads=site.cpus,
        micro_batches={cell.id: sizes[cell.id] for cell in cells if cell.id in sizes},
        requeues=failures.POLICIES["time_limit"].retries,
        scratch=site.scratch,
    )


def cluster_folder(store_root: Path) -> Path:
    """A new folder for a job of a cluster and its logs. UserError: SLURM would not take its path as it stands."""
    require_plain(store_root)
    return job_folder(store_root)


def require_plain(path: Path) -> None:
    """UserError where SLURM, which is given paths below `path`, would make others of them."""
    wrong = [name for letter, name in _REWRITTEN.items() if letter in str(path.resolve())]
    if wrong:
        raise UserError(f"store {str(path)!r}: a path with {wrong[0]} in it cannot be given to SLURM")


@contextmanager
def refusals(what: str = "jobs") -> Iterator[None]:
    """MachineError where SLURM does not take what is submitted within."""
    try:
        yield
    except (RuntimeError, submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        raise MachineError(f"SLURM does not take the {what}: {' '.join(str(error).split())}") from error


class _DryExecutor(submitit.SlurmExecutor):
    """Needs no srun on this machine."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def executor_for(
    folder: Path,
    site: Site,
    shape: Shape,
    name: str,
    dependency: str | None = None,
    dry: bool = False,
    teardown: Sequence[str] = (),
) -> submitit.SlurmExecutor:
    """An executor for jobs of `shape`; `teardown` is shell that comes after srun."""
    # A cluster may end a whole job soon after its first task, which among lanes is just the one with least to do.
    lanes = ["--wait=0", "--kill-on-bad-exit=0"] if shape.lanes > 1 else []
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
        "srun_args": [f"--cpus-per-task={site.cpus}", *lanes, *site.srun],
        "teardown": list(teardown) or None,
        "additional_parameters": {"requeue": True},
        "dependency": dependency,
        **{key: getattr(site, key) for key in ("partition", "account", "qos", "constraint")},
    }
    if gpus:
        parameters |= {"gres": f"{site.gres}:{gpus}"} if site.gres else {"gpus_per_node": gpus}
    executor = (_DryExecutor if dry else submitit.SlurmExecutor)(folder=folder, python=site.python)
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    return executor
