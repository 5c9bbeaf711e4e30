"""Logs of a cell, from all of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from results.store.store import Store


@dataclass(frozen=True)
class Log:
    """Lines of one attempt on one rank, out of the log of a job."""

    path: Path
    lines: tuple[str, ...]


def logs_of(cell_id: str, others: frozenset[str], store: Store) -> list[Log]:
    """Logs of all attempts at a cell, the oldest first. `others` are the ids that begin another cell's lines."""
    files = sorted((store.root / "jobs").glob("*/*_log.*"), key=lambda path: path.stat().st_mtime)
    return [Log(path, tuple(lines)) for path in files for lines in _parts(path, cell_id, others)]


def _parts(path: Path, cell_id: str, others: frozenset[str]) -> list[list[str]]:
    parts: list[list[str]] = []
    is_inside = False
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            first = line.split(" ", 1)[0].strip()
            if first == cell_id:
                parts.append([])
            if first == cell_id or first in others:
                is_inside = first == cell_id
            if is_inside:
                parts[-1].append(line.rstrip("\n"))
    return parts
