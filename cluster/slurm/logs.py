"""Logs of a cell, from all of its jobs."""

from collections import deque
from pathlib import Path

from results.store.store import Store

MOST_LINES = 2000
"""Lines of an attempt that are shown, the last ones."""
LONGEST_LINE = 10_000
"""Characters after which a line is broken."""


def logs_of(cell_id: str, others: frozenset[str], store: Store) -> list[tuple[Path, list[str]]]:
    """Log file and lines of each attempt at a cell on each rank, the oldest first.

    The log of a job has several cells; `others` are the ids that begin the lines of another cell.
    """
    files = sorted((store.root / "jobs").glob("*/*_log.*"), key=lambda path: path.stat().st_mtime)
    return [(path, lines) for path in files for lines in _parts(path, cell_id, others)]


def _parts(path: Path, cell_id: str, others: frozenset[str]) -> list[list[str]]:
    parts: list[deque[str]] = []
    counts: list[int] = []
    is_inside = False
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(LONGEST_LINE):
            first = line.split(" ", 1)[0].strip()
            if first == cell_id:
                parts.append(deque(maxlen=MOST_LINES))
                counts.append(0)
            if first == cell_id or first in others:
                is_inside = first == cell_id
            if is_inside:
                parts[-1].append(line.rstrip("\n"))
                counts[-1] += 1
    return [_named(list(part), count) for part, count in zip(parts, counts, strict=True)]


def _named(lines: list[str], count: int) -> list[str]:
    """Last lines of an attempt, below the number of those that are left out."""
    return lines if count == len(lines) else [f"({count - len(lines)} earlier lines are left out)", *lines]
