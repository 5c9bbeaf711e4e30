"""Copies data to a node's own disk before they are read, where a site has one."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from pathlib import Path

from benchmark.cell import Cell
from benchmark.data.layout import field_path
from benchmark.errors import MachineError
from benchmark.files import replacing

SAME_TIME_SECONDS = 1.0
"""File systems keep times to different digits."""


def stage(data_folder: Path, cell: Cell, scratch: str | None) -> Path:
    """The folder to read the cell's data from: a copy under `scratch`, made once for each node, or where they are.

    Where a copy cannot be made, the log says why, and the data are read where they are.
    """
    if scratch is None:
        return data_folder
    source = field_path(data_folder, cell.dataset)
    try:
        folder = scratch_folder(scratch)
        _copy(source, folder / source.relative_to(data_folder))
    except (OSError, MachineError) as error:
        print(f"scratch: {error}; {source} is read where it is", flush=True)
        return data_folder
    return folder


def scratch_folder(scratch: str) -> Path:
    """Our own folder below `scratch`, which other users of the node may share. MachineError: it cannot be used."""
    root = Path(os.path.expandvars(scratch))
    if "$" in str(root):
        raise MachineError(f"{scratch}: the job has no such variable")
    folder = root / f"symbench-data-{os.getuid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise MachineError(f"{folder}: cannot be made: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise MachineError(f"{folder}: is not a folder that is ours alone")
    return folder


def _copy(source: Path, copy: Path) -> None:
    """Make `copy` whole or not at all; who comes while another process makes it waits for that."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_copy(source, copy):
            return
        with replacing(copy) as temporary:
            shutil.copy2(source, temporary)
            if not _is_copy(source, temporary):
                raise MachineError(f"{source}: changed while it was copied")


def _is_copy(source: Path, copy: Path) -> bool:
    original = source.stat()
    try:
        found = copy.stat()
    except FileNotFoundError:
        return False
    return found.st_size == original.st_size and abs(found.st_mtime - original.st_mtime) < SAME_TIME_SECONDS
