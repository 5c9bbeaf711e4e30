"""What a cell wrote while it ran, wherever that was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from results.store.store import Store


@dataclass(frozen=True)
class Log:
    """The lines of one attempt on one rank, out of the log of a job with other cells."""

    path: Path
    lines: tuple[str, ...]


def logs_of(cell_id: str, others: frozenset[str], store: Store) -> list[Log]:
    """What every attempt at a cell left, the oldest first; `others` are ids at which another cell's lines begin."""
    files = sorted((store.root / "jobs").glob("*/*_log.*"), key=lambda path: path.stat().st_mtime)
    found = ((path, lines) for path in files for lines in _parts(path, cell_id, others))
    return [Log(path, tuple(lines)) for path, lines in found]


def _parts(path: Path, cell_id: str, others: frozenset[str]) -> Iterator[list[str]]:
    part: list[str] | None = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            first = line.split(" ", 1)[0].strip()
            if first == cell_id:
                if part is not None:
                    yield part
                part = []
            elif first in others and part is not None:
                yield part
                part = None
            if part is not None:
                part.append(line.rstrip("\n"))
    if part is not None:
        yield part
