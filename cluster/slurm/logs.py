"""Logs of a cell, from all of its jobs."""

from pathlib import Path

from results.store.store import Store


def logs_of(cell_id: str, others: frozenset[str], store: Store) -> list[tuple[Path, list[str]]]:
    """Log file and lines of each attempt at a cell on each rank, the oldest first.

    The log of a job has several cells; `others` are the ids that begin the lines of another cell.
    """
    files = sorted((store.root / "jobs").glob("*/*_log.*"), key=lambda path: path.stat().st_mtime)
    return [(path, lines) for path in files for lines in _parts(path, cell_id, others)]


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
