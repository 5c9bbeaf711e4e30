"""Copies data to a node's local disk before they are read, on sites with a `scratch` folder."""

import math
import os
import shutil
import stat
from pathlib import Path

from benchmark.cell import Cell
from benchmark.data.paths import field_path
from benchmark.errors import MachineError
from benchmark.files import replacing
from results.store import lease

MTIME_TOLERANCE_SECONDS = 1.0
"""File systems store times with different precision."""


def stage(data_folder: Path, cell: Cell, scratch: str | None) -> Path:
    """Copy the cell's data to `scratch`, once for each node, and return the folder to read from.

    If the copy fails, the reason is printed and `data_folder` is returned.
    """
    if scratch is None:
        return data_folder
    source = field_path(data_folder, cell.dataset)
    try:
        folder = scratch_folder(scratch)
        _copy(source, folder / source.relative_to(data_folder))
    except (OSError, MachineError) as error:
        print(f"scratch: {error}; {source} is read from the store", flush=True)
        return data_folder
    return folder


def scratch_folder(scratch: str) -> Path:
    """Private folder below `scratch`, which other users of the node may share. Raises MachineError if unusable."""
    root = Path(os.path.expandvars(scratch))
    if "$" in str(root):
        raise MachineError(f"{scratch}: the job has no such variable")
    folder = root / f"symbench-data-{os.getuid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise MachineError(f"{folder}: cannot be made: {error.strerror or error}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise MachineError(f"{folder}: must be a folder that belongs to this user, with mode 700")
    return folder


def _copy(source: Path, copy: Path) -> None:
    """Copy atomically, unless there is a copy already; a second process waits for the first."""
    turn = copy.with_suffix(".lease")
    turn.mkdir(parents=True, exist_ok=True)
    with lease.held(turn, patience_seconds=math.inf):
        if copy.exists() and _is_copy(source, copy):
            return
        with replacing(copy) as temporary:
            shutil.copy2(source, temporary)
            if not _is_copy(source, temporary):
                raise MachineError(f"{source}: changed while it was copied")


def _is_copy(source: Path, copy: Path) -> bool:
    first, second = source.stat(), copy.stat()
    return first.st_size == second.st_size and abs(first.st_mtime - second.st_mtime) < MTIME_TOLERANCE_SECONDS
