"""Executable contract of a dataset, whose text is `benchmark/data/dataset.py`.

A check is a function of a `DatasetCandidate`, as those of a baseline in `checks` are. Fields are simulated at the
smallest preset, at three levels.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch

from benchmark.cell import GroupName, Level, Protocol, main_channels
from benchmark.contract.candidate import require
from benchmark.contract.checks import Check, Result, examine
from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, PAPER, AnyPreset, Dataset, Simulation
from benchmark.data.imported import ImportedDataset, better_order
from benchmark.groups import divergence, parts

PROTOCOL = Protocol(input_frames=1, train_steps=2, test_steps=2)
DIVERGENCE_LIMIT = 1e-6
MEASURED = "it is imported, not simulated"
UNEQUAL = 10.0
"""Ratio of the sizes of two components beyond which an error says nothing of the smaller one."""


@dataclass(frozen=True)
class DatasetCandidate:
    """Registered dataset, and its simulated levels once they were asked for."""

    name: str
    dataset: Dataset
    simulations: dict[Level, Simulation] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str) -> DatasetCandidate:
        """Candidate of that name. UserError: unknown name, or its file is broken."""
        return cls(name, dataset_registry.dataset(name))

    @property
    def file(self) -> str | None:
        """Path of its source file."""
        return inspect.getsourcefile(type(self.dataset))

    @property
    def presets(self) -> Mapping[str, AnyPreset]:
        """Presets that are simulated."""
        return {name: size for name, size in self.dataset.presets.items() if name != IMPORTED}

    @property
    def preset(self) -> str:
        """Preset with the fewest numbers in a run."""
        sizes = {name: math.prod(size.shape) * size.frames for name, size in self.presets.items()}
        return min(sizes, key=lambda name: sizes[name])

    @property
    def some_levels(self) -> list[Level]:
        """Numbers alone: the most symmetric, one between, the least symmetric."""
        levels = [level for level in self.dataset.levels if level != PAPER]
        return list(dict.fromkeys((levels[0], levels[len(levels) // 2], levels[-1])))

    def simulated(self) -> dict[Level, Simulation]:
        """Simulation of each of `some_levels`, and of the published level."""
        for level in (*self.some_levels, *(level for level in self.dataset.levels if level == PAPER)):
            if level not in self.simulations:
                fields = [part.simulate() for part in self.dataset.parts(level, self.preset)]
                self.simulations[level] = self.dataset.assemble(level, self.preset, fields)
        return self.simulations


def says_what_it_is(candidate: DatasetCandidate) -> str | None:
    """A docstring, the meaning of a level, a source, a group and the kind of its test runs are there."""
    dataset = candidate.dataset
    require(bool((type(dataset).__doc__ or "").strip()), "the class has no docstring")
    require(bool(dataset.level_meaning), "level_meaning is empty")
    require(bool(dataset.source), "source is empty")
    require(
        dataset.test_runs in ("designed", "sampled"), f"test_runs is {dataset.test_runs!r}, not designed or sampled"
    )
    require(dataset.group in get_args(GroupName), f"group {dataset.group!r}, not one of {get_args(GroupName)}")
    return None


def levels_are_in_order(candidate: DatasetCandidate) -> str | None:
    """Levels differ, and their values rise; simulated ones begin with 0, the most symmetric."""
    dataset = candidate.dataset
    require(len(set(dataset.levels)) == len(dataset.levels) > 0, f"levels are {dataset.levels}")
    values = [dataset.level_value(level) for level in dataset.levels if level != PAPER]
    require(values == sorted(set(values)), f"level_value does not rise with the levels: {values}")
    require(not candidate.presets or dataset.levels[0] == 0, f"the first level is {dataset.levels[0]}, not 0")
    return None


def splits_share_no_run(candidate: DatasetCandidate) -> str | None:
    """Unseen runs are no training runs, and windows lie within the frames of every preset."""
    for preset, size in candidate.dataset.presets.items():
        splits = candidate.dataset.splits(PROTOCOL, preset)
        shared = set(splits["train"].runs) & set(splits["domain"].runs)
        require(not shared, f"runs {sorted(shared)} are training runs and unseen ones")
        for name, split in splits.items():
            last = max(split.starts) + PROTOCOL.input_frames + split.steps
            require(last <= size.frames, f"{preset}: a window of {name} ends at frame {last} of {size.frames}")
    return None


def parts_are_plain_data(candidate: DatasetCandidate) -> str | None:
    """Parts are frozen dataclasses with work, equal for equal calls, and different for different levels."""
    if not candidate.presets:
        return MEASURED
    dataset = candidate.dataset
    for preset in candidate.presets:
        keys = {level: tuple(part.key for part in dataset.parts(level, preset)) for level in dataset.levels}
        again = {level: tuple(part.key for part in dataset.parts(level, preset)) for level in dataset.levels}
        require(keys == again, "two calls of parts() give other parts")
        require(len(set(keys.values())) == len(keys), "two levels have the same parts")
        for part in dataset.parts(dataset.levels[-1], preset):
            require(dataclasses.is_dataclass(part), f"{type(part).__name__} is no dataclass")
            require(part.work > 0, f"{type(part).__name__}.work is {part.work}")
    return None


def simulates_states(candidate: DatasetCandidate) -> str | None:
    """States have the declared shape and type, all runs of the splits, finite values, and no run of zeros."""
    if not candidate.presets:
        return MEASURED
    dataset, size = candidate.dataset, candidate.presets[candidate.preset]
    runs = {run for split in dataset.splits(PROTOCOL, candidate.preset).values() for run in split.runs}
    for level, simulation in candidate.simulated().items():
        values = simulation.field
        expected = (size.frames, *size.shape)
        require(values.dtype == np.float32, f"level {level}: values are {values.dtype}, not float32")
        require(values.shape[1:] == expected, f"level {level}: a run has the shape {values.shape[1:]}, not {expected}")
        require(len(values) > max(runs), f"level {level}: {len(values)} runs, and the splits name run {max(runs)}")
        described = len(simulation.run_parameters)
        require(described == len(values), f"level {level}: run_parameters describes {described} of {len(values)} runs")
        require(bool(np.isfinite(values).all()), f"level {level}: values that are not finite")
        require(bool(np.abs(values).reshape(len(values), -1).max(1).min() > 0), f"level {level}: a run of zeros")
        require(simulation.spacing > 0 and simulation.time_step > 0, "spacing and time_step must be positive")
    return None


def components_are_about_equally_large(candidate: DatasetCandidate) -> str | None:
    """Deviations from the mean of each component differ by less than UNEQUAL, since errors are over all of them."""
    if not candidate.presets:
        return MEASURED
    size = candidate.presets[candidate.preset]
    components = size.components
    if len(components) < 2:
        return "it has one component" if size.on_grid else "its states lie on no grid"
    for level, simulation in candidate.simulated().items():
        field = torch.from_numpy(simulation.field).double()
        by_name = zip(components, parts(field, tuple(components.values())), strict=True)
        sizes = {name: float(part.std()) for name, part in by_name}
        shown = ", ".join(f"{name} {size:.2g}" for name, size in sizes.items())
        limit = f"choose units in which they differ by less than {UNEQUAL:g}"
        require(max(sizes.values()) < UNEQUAL * min(sizes.values()), f"level {level}: deviations are {shown}; {limit}")
    return None


def simulates_the_same_again(candidate: DatasetCandidate) -> str | None:
    """A part simulated twice gives the same bytes."""
    if not candidate.presets:
        return MEASURED
    for part in candidate.dataset.parts(candidate.some_levels[-1], candidate.preset)[:2]:
        require(part.simulate().tobytes() == part.simulate().tobytes(), f"{type(part).__name__} gives other bytes")
    return None


def keeps_its_promise_of_no_divergence(candidate: DatasetCandidate) -> str | None:
    """A field that is declared `divergence_free` is staggered, and its divergence is round-off."""
    if not candidate.presets:
        return MEASURED
    promised = [simulation for simulation in candidate.simulated().values() if simulation.divergence_free]
    for simulation in promised:
        require(simulation.grid == "staggered", "divergence_free holds for a staggered grid alone")
        components = tuple(candidate.presets[candidate.preset].components.values())
        values = torch.from_numpy(simulation.field[:, :, main_channels(components)]).double()
        share = float(divergence(values, simulation.spacing).abs().max() * simulation.spacing / values.abs().max())
        require(share < DIVERGENCE_LIMIT, f"divergence times spacing is {share:.1e} of the velocity")
    return None if promised else "no level is declared free of divergence"


def breaks_more_with_the_level(candidate: DatasetCandidate) -> str | None:
    """The measured error rises with the level, over the same group elements."""
    if not candidate.presets:
        return MEASURED
    simulations = candidate.simulated()
    names = [tuple(error.element for error in one.equivariance_errors) for one in simulations.values()]
    require(len(set(names[0])) == len(names[0]) > 0, f"equivariance_errors name the elements {names[0]}")
    require(len(set(names)) == 1, f"levels have errors of other elements: {sorted(set(names))}")
    numbered = [simulations[level].equivariance_errors for level in candidate.some_levels]
    for kind in ("absolute", "relative"):
        means = [float(np.mean([getattr(error, kind) for error in errors])) for errors in numbered]
        rises = bool((np.diff(means) > 0).all())
        require(rises, f"the {kind} error does not rise with the levels {candidate.some_levels}: {means}")
    return None


def components_follow_their_axes(candidate: DatasetCandidate) -> str | None:
    """No other order of axes and components of an import has less than half the divergence."""
    dataset = candidate.dataset
    if not isinstance(dataset, ImportedDataset) or dataset.compressible or not dataset.divergence:
        return "it is compressible, or not imported by `symbench data import`"
    shares = ", ".join(f"{share:.3g} {order}" for order, share in dataset.divergence.items())
    require(
        not better_order(dataset.divergence),
        f"mean |divergence| over the mean gradient is {shares}: import it again in the right order"
        " (docs/importing-data.md), or write `compressible = True` into the file if the flow is so",
    )
    return None


def has_a_strict_floor_or_a_reason(candidate: DatasetCandidate) -> str | None:
    """`floor_parts` gives simulations, or `no_floor` says why there are none."""
    dataset = candidate.dataset
    has_parts = bool(candidate.presets) and bool(dataset.floor_parts(dataset.levels[-1], candidate.preset))
    require(has_parts != bool(dataset.no_floor), "either floor_parts gives simulations, or no_floor says why it cannot")
    return None


CHECKS: tuple[Check, ...] = tuple(
    Check(check.__name__, check)
    for check in (
        *(says_what_it_is, levels_are_in_order, splits_share_no_run, parts_are_plain_data, simulates_states),
        components_are_about_equally_large,
        *(simulates_the_same_again, keeps_its_promise_of_no_divergence, breaks_more_with_the_level),
        *(components_follow_their_axes, has_a_strict_floor_or_a_reason),
    )
)


def examine_all(candidate: DatasetCandidate) -> Iterator[Result]:
    """Results of all checks in turn."""
    yield from (examine(check, candidate) for check in CHECKS)
