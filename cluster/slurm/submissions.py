"""Notes of what was handed to SLURM from a store, and which of it waits or runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator

from benchmark.errors import MachineError
from benchmark.suite.suite import Suite
from cluster.site import Site
from cluster.slurm import commands as slurm
from results.store.record import Broken, reason_of
from results.store.store import Store


class SentJobs(BaseModel):
    """Note of jobs that were handed to SLURM in one go, in a folder of STORE/jobs.

    Versions of symbench before and after this one read it, too: new fields have defaults, and unknown ones are let be.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    FILE: ClassVar[str]
    """Name of the note."""

    suite: str
    jobs: Mapping[str, tuple[str, ...]]
    """SLURM job -> what it runs: ids of cells, or names of studies."""

    @property
    def all_jobs(self) -> tuple[str, ...]:
        """Every job of the submission."""
        return tuple(self.jobs)


class TuningSubmission(SentJobs):
    """Jobs that each search some studies."""

    FILE = "tuning.json"


class Submission(SentJobs):
    """Jobs that run cells, and the job that collects after them."""

    FILE = "submission.json"

    suite_file: Path
    """A copy of the YAML as it was then."""
    tuned: bool = False
    """Whether its cells have the settings that `symbench tune` found."""
    store: Path
    site: Site
    plugins: tuple[Path, ...]
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

    @property
    def all_jobs(self) -> tuple[str, ...]:
        """Every job of the submission, that which collects included."""
        return (*self.jobs, *([self.collector] if self.collector is not None else []))


Kind = TypeVar("Kind", bound=SentJobs)


def read(note: Path, kind: type[Kind]) -> Kind:
    """A note of that kind. MachineError: it is damaged, or of a version of symbench that wrote it otherwise."""
    try:
        return kind.model_validate_json(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = reason_of(error).removeprefix(f"{kind.__name__}: ")
        raise MachineError(f"{note.parent}: {note.name} cannot be read: {reason}") from error


def notes(store: Store, kind: type[Kind]) -> tuple[list[Kind], list[Broken]]:
    """All notes of that kind in `store`, the oldest first, and those that cannot be read."""
    readable, broken = [], []
    for note in sorted((store.root / "jobs").glob(f"*/{kind.FILE}")):
        try:
            readable.append(read(note, kind))
        except MachineError as error:
            broken.append(Broken(note.parent, str(error).removeprefix(f"{note.parent}: ")))
    return readable, broken


def unreadable(store: Store) -> list[Broken]:
    """Notes of jobs that run cells, where they cannot be read."""
    return notes(store, Submission)[1]


def live_jobs(store: Store, suite: Suite, kind: type[SentJobs]) -> list[str]:
    """Jobs of `suite` that wait or run. MachineError where SLURM does not answer, or a note cannot be read."""
    sent, queue = _certain(store, kind)
    return [job for one in sent if one.suite == suite.name for job in one.all_jobs if job in queue]


def in_hand(store: Store, kind: type[SentJobs]) -> set[str]:
    """Cells, or studies, whose jobs wait or run. MachineError where SLURM does not answer, or a note cannot be read."""
    return _run_by(*_certain(store, kind))


def cells_in_hand_if_known(store: Store) -> tuple[set[str], bool]:
    """Ids of the cells whose jobs wait or run, and whether that is known; notes that cannot be read are passed over."""
    sent, _, queue = _sent(store, Submission)
    return (set(), False) if queue is None else (_run_by(sent, queue), True)


def cancel(jobs: Iterable[str]) -> None:
    """Take them out of the queue. MachineError where SLURM refuses."""
    if reason := slurm.cancel(jobs):
        raise MachineError(f"scancel: {reason}")


def _run_by(sent: Iterable[SentJobs], queue: Mapping[str, str]) -> set[str]:
    return {name for one in sent for job, names in one.jobs.items() if job in queue for name in names}


def _certain(store: Store, kind: type[Kind]) -> tuple[list[Kind], dict[str, str]]:
    """What was sent, and the queue. MachineError where it is not known what jobs in the queue run."""
    sent, broken, queue = _sent(store, kind)
    if queue is None:
        raise MachineError("squeue does not answer, and jobs of this store may be in the queue; try again later")
    for note in broken:
        arrays = slurm.arrays_of(path.name for path in note.folder.glob("*_submission.sh"))  # submitit leaves these
        if jobs := sorted(set(arrays) & set(slurm.arrays_of(queue))):
            raise MachineError(
                f"{note.folder}: {note.reason}; its jobs are in the queue, and what they run is not known: "
                f"wait for them, or `scancel {' '.join(jobs)}`"
            )
    return sent, queue


def _sent(store: Store, kind: type[Kind]) -> tuple[list[Kind], list[Broken], dict[str, str] | None]:
    """What was sent, notes that cannot be read, and the queue: SLURM is asked if jobs were ever sent."""
    sent, broken = notes(store, kind)
    return sent, broken, slurm.queue() if sent or broken else {}
