"""Plan of an import: which runs and frames become which level, checked before anything is converted."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from benchmark.cell import Component, GroupName, Level, channels
from benchmark.data.importing.arrays import SUFFIXES
from benchmark.data.importing.axes import Axes
from benchmark.data.importing.forms import Run, runs_of
from benchmark.errors import UserError

TRAINING_FOLDERS = ("train", "numerical")
"""Folders whose runs are trained on, of The Well and of RealPDEBench, if the user names no other."""
MOST_FILES = 100_000
VELOCITY_NAME = "velocity"
SAMPLED_FRAMES = 64
"""Frames of a level that are read where a few of them will do."""
CONSTANT = 1e-6
"""Deviation over the mean below which a scalar is constant, to the accuracy of float32."""
LEAST_BLOCK = 3
"""Frames of the blocks of validation and test: one input and two targets."""
DIFFERENT = 0.01
"""Largest relative difference of spacings and time steps that count as equal."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Request:
    """Options of `symbench data import`, of data that lie in one file or folder for each level."""

    name: str
    levels: Mapping[Level, Path]
    source: str
    licence: str
    command: str
    frames: slice
    group: GroupName = "C4"
    fields: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    axes: Axes | None = None
    coarsen: int = 1
    train_on: str = ""
    train_runs: int | None = None
    unseen_runs: int | None = None
    spacing: float | None = None
    time_step: float | None = None
    periodic: bool | None = None


@dataclass(frozen=True)
class Unit:
    """A scalar is stored as (value - `offset`) / `scale`."""

    offset: float
    scale: float


@dataclass(frozen=True)
class Plan:
    """Runs of each level, those that are trained on first, and the size that all of them get."""

    request: Request
    runs: Mapping[Level, tuple[Run, ...]]
    training: int
    frames: int
    grid: tuple[int, int]
    spacing: float
    time_step: float
    periodic: bool

    @property
    def first(self) -> Run:
        """A run, for what all have in common."""
        return next(iter(self.runs.values()))[0]

    @property
    def last(self) -> Run:
        """A run that is not trained on."""
        return next(iter(self.runs.values()))[-1]

    @property
    def components(self) -> dict[str, Component]:
        """Name and kind of what stands in each cell."""
        velocity: dict[str, Component] = {VELOCITY_NAME: "vector"} if self.first.has_velocity else {}
        return velocity | {scalar_name(scalar): "scalar" for scalar in self.first.scalars}

    @property
    def channels(self) -> int:
        """Numbers in each cell."""
        return channels(self.components.values())

    @cached_property
    def units(self) -> Mapping[str, Unit]:
        """Unit in which each scalar is stored, from some frames of the first level that are trained on.

        Its deviations from its mean are then as large as the velocity, or as 1 without one, so that an error says as
        much of each component. UserError: a scalar is constant, or holds values that are not finite.
        """
        if not self.first.scalars:
            return {}
        runs = next(iter(self.runs.values()))[: self.training]
        frames = [(run, frame) for run in runs for frame in range(run.frames)[self.request.frames][: self.frames]]
        some = spread(frames, min(SAMPLED_FRAMES, len(frames)))
        sums, squares = np.zeros(self.channels), np.zeros(self.channels)
        for run, frame in some:
            values = run.read(slice(frame, frame + 1), self.thinning(run)).astype(np.float64)
            sums += values.mean((0, 2, 3))
            squares += np.square(values).mean((0, 2, 3))
        means, squares = sums / len(some), squares / len(some)
        scalars = slice(self.channels - len(self.first.scalars), None)
        size = math.sqrt(squares[: scalars.start].mean()) if self.first.has_velocity else 1.0
        units = {}
        names = list(self.components)[-len(self.first.scalars) :]
        for name, mean, square in zip(names, means[scalars], squares[scalars], strict=True):
            deviation = math.sqrt(max(square - mean**2, 0.0))
            if not deviation > CONSTANT * abs(mean) or not math.isfinite(deviation):
                raise UserError(
                    f"{self.first.file}: {name} is constant, or not finite, in the runs that are trained on"
                )
            units[name] = Unit(float(mean), deviation / (size or 1.0))
        return units

    @property
    def count(self) -> int:
        """Runs of a level."""
        return len(next(iter(self.runs.values())))

    @property
    def size(self) -> tuple[int, int]:
        """Cells along x and y of the data file."""
        x, y = self.grid
        return x // self.request.coarsen, y // self.request.coarsen

    def thinning(self, run: Run) -> int:
        """Every so many points of a run belong to the grid that all runs have."""
        return run.grid[0] // self.grid[0]


def scalar_name(path: str) -> str:
    """Name of a scalar from the path of its array: `t0_fields/tracer` is tracer."""
    return path.rpartition("/")[2]


def plan(request: Request) -> Plan:
    """Plan of an import. UserError: the data cannot be read, or do not fit together."""
    names = [scalar_name(scalar) for scalar in request.scalars]
    given = " ".join(f"--scalar {scalar}" for scalar in request.scalars)
    if len({*names, VELOCITY_NAME}) <= len(names):
        raise UserError(f"{given}: must be different names, none of them velocity")
    if not all(re.fullmatch(r"\w[\w.-]*", name) for name in names):
        raise UserError(f"{given}: names have letters, digits, `_`, `.` and `-`, and begin with a letter or a digit")
    readable = {level: list(_runs(path, request)) for level, path in request.levels.items()}
    split = {level: _split(runs, request, request.levels[level]) for level, runs in readable.items()}
    runs = {level: (*training, *unseen) for level, (training, unseen) in split.items()}
    counts = {(len(training), len(unseen)) for training, unseen in split.values()}
    if len(counts) > 1:
        raise UserError(
            f"{_paths(request)}: have different numbers of runs; --train-runs and --unseen-runs choose equal ones"
        )
    chosen = [run for of_level in runs.values() for run in of_level]
    grid = _grid(chosen, request)
    frames = min(len(range(run.frames)[request.frames]) for run in chosen)
    if min(frames * 3 // 4 - frames * 3 // 5, frames - frames * 3 // 4) < LEAST_BLOCK:
        raise UserError(
            f"{_paths(request)}: the shortest run has {frames} frames; 18 and more are needed, 3/5 for training,"
            " 3/20 for validation and 1/4 for tests"
        )
    fine = [run.spacing and run.spacing * (run.grid[0] // grid[0]) for run in chosen]
    spacing = request.spacing or _common("spacing", fine, request)
    time_step = request.time_step or _common("time step", [run.time_step for run in chosen], request)
    periodic = request.periodic if request.periodic is not None else all(run.periodic for run in chosen)
    stride = request.frames.step or 1
    (training, _), *_ = counts
    return Plan(request, runs, training, frames, grid, spacing * request.coarsen, time_step * stride, periodic)


def _runs(path: Path, request: Request) -> Iterator[Run]:
    """Runs of all files. UserError: a file is in another form than the first."""
    first: Run | None = None
    for file, name in _files(path):
        for run in runs_of(file, name, request.fields, request.axes, request.scalars):
            first = first or run
            if (run.form, run.fields, run.scalars) != (first.form, first.fields, first.scalars):
                raise UserError(f"{file}: is in the form of {run.form}, and {first.file} in that of {first.form}")
            yield run


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """Files that may hold arrays, sorted, with their path in the folder. UserError: there is none."""
    try:
        if path.is_file():
            if path.suffix not in SUFFIXES:
                raise UserError(f"{path}: is no file of {', '.join(SUFFIXES)}, by its name")
            yield path.absolute(), path.name
            return
        if not path.is_dir():
            raise UserError(f"{path}: no such file or folder")
        files = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(path, onerror=_raise)  # follows no link to a folder
            for name in names
            if Path(name).suffix in SUFFIXES and not name.startswith(".")
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    if not 0 < len(files) <= MOST_FILES:
        raise UserError(f"{path}: holds {len(files)} files {', '.join(SUFFIXES)}; right are 1 to {MOST_FILES:,}")
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: is a broken link, or no regular file")
        yield file.absolute(), file.relative_to(path).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _split(runs: Sequence[Run], request: Request, path: Path) -> tuple[list[Run], list[Run]]:
    """Runs that are trained on and unseen ones. UserError: there are none, or fewer than wanted."""
    if not runs:
        raise UserError(f"{path}: holds no run")
    patterns = (request.train_on,) if request.train_on else TRAINING_FOLDERS
    for pattern in patterns:
        training = [run for run in runs if _matches(run.name, pattern)]
        unseen = [run for run in runs if not _matches(run.name, pattern)]
        if training and unseen:
            break
    else:
        if request.train_on:
            raise UserError(
                f"{path}: --train-on {request.train_on} names {len(training)} of {len(runs)} runs; it must name some"
                f" and not all (the first is {runs[0].name})"
            )
        chosen = set(spread(range(len(runs)), max(1, len(runs) // 4)))
        training = [run for number, run in enumerate(runs) if number not in chosen]
        unseen = [run for number, run in enumerate(runs) if number in chosen]
    if not training:
        raise UserError(f"{path}: has one run; at least two are needed, one to train on and one that is unseen")
    for option, wanted, had in (
        ("--train-runs", request.train_runs, training),
        ("--unseen-runs", request.unseen_runs, unseen),
    ):
        if wanted is not None and wanted > len(had):
            raise UserError(f"{path}: {option} {wanted} is more than the {len(had)} runs there are")
    return spread(training, request.train_runs), spread(unseen, request.unseen_runs)


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """So many of the items, evenly spread; all for None.

    >>> spread(range(8), 2)
    [2, 6]
    """
    if count is None:
        return list(items)
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern as of a shell names the run, or a folder on its path."""
    return any(fnmatchcase(part, pattern) for part in (name, *PurePosixPath(name).parts))


def _grid(runs: Sequence[Run], request: Request) -> tuple[int, int]:
    """Grid that all runs have; of RealPDEBench, the coarser of the measured and the simulated one.

    UserError: the grids differ, or cannot be coarsened.
    """
    x, y = min(run.grid for run in runs)
    for run in runs:
        factor = run.grid[0] // x
        same = (factor * x, factor * y) == run.grid
        if not same or (factor > 1 and run.form != "RealPDEBench"):
            raise UserError(f"{run.file}: has {run.grid[0]} x {run.grid[1]} points, and other runs {x} x {y}")
    if x % request.coarsen or y % request.coarsen:
        raise UserError(f"--coarsen {request.coarsen}: does not divide the grid of {x} x {y}")
    return x, y


def _common(what: str, values: Sequence[float | None], request: Request) -> float:
    """Value that all files name, or 1 where none does. UserError: they name different ones."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return 1.0
    if known[-1] - known[0] > DIFFERENT * known[0]:
        option = f"--{what.replace(' ', '-')}"
        raise UserError(
            f"{_paths(request)}: its runs have a {what} of {known[0]:.4g} to {known[-1]:.4g}; {option} sets one"
        )
    return known[0]


def _paths(request: Request) -> str:
    return ", ".join(map(str, request.levels.values()))
