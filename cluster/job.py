"""A job: cells that one group of ranks runs one after another, as JSON that a worker reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from benchmark.cell import Cell


class Job(BaseModel):
    """All that a worker needs to know; paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path
    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    device: Literal["cpu", "cuda"]
    ranks: PositiveInt
    threads: PositiveInt
    """CPU threads of each rank."""
    visible_gpus: str | None
    """CUDA_VISIBLE_DEVICES of the person who launched, if set."""
