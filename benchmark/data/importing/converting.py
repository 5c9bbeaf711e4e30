"""Conversion of the runs of others into data files, a few frames at a time.

A level is first a file of plain numbers, which grows run by run. An import that was interrupted goes on from it; two
imports of the same data write the same numbers to the same places.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import IMPORTED, Simulation
from benchmark.data.imported import AS_IMPORTED
from benchmark.data.importing.forms import Run
from benchmark.data.importing.planning import SAMPLED_FRAMES, Plan, spread
from benchmark.data.layout import write
from benchmark.data.paths import data_path
from benchmark.errors import MachineError, UserError
from benchmark.files import write_errors

BLOCK_BYTES = 2**26
"""Numbers of a file that are read at a time; at least one frame."""
UNSURE_BYTES = 2**28
"""End of an interrupted conversion that is made again, since a machine that crashed may not have written it."""
IDENTITY = "import"
"""Parameter of a data file that identifies what it was made from."""
Progress = Callable[[int, int], None]


def convert(plan: Plan, level: Level, data_folder: Path, progress: Progress) -> Path:
    """Write the data file of a level, if it is not there already; returns its path. `progress` takes (runs, all runs).

    UserError: a file cannot be read, or holds values that are not finite. MachineError: there is too little memory or
    disk, or the folder cannot be written.
    """
    path = data_path(data_folder, plan.request.name, IMPORTED, level)
    identity = _identity(plan, level)
    if parameters(path).get(IDENTITY) == identity:
        return path
    runs = plan.runs[level]
    shape = (len(runs), plan.frames, plan.channels, *plan.size)
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{identity}.partial")
        _require_room(partial, math.prod(shape) * 4)
        for other in path.parent.glob(f".{path.name}.*.partial"):
            if other != partial:
                other.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as raw:
            try:
                _append(raw, plan, runs, progress)
            except UserError:  # no later attempt goes on from it
                partial.unlink(missing_ok=True)
                raise
            field = np.memmap(raw, "<f4", "r", shape=shape)
            write(path, plan.request.name, IMPORTED, level, _simulation(plan, level, field, identity))
        partial.unlink(missing_ok=True)
    return path


def parameters(path: Path) -> dict[str, Any]:
    """Parameters of a data file; {} if there is none, or it cannot be read."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            document = json.loads(file.attrs["parameters"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def divergences(field: NDArray[np.float32]) -> dict[str, float]:
    """Mean |divergence| over the mean |gradient|, as imported and with other orders of axes and components.

    `field` is (run, time, C, H, W), the velocity first; some frames are looked at. Without a divergence, the right
    order has the least.
    """
    frames = spread(range(len(field) * field.shape[1]), min(SAMPLED_FRAMES, len(field) * field.shape[1]))
    sums = np.zeros(5)
    for run, time in (divmod(frame, field.shape[1]) for frame in frames):
        frame = field[run, time, :2].astype(np.float64)
        (ux, vx), (uy, vy) = frame[:, 2:, 1:-1] - frame[:, :-2, 1:-1], frame[:, 1:-1, 2:] - frame[:, 1:-1, :-2]
        signed = (ux + vy, vx + uy, ux - vy, vx - uy)
        sums += [np.abs(values).mean() for values in (*signed, np.stack([ux, uy, vx, vy]))]
    orders = (AS_IMPORTED, "components swapped", "one axis reversed", "components swapped and one axis reversed")
    return {order: float(f"{value / max(2 * sums[-1], 1e-30):.3g}") for order, value in zip(orders, sums, strict=False)}


def _append(raw: IO[bytes], plan: Plan, runs: tuple[Run, ...], progress: Progress) -> None:
    """Write the runs that are not there yet."""
    run_bytes = plan.frames * plan.channels * math.prod(plan.size) * 4
    done = max(0, os.fstat(raw.fileno()).st_size - UNSURE_BYTES) // run_bytes
    for number in range(min(done, len(runs)), len(runs)):
        raw.seek(number * run_bytes)
        moving = False
        for block in _blocks(plan, runs[number]):
            raw.write(np.ascontiguousarray(block, "<f4").data)
            moving = moving or bool(block.any())
        if not moving:
            raise UserError(f"{runs[number].file}: run {runs[number].number} is zero everywhere")
        progress(number + 1, len(runs))
    raw.flush()


def _blocks(plan: Plan, run: Run) -> Iterator[NDArray[np.float32]]:
    """Frames of a run on the grid of the plan, (time, component, x, y). UserError: values that are not finite."""
    chosen = range(run.frames)[plan.request.frames][: plan.frames]
    at_a_time = max(1, BLOCK_BYTES // (16 * math.prod(run.grid)))
    thin, coarsen = plan.thinning(run), plan.request.coarsen
    for start in range(0, len(chosen), at_a_time):
        some = chosen[start : start + at_a_time]
        block = run.read(slice(some.start, some.stop, some.step), thin)
        finite = np.isfinite(block).all((1, 2, 3))
        if not finite.all():
            frame = some[int(finite.argmin())]
            raise UserError(f"{run.file}: run {run.number} has values that are not finite from frame {frame} on")
        if coarsen > 1:
            times, _, x, y = block.shape
            parts = block.reshape(times, plan.channels, x // coarsen, coarsen, y // coarsen, coarsen)
            block = parts.mean((3, 5), dtype=np.float64)
        if plan.units:
            block = block.astype(np.float64)
            scalars = block[:, plan.channels - len(plan.units) :]
            scalars -= np.array([unit.offset for unit in plan.units.values()])[:, None, None]
            scalars /= np.array([unit.scale for unit in plan.units.values()])[:, None, None]
        with np.errstate(over="ignore"):
            single = block.astype(np.float32)
        if not np.isfinite(single).all():
            raise UserError(f"{run.file}: run {run.number} has values beyond the range of float32")
        yield single


def _simulation(plan: Plan, level: Level, field: NDArray[np.float32], identity: str) -> Simulation:
    run, request = plan.first, plan.request
    frames = range(run.frames)[request.frames][: plan.frames]
    described = {
        "form": run.form,
        "field": ", ".join((*run.fields, *run.scalars)) or "the array of the file",
        **{f"stored_{name}": f"(value - {unit.offset:g}) / {unit.scale:g}" for name, unit in plan.units.items()},
        "axes_in_file": str(run.axes),
        "frames": f"{frames.start} to {frames[-1]}, every {frames.step}",
        "coarsened": request.coarsen,
        "not_imported": ", ".join(sorted(run.others)) or "nothing",
        "divergence": divergences(field) if run.has_velocity else {},
        IDENTITY: identity,
    }
    return Simulation(
        field=field,
        spacing=plan.spacing,
        time_step=plan.time_step,
        parameters=described,
        run_parameters=[{"file": one.name, "run": one.number, **one.parameters} for one in plan.runs[level]],
        equivariance_errors=(),
        components=plan.components,
    )


def _identity(plan: Plan, level: Level) -> str:
    """16 hex digits: equal for equal options and files of the same name, size and time."""
    request = plan.request
    options = [plan.frames, plan.grid, plan.spacing, plan.time_step, str(request.frames), request.coarsen]
    files = {run.file: run.file.stat() for run in plan.runs[level]}
    sources = [
        [run.name, run.number, *run.fields, *run.scalars, str(run.axes), file.st_size, file.st_mtime_ns]
        for run in plan.runs[level]
        for file in (files[run.file],)
    ]
    return hashlib.sha256(json.dumps([options, sources]).encode()).hexdigest()[:16]


def _require_room(partial: Path, size: int) -> None:
    """MachineError: the data do not fit into memory, as a training needs them, or twice on the disk, with `partial`."""
    there = partial.stat().st_size if partial.exists() else 0
    smaller = "--train-runs, --unseen-runs, --frames and --coarsen make it smaller"
    for place, free, needed in (
        ("the memory", psutil.virtual_memory().available, size),
        (str(partial.parent), shutil.disk_usage(partial.parent).free, 2 * size - there),
    ):
        if needed > free:
            raise MachineError(
                f"the data take {size / 2**30:.1f} GiB: {needed / 2**30:.1f} GiB are needed in {place}, and"
                f" {free / 2**30:.1f} GiB are free; {smaller}"
            )
