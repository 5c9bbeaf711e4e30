"""Submission notes: files in the store that say which SLURM job runs which cells or studies."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator

from benchmark.errors import MachineError
from cluster.jobs import policies
from cluster.site import Site
from cluster.slurm import commands as slurm
from results.store.record import Broken, reason_of
from results.store.store import Store


class SentJobs(BaseModel):
    """Jobs of one submission, noted in a folder of STORE/jobs.

    Older and newer versions of symbench read the note, too: new fields need defaults, and unknown fields are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    FILE: ClassVar[str]
    """Name of the note."""

    suite: str
    jobs: Mapping[str, tuple[str, ...]]
    """SLURM job -> ids of its cells, or names of its studies."""

    collector: str | None = None
    """Job that runs after all others."""
    code: Path | None = None
    """Snapshot of the code that the jobs import; None: the checkout as it is."""

    @property
    def arrays(self) -> list[str]:
        """Numbers of the arrays of `jobs`."""
        return slurm.arrays_of(self.jobs)

    @property
    def all_jobs(self) -> tuple[str, ...]:
        """Every job of the submission, with the collecting one."""
        return (*self.jobs, *filter(None, [self.collector]))


class TuningSubmission(SentJobs):
    """Jobs that each search some studies."""

    FILE = "tuning.json"


class Submission(SentJobs):
    """Jobs that run cells, and the job that collects after them."""

    FILE = "submission.json"

    suite_file: Path
    """Copy of the YAML at submission."""
    tuned: bool = False
    """Whether the cells have the settings of `symbench tune`."""
    store: Path
    site: Site
    plugins: tuple[Path, ...]
    seen: Mapping[str, int] = {}
    """Cell id -> attempt of its record at submission; a record with that attempt is older than these jobs."""
    sent_again: Mapping[str, Mapping[str, int]] = {}
    """Cell id -> class of failure -> number of retries so far."""
    micro_batches: Mapping[str, int] = {}
    """Cell id -> micro-batch on each rank, for cells that ran out of memory."""
    keeps_checkpoints: bool = False
    """Whether finished cells keep their checkpoints."""

    unsent: tuple[str, ...] = ()
    """Ids of further cells, for which the queue had no room: the collecting job sends them."""
    refusal: str = ""
    """Reason of SLURM if it refused cells of `unsent`; empty if there are none, or if they are beyond `max_jobs`."""
    epochs: Mapping[str, int] = {}
    """Cell id -> finished epochs at submission; a cell whose job ran out of time without another one hangs."""

    def sends_again(self, cell_id: str, failure: str) -> bool:
        """Whether the policies of failures allow another retry of a cell."""
        return self.sent_again.get(cell_id, {}).get(failure, 0) < policies.POLICIES[failure].retries

    @field_validator("site", mode="before")
    @classmethod
    def _ignore_removed_keys(cls, site: object) -> object:
        if not isinstance(site, dict):
            return site
        return {k: tuple(v) if isinstance(v, list) else v for k, v in site.items() if k in Site.model_fields}


NO_ANSWER = "squeue does not answer, and jobs of this store may be in the queue; try again later"
Kind = TypeVar("Kind", bound=SentJobs)


def read(note: Path, kind: type[Kind]) -> Kind:
    """Read a note. Raises MachineError if it is damaged or of an incompatible version."""
    try:
        return kind.model_validate_json(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = reason_of(error).removeprefix(f"{kind.__name__}: ")
        raise MachineError(f"{note.parent}: {note.name} cannot be read: {reason}") from error


def notes(store: Store, kind: type[Kind]) -> tuple[list[Kind], list[Broken]]:
    """All notes of that kind in `store`, the oldest first, and the unreadable ones."""
    readable, broken = [], []
    for note in sorted((store.root / "jobs").glob(f"*/{kind.FILE}")):
        try:
            readable.append(read(note, kind))
        except MachineError as error:
            broken.append(Broken(note.parent, str(error).removeprefix(f"{note.parent}: ")))
    return readable, broken


def live_jobs(store: Store, suite: str, kind: type[SentJobs]) -> list[str]:
    """Queued and running jobs of the suite of this name. MachineError: SLURM does not answer, or a note is broken."""
    sent, queue = _sent_and_queue(store, kind)
    return [job for one in sent if one.suite == suite for job in one.all_jobs if job in queue]


def queued_ids(store: Store, kind: type[SentJobs], collector: str | None = None) -> set[str]:
    """Ids of cells, or names of studies, of queued and running jobs, but not those that `collector` has to send.

    Raises MachineError as `live_jobs` does.
    """
    sent, queue = _sent_and_queue(store, kind)
    return ids_in(sent, {job: state for job, state in queue.items() if job != collector})


def live_folders(store: Store) -> set[Path]:
    """Folders of STORE/jobs with queued or running SLURM jobs. Raises MachineError if SLURM does not answer."""
    scripts = list((store.root / "jobs").glob("*/*_submission.sh"))  # the name of submitit
    queue = slurm.queue() if scripts else {}
    if queue is None:
        raise MachineError(NO_ANSWER)
    arrays = set(slurm.arrays_of(queue))
    return {path.parent for path in scripts if arrays & set(slurm.arrays_of([path.name]))}


def ids_in(sent: Iterable[SentJobs], queue: Mapping[str, str]) -> set[str]:
    """Ids of cells, or names of studies, that the jobs of `sent` run which are in `queue`, or will send.

    A job that SLURM only cleans up after, such as a cancelled one, runs nothing more.
    """
    queue = {job: state for job, state in queue.items() if state != "COMPLETING"}
    later = {cell for one in sent if isinstance(one, Submission) and one.collector in queue for cell in one.unsent}
    return later | {name for one in sent for job, names in one.jobs.items() if job in queue for name in names}


def _sent_and_queue(store: Store, kind: type[Kind]) -> tuple[list[Kind], dict[str, str]]:
    """Submissions and queue. Raises MachineError if it is unknown which cells the queued jobs run."""
    sent, broken = notes(store, kind)
    queue = slurm.queue() if sent or broken else {}
    if queue is None:
        raise MachineError(NO_ANSWER)
    for note in broken:
        arrays = slurm.arrays_of(path.name for path in note.folder.glob("*_submission.sh"))  # scripts of submitit
        if jobs := sorted(set(arrays) & set(slurm.arrays_of(queue))):
            raise MachineError(
                f"{note.folder}: {note.reason}; its jobs are in the queue, and their cells are unknown: "
                f"wait for them, or `scancel {' '.join(jobs)}`"
            )
    return sent, queue
