"""Job description: the JSON that a launcher writes and a worker reads."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.files import new_private_folder

REQUEUE_MARK = "requeue-{job}-{restart}"
"""File beside the job's JSON: the job has unfinished cells, and the batch script must requeue it."""
LAST_RANK_SECONDS = 60
"""Time until a job of several ranks is ended after the first of them: one that died while it started would let the
others wait for it, in gloo for five times the limit of a collective operation."""


class Job(BaseModel):
    """Cells to run one after another, and how. Paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path
    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    code: Path | None = None
    """Snapshot of the code that the job imports; None: the checkout as it is."""
    device: Literal["cpu", "cuda"]
    ranks: PositiveInt
    """Processes that train a cell together."""
    nodes: PositiveInt = 1
    lanes: PositiveInt = 1
    """Number of groups of ranks that run cells side by side."""
    seen: Mapping[str, int] | None = None
    """Cell id -> attempt of its record at the start of a launch on this machine. Each lane is a job there, and a cell
    of which another lane has made a later attempt is not tried again. None on a cluster, where lanes have the job
    number in common."""
    threads: PositiveInt
    """CPU threads of each rank."""
    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of the worker; None on a cluster, where the scheduler sets it."""
    micro_batches: Mapping[str, PositiveInt] = {}
    """Cell id -> micro-batch on each rank, for cells that ran out of memory."""
    keeps_checkpoints: bool = False
    """Whether finished cells keep their checkpoints."""
    requeues: NonNegativeInt = 0
    """How often the job may requeue itself at its time limit."""
    scratch: str | None = None
    """Folder on a node's local disk to which data are copied first; may contain variables of the job's shell."""


def job_folder(store_root: Path) -> Path:
    """Make a new folder for a job and its logs. Raises MachineError if the store cannot be written."""
    try:
        return new_private_folder(store_root / "jobs", time.strftime("%Y%m%d-%H%M%S-")).resolve()
    except OSError as error:
        raise MachineError(f"{store_root / 'jobs'}: cannot be written: {error.strerror}") from error
