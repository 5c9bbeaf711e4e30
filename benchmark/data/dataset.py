"""The contract of a dataset, and the guide to writing one.

One file in `benchmark/data/`, whose name is the dataset's name, holds one subclass of `Dataset`. It says what its
levels of symmetry breaking mean, simulates them, and divides runs and frames into splits. What it yields is
written by `layout.write`, one HDF5 file for each (dataset, preset, level).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..cell import Level, Protocol
from ..errors import UserError
from ..groups import Grid

SplitName = Literal["train", "validation", "future", "domain"]
Progress = Callable[[int, int], None]
"""Called with (done, total) steps while something long goes on."""


@dataclass(frozen=True)
class Preset:
    """A size of the same physics: `cells` along each side of the box, `frames` kept of each run."""

    cells: int
    frames: int


@dataclass(frozen=True)
class Split:
    """Windows that start at the frames `starts` of each of `runs`; each is input frames and then `steps` targets."""

    runs: tuple[int, ...]
    starts: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class EquivarianceError:
    """Mean |d_1 - d_g| over time, components and pixels, and the same divided by mean |d_1|.

    `exact` is false where the group element needs interpolation.
    """

    element: str
    absolute: float
    relative: float
    exact: bool = True


@dataclass(frozen=True)
class Simulation:
    """All runs of one level: `field` is (run, time, 2, H, W) float32, velocity in lengths / time.

    `spacing` is the width of a grid cell in the same length, `time_step` the time between frames.
    `parameters` is whatever the generator needs to make the same again, JSON-like; `run_parameters` one entry a run.
    """

    field: NDArray[np.float32]
    grid: Grid
    spacing: float
    time_step: float
    parameters: Mapping[str, Any]
    run_parameters: Sequence[Mapping[str, Any]]
    equivariance_errors: Sequence[EquivarianceError]


class Dataset(ABC):
    """A family of fields with a knob that breaks one symmetry."""

    group: ClassVar[str]
    """The group that level 0 keeps, for example `C4`."""
    levels: ClassVar[tuple[Level, ...]]
    level_meaning: ClassVar[str]
    """What the knob is, physically, in one sentence."""
    presets: ClassVar[Mapping[str, Preset]]
    channels: ClassVar[int] = 2
    source: ClassVar[str]

    @abstractmethod
    def simulate(self, levels: Sequence[Level], preset: str, progress: Progress) -> Iterator[tuple[Level, Simulation]]:
        """Yield each of `levels` once it is ready; runs that several levels share are simulated once."""

    @abstractmethod
    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """The windows of each split. UserError where the frames do not hold the windows asked for."""


def disjoint_splits(
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
