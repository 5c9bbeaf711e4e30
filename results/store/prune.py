"""Waste in a store: checkpoints of finished cells, ended jobs, unused code, and what killed processes left."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark.cell import Cell
from benchmark.files import tuned_folder, write_errors
from results.store import lease
from results.store.cell_recorder import CHECKPOINT
from results.store.record import FINISHED, PARTS, read_status
from results.store.store import Store

YOUNG_SECONDS = 3600.0
"""A folder of jobs or of code that was changed later stays: somebody may be about to send its jobs."""


@dataclass(frozen=True)
class Waste:
    """Files and folders of one kind that can be removed."""

    kind: str
    paths: Sequence[Path]

    @property
    def size(self) -> tuple[int, int]:
        """Number of files, and their bytes."""
        sizes = [path.lstat().st_size for one in self.paths for path in _files(one)]
        return len(sizes), sum(sizes)

    def remove(self) -> None:
        """Remove all of it. Raises MachineError if something cannot be removed."""
        for path in self.paths:
            with write_errors(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def waste(
    store: Store, cells: Sequence[Cell] | None, keeps_checkpoints: bool | None, is_live: Callable[[Path], bool]
) -> list[Waste]:
    """All that can be removed of `cells`, or of the store if they are None.

    `keeps_checkpoints` is what their suite says; None: what each record says. `is_live` says of a folder of SLURM jobs
    whether one of them waits or runs. A folder of jobs stays as long as one of its cells has no result, and a snapshot
    of code as long as a folder of jobs names it.
    """
    ids = None if cells is None else {cell.id for cell in cells}
    studies = sorted(path for path in tuned_folder(store.root).glob("*") if path.is_dir())
    if ids is None:
        folders = [path for root in (store.root, *studies) for path in sorted((root / "cells").glob("*"))]
    else:
        folders = [store.cell_folder(key) for key in sorted(ids)]
    finished, checkpoints, remains = set[str](), list[Path](), list[Path]()
    for folder in folders:
        if not folder.is_dir() or lease.live_holder(folder) is not None:
            continue
        remains += folder.glob(".*.tmp")
        if _is_finished(folder):
            finished.add(folder.name)
            if not _keeps(folder, keeps_checkpoints):
                checkpoints += folder.glob(CHECKPOINT)
            remains += folder.glob("lease-*.json")
            if (folder / FINISHED).exists():
                remains += [path for part in PARTS for path in folder.glob(f"{part}.json")]
    now = _disk_time(store.root)
    is_busy = any(lease.live_holder(path) is not None for path in (store.root / "leases" / "run", *studies))

    def is_over(folder: Path) -> bool:
        jobs = _cells_of(folder)
        is_ours = ids is None or (bool(jobs) and jobs <= ids)
        if not is_ours or not jobs <= finished or now - _changed(folder) < YOUNG_SECONDS:
            return False
        is_local = not any(folder.glob("*_submission.sh"))  # the name of submitit
        return not (is_busy if is_local else is_live(folder))

    jobs = [folder for folder in sorted((store.root / "jobs").glob("*")) if folder.is_dir()]
    ended = [folder for folder in jobs if is_over(folder)]
    used = "".join(_text(folder) for folder in jobs if folder not in ended)
    code = [one for one in (store.root / "code").glob("*") if now - one.stat().st_mtime > YOUNG_SECONDS]
    kinds = {
        "checkpoints of finished cells": checkpoints,
        "what processes left beside the records": remains,
        "logs and notes of ended jobs": ended,
        "code that no job uses": [one for one in code if one.name not in used],
    }
    return [Waste(kind, paths) for kind, paths in kinds.items() if paths]


def _is_finished(folder: Path) -> bool:
    try:
        known = read_status(folder)
    except (OSError, ValueError):  # damaged; it runs again
        return False
    return known is not None and known[1].is_result


def _keeps(folder: Path, keeps_checkpoints: bool | None) -> bool:
    if keeps_checkpoints is not None:
        return keeps_checkpoints
    with suppress(OSError, ValueError):  # of an earlier version, which always kept them
        return bool(json.loads((folder / FINISHED).read_text(encoding="utf-8")).get("keeps_checkpoint"))
    return False


def _cells_of(folder: Path) -> set[str]:
    """Ids of the cells that the jobs in `folder` run; of a job that tunes or simulates, none."""
    ids: set[str] = set()
    for path in folder.glob("*.json"):
        with suppress(OSError, ValueError, TypeError, AttributeError):
            document = json.loads(path.read_text(encoding="utf-8"))
            ids |= {Cell.model_validate(cell).id for cell in document.get("cells", ())}
            ids |= set(document.get("unsent", ()))
    return ids


def _text(folder: Path) -> str:
    """Notes of a folder of jobs, which name the code that they use."""
    return "".join(path.read_text("utf-8", "replace") for path in folder.iterdir() if path.suffix in (".json", ".sh"))


def _changed(folder: Path) -> float:
    """Time of the last change of `folder` or a file in it, by the clock of the disk."""
    return max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))


def _disk_time(root: Path) -> float:
    with write_errors(root), tempfile.NamedTemporaryFile(dir=root) as file:
        return os.fstat(file.fileno()).st_mtime


def _files(path: Path) -> Iterable[Path]:
    return _in(path) if path.is_dir() and not path.is_symlink() else [path]


def _in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())
