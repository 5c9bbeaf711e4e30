"""A job: cells that groups of ranks run one after another, as JSON that a worker reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from benchmark.cell import Cell

REQUEUE_MARK = "requeue-{job}-{restart}"
"""A file beside the job's own, left where cells wait for another start of it; the batch script looks for it."""


class Job(BaseModel):
    """All that a worker needs to know; paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path
    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    device: Literal["cpu", "cuda"]
    ranks: PositiveInt
    """Processes that train a cell together."""
    nodes: PositiveInt = 1
    lanes: PositiveInt = 1
    """Groups of ranks that work side by side, each on cells of its own."""
    since: float | None = None
    """When a launch on this machine began, in seconds since 1970: there each lane is a job, and tries nothing that
    another one has tried since. On a cluster the scheduler's number tells."""
    threads: PositiveInt
    """CPU threads of each rank."""
    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of the person who launched, if set; on a cluster the scheduler sets it."""
    micro_batches: Mapping[str, PositiveInt] = {}
    """Cell id -> windows at once on each rank, where a whole share of the batch did not fit."""
    requeues: NonNegativeInt = 0
    """How often the job may put itself back into the queue when its time is up."""
    scratch: str | None = None
    """A folder of each node to which data are copied first; variables of the shell in it are the job's."""
