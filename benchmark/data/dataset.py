"""The contract of a dataset, and the guide to writing one.

One file in `benchmark/data/`, whose name is the dataset's name, holds one subclass of `Dataset`: what its levels of
symmetry breaking mean, and how runs and frames are divided into splits. A simulated one says in `parts` what has to be
simulated for a level, in pieces that run on their own, and in `assemble` how a level is made of them; a measured one
names the files that a person imports. `prepare` and `published` do the rest, and `layout` writes one HDF5 file for
each (dataset, preset, level).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Grid, GroupName, Level, Protocol
from benchmark.errors import UserError

SplitName = Literal["train", "validation", "future", "domain"]
Progress = Callable[[int], None]
"""Called with the work done since the last call, in the unit of `Part.work`, while something long goes on."""
PAPER: Level = "paper"
"""The level that is the published setting."""
IMPORTED = "imported"
"""The preset of files that were published or measured, and not simulated here."""


@dataclass(frozen=True)
class Preset:
    """A size of the same physics: an array of `height` (along x) by `width` (along y), `frames` of each run."""

    height: int
    width: int
    frames: int


@dataclass(frozen=True)
class Split:
    """Windows that start at the frames `starts` of each of `runs`; each is input frames and then `steps` targets."""

    runs: tuple[int, ...]
    starts: tuple[int, ...]
    steps: int

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.runs) * len(self.starts)


@dataclass(frozen=True)
class EquivarianceError:
    """Mean |d_1 - d_g| over runs, time, components and pixels, and the same divided by mean |d_1|.

    `exact` is false where the group element needs interpolation.
    """

    element: str
    absolute: float
    relative: float
    exact: bool = True


@dataclass(frozen=True)
class Simulation:
    """All runs of one level: `field` is (run, time, 2, H, W) float32, velocity in lengths / time.

    `spacing` is the width of a grid cell in the same length, `time_step` the time between frames. `divergence_free`
    promises that the staggered stencil finds no divergence beyond float32's rounding. `parameters` is whatever the
    generator needs to make the same again, JSON-like; `run_parameters` one entry a run.
    """

    field: NDArray[np.float32]
    grid: Grid
    divergence_free: bool
    spacing: float
    time_step: float
    parameters: Mapping[str, Any]
    run_parameters: Sequence[Mapping[str, Any]]
    equivariance_errors: Sequence[EquivarianceError]


class Part(ABC):
    """A simulation that runs on its own. A subclass is a frozen dataclass of plain data.

    Equal parts are simulated once, whichever levels need them, in whichever process.
    """

    @property
    def key(self) -> str:
        """16 hex digits: equal for equal parts on every machine."""
        document = json.dumps([type(self).__qualname__, asdict(self)], sort_keys=True)  # type: ignore[call-overload]
        return hashlib.sha256(document.encode()).hexdigest()[:16]

    @property
    @abstractmethod
    def work(self) -> int:
        """What it costs, in any unit that is the same for all parts of a dataset."""

    def solved_by(self, solver: str) -> Part:
        """The same simulation by another solver. UserError where there is none of that name."""
        raise UserError(f"--solver {solver}: this dataset has one solver only")

    @abstractmethod
    def simulate(self, progress: Progress) -> NDArray[np.float32]:
        """The trajectories: (run, time, 2, H, W) float32. The same bytes each time on the same machine."""


@dataclass(frozen=True)
class PublishedFiles:
    """How a set was published: one `.pt` file a run, in the runs' order.

    `level` is the level that they are. `where` tells a person how to get them. Smoke lies on a staggered grid, as
    PhiFlow writes it: axes (time, 2, W, H), components (x, y). `measured` velocities are those at points, with axes
    (time, 2, H, W), and which component lies along which axis is not known.
    """

    names: tuple[str, ...]
    level: Level
    where: str
    measured: bool = False


class Dataset(ABC):
    """A family of fields with a knob that breaks one symmetry."""

    group: ClassVar[GroupName]
    """The group that level 0 keeps, up to what the box allows."""
    periodic: ClassVar[bool] = False
    """Whether the box has no walls: what leaves at one side enters at the other."""
    levels: ClassVar[tuple[Level, ...]]
    """The valid settings of the knob: 0 is the most symmetric, `paper` the published one."""
    level_meaning: ClassVar[str]
    """What the knob is, physically, in one sentence."""
    presets: ClassVar[Mapping[str, Preset]]
    """The first one is the default. The preset `imported` is that of `published_files`."""
    published_files: ClassVar[PublishedFiles | None] = None
    channels: ClassVar[int] = 2
    source: ClassVar[str]

    @abstractmethod
    def parts(self, level: Level, preset: str) -> Sequence[Part]:
        """What has to be simulated for a level."""

    @abstractmethod
    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """The level, from what its `parts` gave, in their order."""

    @abstractmethod
    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """The windows of each split. UserError where the frames do not hold the windows asked for."""

    def level_value(self, level: Level) -> float:
        """The knob as a number, for `paper` too, so that levels can be put in order."""
        return float(level)


@dataclass(frozen=True)
class PublishedWindows:
    """The windows of `icml2022`: numbers t; the inputs of window t begin at frame t + 2."""

    train: range = range(160)
    validation: range = range(160, 200)
    future: range = range(200, 250)
    domain: range = range(100)

    OFFSET: ClassVar[int] = 2


def divide(
    preset: Preset,
    training_runs: Sequence[int],
    unseen_runs: Sequence[int],
    protocol: Protocol,
    windows: PublishedWindows,
) -> dict[SplitName, Split]:
    """The splits of either protocol, with `windows` as the published ones. UserError where one has no window."""
    if protocol.name == "disjoint":
        return _disjoint(preset.frames, training_runs, unseen_runs, protocol)
    return _published(preset.frames, training_runs, unseen_runs, protocol, windows)


def _disjoint(
    frames: int, training_runs: Sequence[int], unseen_runs: Sequence[int], protocol: Protocol
) -> dict[SplitName, Split]:
    """The `disjoint` protocol: training, validation and future are successive blocks of frames (3/5, 3/20, 1/4).

    No frame belongs to two of them, and `domain` takes all frames of runs that are in none. Test windows start
    every half roll-out, so that neighbouring ones say something new. UserError where a block cannot hold a window.
    """
    train_end, validation_end = frames * 3 // 5, frames * 3 // 4
    stride = max(1, protocol.test_steps // 2)

    def windows(name: SplitName, runs: Sequence[int], first: int, end: int, steps: int, stride: int) -> Split:
        starts = tuple(range(first, end - protocol.input_frames - steps + 1, stride))
        if not starts:
            raise UserError(
                f"a {name} window of {protocol.input_frames} input and {steps} target frames does not fit"
                f" into the {end - first} frames of that split; choose fewer input_frames, train_steps or test_steps"
            )
        return Split(tuple(runs), starts, steps)

    return {
        "train": windows("train", training_runs, 0, train_end, protocol.train_steps, 1),
        "validation": windows("validation", training_runs, train_end, validation_end, protocol.train_steps, 1),
        "future": windows("future", training_runs, validation_end, frames, protocol.test_steps, stride),
        "domain": windows("domain", unseen_runs, 0, frames, protocol.test_steps, stride),
    }


def _published(
    frames: int,
    training_runs: Sequence[int],
    unseen_runs: Sequence[int],
    protocol: Protocol,
    windows: PublishedWindows,
) -> dict[SplitName, Split]:
    """The protocol `icml2022`. Windows that would run beyond the last frame are left out; UserError if none is left.

    As published, training targets run into the validation inputs, and those into the future test.
    """

    def split(name: SplitName, runs: Sequence[int], numbers: range, steps: int) -> Split:
        last_start = frames - protocol.input_frames - steps
        starts = tuple(t + windows.OFFSET for t in numbers if t + windows.OFFSET <= last_start)
        if not starts:
            first = numbers[0] + windows.OFFSET
            raise UserError(
                f"{name} windows of icml2022 start at frame {first} of {frames}; input_frames and"
                f" steps may sum up to {max(0, frames - first)} at most, not {protocol.input_frames} + {steps}"
            )
        return Split(tuple(runs), starts, steps)

    return {
        "train": split("train", training_runs, windows.train, protocol.train_steps),
        "validation": split("validation", training_runs, windows.validation, protocol.train_steps),
        "future": split("future", training_runs, windows.future, protocol.test_steps),
        "domain": split("domain", unseen_runs, windows.domain, protocol.test_steps),
    }
