"""The contract of a dataset, and the guide to writing one.

One file in `benchmark/data/datasets/`, whose name is the dataset's name, holds one subclass of `Dataset`. It declares
the levels of symmetry breaking and the runs of each split. A simulated dataset lists in `parts` the simulations that a
level needs, each of which runs on its own, and combines them in `assemble`. A measured dataset names the files that the
user imports. `prepare` and `published` do the rest, and `layout` writes one HDF5 file for each (dataset, preset,
level).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as attribute
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Component, Grid, GroupName, Level, Protocol, TestRuns, channels
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.data.strict_floor import StrictFloor

SplitName = Literal["train", "validation", "future", "domain"]
ONE_VELOCITY: Mapping[str, Component] = {"velocity": "vector"}
"""Components of a field that is one velocity."""
PAPER: Level = "paper"
"""Level of the published setting."""
IMPORTED = "imported"
"""Preset of files that others simulated or measured."""


@dataclass(frozen=True)
class Preset:
    """Size of the arrays: `height` cells along x, `width` cells along y, `frames` in each run.

    `components` names what stands in each cell, in the order of the array: a vector has 2 numbers, a scalar 1. Errors
    are taken over all numbers, so the components should be stored in units in which they are about equally large.
    """

    kind: ClassVar[str] = "field"
    usual_components: ClassVar[Mapping[str, Component]] = ONE_VELOCITY
    axes: ClassVar[tuple[str, ...]] = ("run", "time", "component", "x", "y")
    units: ClassVar[Mapping[str, str]] = {"field": "length / time", "spacing": "length", "time_step": "time"}
    shape_names: ClassVar[str] = "components, height and width"
    on_grid: ClassVar[bool] = True
    error_unit: ClassVar[str] = "field units"
    error_meaning: ClassVar[str] = "Field units are those of the dataset's velocity."
    strictness: ClassVar[str] = (
        "For quarter turns, and in a periodic box, a strict model stays at round-off; walls and interpolation add to"
        " it."
    )

    height: int
    width: int
    frames: int
    components: Mapping[str, Component] = attribute(default_factory=lambda: ONE_VELOCITY)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state: (C, H, W), with C = 2 for one velocity."""
        return channels(self.components.values()), self.height, self.width

    @property
    def label(self) -> str:
        """Size of a state in a list."""
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class ParticlePreset:
    """Size of the arrays: `particles` in each of `frames`, which are `time_step` apart."""

    kind: ClassVar[str] = "particles"
    usual_components: ClassVar[Mapping[str, Component]] = {}
    components: ClassVar[Mapping[str, Component]] = {}
    axes: ClassVar[tuple[str, ...]] = ("run", "time", "particle", "position and velocity")
    units: ClassVar[Mapping[str, str]] = {"field": "length, and length / time", "time_step": "time"}
    shape_names: ClassVar[str] = "particles and numbers of each"
    on_grid: ClassVar[bool] = False
    error_unit: ClassVar[str] = "data units"
    error_meaning: ClassVar[str] = "Errors are of positions and velocities together, in the units of the data."
    strictness: ClassVar[str] = "A strict model stays at round-off, since every turn is exact."

    particles: int
    frames: int
    time_step: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state: (N, 6)."""
        return self.particles, 6

    @property
    def label(self) -> str:
        """Size of a state in a list."""
        return f"{self.particles} particles"


AnyPreset = Preset | ParticlePreset
STORAGE: Mapping[str, type[Preset] | type[ParticlePreset]] = {size.kind: size for size in (Preset, ParticlePreset)}
"""Kind of state -> the class of its presets, which names axes and units of its data files, and errors on boards."""

GROUPS: Mapping[str, str] = {
    "C4": "quarter turns",
    "translation": "translations",
    "scale": "changes of scale",
    "O": "the 24 turns of the cube",
}
"""Symmetry of level 0 in words."""

TINY = Preset(16, 16, 24)
"""Preset to try a suite in seconds, and for the tests; too coarse for a statement about models."""


@dataclass(frozen=True)
class Split:
    """Windows that start at the frames `starts` of each of `runs`: input frames, then `steps` target frames."""

    runs: tuple[int, ...]
    starts: tuple[int, ...]
    steps: int

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.runs) * len(self.starts)


@dataclass(frozen=True)
class EquivarianceError:
    """Data equivariance error of one group element g, see `benchmark.data.equivariance`.

    `absolute` is the mean of |d_1 - d_g| over runs, time, components and pixels, in units of the field. `relative` is
    `absolute` over the mean of |d_1|. `exact` is false if g needs interpolation.
    """

    element: str
    absolute: float
    relative: float
    exact: bool = True


@dataclass(frozen=True)
class Simulation:
    """All runs of one level: `field` is (run, time, ...) float32; the axes of a state are those of its preset.

    A field is (C, H, W), a velocity in length / time and scalars. `spacing` is the width of a grid cell in the same
    length, `time_step` the time between frames. `divergence_free` states that the divergence of the velocity on the
    staggered stencil is zero up to float32 rounding. Particles are (N, 6), positions and velocities, and have the
    defaults of the grid.

    `parameters` (JSON) describes the simulation, `run_parameters` holds one entry for each run. `prepare` adds the
    `strict_floor`, and the `components` of a field, as the preset names them.
    """

    field: NDArray[np.float32]
    time_step: float
    parameters: Mapping[str, Any]
    run_parameters: Sequence[Mapping[str, Any]]
    equivariance_errors: Sequence[EquivarianceError]
    grid: Grid = "centered"
    divergence_free: bool = False
    spacing: float = 1.0
    strict_floor: StrictFloor | None = None
    kind: str = "field"
    components: Mapping[str, Component] = attribute(default_factory=lambda: ONE_VELOCITY)


class Part(ABC):
    """A simulation that runs on its own. A subclass is a frozen dataclass of plain data.

    Levels that need equal parts share one simulation.
    """

    @property
    def key(self) -> str:
        """16 hex digits: equal for equal parts on every machine."""
        document = json.dumps([type(self).__qualname__, asdict(self)], sort_keys=True)  # type: ignore[call-overload]
        return hashlib.sha256(document.encode()).hexdigest()[:16]

    @property
    @abstractmethod
    def work(self) -> int:
        """Cost, in any unit that all parts of a dataset share."""

    @abstractmethod
    def simulate(self) -> NDArray[np.float32]:
        """Trajectories (run, time, ...) float32, the same bytes each time on the same machine."""


@dataclass(frozen=True)
class PublishedFiles:
    """Published files of one level: one `.pt` file for each run, in the order of the runs.

    `where` is a sentence on how to get them. Smoke lies on a staggered grid as PhiFlow writes it: axes (time, 2, W, H),
    components (x, y). `measured` velocities are values at points, with axes (time, 2, H, W); the order of the
    components is unknown.
    """

    names: tuple[str, ...]
    level: Level
    where: str
    measured: bool = False


@dataclass(frozen=True)
class PublishedWindows:
    """First frames of the windows of the protocol `icml2022`; the published window t begins at frame t + 2."""

    train: range = range(2, 162)
    validation: range = range(162, 202)
    future: range = range(202, 252)
    domain: range = range(2, 102)


class Dataset(ABC):
    """A family of fields, or of systems of particles, with a knob that breaks one symmetry."""

    group: ClassVar[GroupName]
    """Symmetry of level 0, as far as the box allows."""
    periodic: ClassVar[bool] = False
    """Whether opposite sides of the box are joined; otherwise they are walls."""
    levels: ClassVar[tuple[Level, ...]]
    """Valid settings of the knob: 0 is the most symmetric, `paper` the published one."""
    level_meaning: ClassVar[str]
    """Physical meaning of a level, in one sentence."""
    presets: ClassVar[Mapping[str, AnyPreset]]
    """Sizes, the default first: `Preset` for fields, `ParticlePreset` for particles. The preset `imported` belongs to
    `published_files`."""
    published_files: ClassVar[PublishedFiles | None] = None
    training_runs: ClassVar[Sequence[int]]
    """Runs of the splits train, validation and future."""
    unseen_runs: ClassVar[Sequence[int]]
    """Runs of the split domain."""
    test_runs: ClassVar[TestRuns]
    """`sampled` if other runs from the same distribution would do as well: tests of models take runs as random, and
    their claim is about new runs, too. `designed` if the runs were chosen: the claim is about these runs."""
    windows: ClassVar[PublishedWindows] = PublishedWindows()
    no_floor: ClassVar[str] = ""
    """Reason why the level has no strict floor; empty if `floor_parts` has its simulations."""
    source: ClassVar[str]

    @property
    def kind(self) -> str:
        """Kind of the states."""
        return next(iter(self.presets.values())).kind

    def size(self, preset: str) -> dict[str, Any]:
        """Size of a preset as JSON, for tasks and lists."""
        size = self.presets[preset]
        return {"kind": size.kind, "shape": size.shape, "label": size.label, "periodic": self.periodic, **asdict(size)}

    @abstractmethod
    def parts(self, level: Level, preset: str) -> Sequence[Part]:
        """Simulations that the level needs, at least one."""

    @abstractmethod
    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """The level, from the results of its `parts`, in their order."""

    def floor_parts(self, level: Level, preset: str) -> Sequence[Part]:
        """Simulations of the strict floor of the level, see `benchmark.data.strict_floor`; none if `no_floor` says why.

        Each gives F(x) - (P F)(x) for some states x, after 1, 2, ... frames: (state, time, ...).
        """
        return ()

    def breaking_map(self, level: Level, preset: str) -> NDArray[np.float64] | None:
        """Map (X, Y) of what breaks the symmetry, in any unit, to be compared with maps of relaxed layers.

        None, the default: nothing does at this level, or it is no function of the place.
        """
        return None

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """Windows of each split. UserError: the frames or runs do not hold a window of the protocol."""
        frames, runs = self.presets[preset].frames, self.training_runs
        if protocol.train_runs is not None:
            if protocol.train_runs > len(runs):
                raise UserError(f"train_runs: {protocol.train_runs} is more than the {len(runs)} training runs")
            runs = runs[: protocol.train_runs]
        of_split = {
            "train": tuple(itertools.islice(itertools.cycle(runs), len(self.training_runs))),
            "domain": tuple(self.unseen_runs),
        }
        splits: dict[SplitName, Split] = {}
        for name in get_args(SplitName):
            steps = protocol.train_steps if name in ("train", "validation") else protocol.test_steps
            if protocol.name == "disjoint":
                starts = _disjoint_starts(name, frames, protocol, steps)
            else:
                starts = _published_starts(name, frames, protocol, steps, getattr(self.windows, name))
            splits[name] = Split(of_split.get(name, tuple(runs)), starts, steps)
        return splits

    @property
    def terms(self) -> str:
        """Sentences on the rights in the files of the preset `imported`, and on where they come from."""
        where = self.published_files.where if self.published_files else self.source
        return f"symbench gives no licence for this data; ask its authors before you pass it on. Source: {where}."

    def import_command(self, name: str) -> str:
        """Command that makes the data files of the preset `imported`."""
        return f"symbench data import {name} FOLDER"

    def level_value(self, level: Level) -> float:
        """The knob as a number, also for `paper`, so that levels can be ordered."""
        return float(level)


def _disjoint_starts(name: SplitName, frames: int, protocol: Protocol, steps: int) -> tuple[int, ...]:
    """First frames of the windows of a split: training, validation and future are successive blocks of frames.

    The blocks are 3/5, 3/20 and 1/4 of the frames. `domain` takes all frames of the unseen runs. Test windows start
    every half roll-out, so that neighbours differ enough to count.
    """
    train_end, validation_end = frames * 3 // 5, frames * 3 // 4
    first, end = {
        "train": (0, train_end),
        "validation": (train_end, validation_end),
        "future": (validation_end, frames),
        "domain": (0, frames),
    }[name]
    stride = 1 if name in ("train", "validation") else max(1, protocol.test_steps // 2)
    starts = tuple(range(first, end - protocol.input_frames - steps + 1, stride))
    if not starts:
        raise UserError(
            f"a {name} window of {protocol.input_frames} input and {steps} target frames does not fit"
            f" into the {end - first} frames of that split; choose fewer input_frames, train_steps or test_steps"
        )
    return starts


def _published_starts(name: SplitName, frames: int, protocol: Protocol, steps: int, starts: range) -> tuple[int, ...]:
    """First frames of the published windows `starts`, as far as the frames hold them.

    As published, training targets run into the validation inputs, and validation targets into the future test.
    """
    fitting = tuple(start for start in starts if start + protocol.input_frames + steps <= frames)
    if not fitting:
        room = frames - starts[0]
        advice = (
            f"input_frames and steps may sum up to {room} at most, not {protocol.input_frames} + {steps}"
            if room >= 2
            else "shorter runs need `protocol: {name: disjoint}`"
        )
        raise UserError(f"{name} windows of icml2022 start at frame {starts[0]}, and a run has {frames}: {advice}")
    return fitting
