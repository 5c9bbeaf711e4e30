"""Copies data to a node's own disk before they are read, where a site has one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmark.cell import Cell
from benchmark.data.layout import data_path
from benchmark.errors import MachineError
from benchmark.files import replacing


def stage(data_folder: Path, cell: Cell, scratch: str | None) -> Path:
    """The folder to read the cell's data from: a copy under `scratch`, made once for each node, or where they are.

    MachineError: `scratch` has an unknown variable, or cannot be written.
    """
    if scratch is None:
        return data_folder
    folder = Path(os.path.expandvars(scratch))
    if "$" in str(folder):
        raise MachineError(f"scratch: {scratch}: the job has no such variable")
    dataset = cell.dataset
    source = data_path(data_folder, dataset.name, dataset.preset, dataset.level)
    copy = folder / "symbench-data" / source.relative_to(data_folder)
    try:
        is_copied = copy.stat().st_size == source.stat().st_size and copy.stat().st_mtime == source.stat().st_mtime
    except FileNotFoundError:
        is_copied = False
    if not is_copied and source.exists():
        with replacing(copy) as temporary:  # several ranks may copy at once; the last one stays
            shutil.copy2(source, temporary)
    return folder / "symbench-data" if copy.exists() else data_folder
