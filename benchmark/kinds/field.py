"""Fields: a velocity in the plane on a grid, scalars beside it, or scalars alone, (C, H, W)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.cell import SIZES, main_channels
from benchmark.data.dataset import Dataset
from benchmark.data.layout import StoredField
from benchmark.evaluation.evaluate import Ranks
from benchmark.evaluation.flow import Box, FlowError
from benchmark.evaluation.metrics import ComponentErrors, Measures, Together
from benchmark.evaluation.relaxation import Relaxation, relaxations_of
from benchmark.evaluation.symmetry import symmetry_metrics
from benchmark.groups import mirror, rotate
from benchmark.kinds.kind import Action, Kind, SplitWindows, relative_error
from benchmark.models.baseline import Baseline
from benchmark.models.task import Task

FRAMES = 3
SQUARE, WIDE, ODD, JET = (12, 12), (12, 9), (11, 13), (62, 23)
SQUARES = (SQUARE, (64, 64))
BOXES = ((8, 8), (16, 16), (64, 64))
SHIFTS = 8
"""Shifts along each side of a box: a strided layer may keep no shift by less than an eighth of 64 cells."""


def velocity_task(grid: tuple[int, int], periodic: bool = False) -> Task:
    """Task with one velocity on this grid."""
    return Task("made_up", FRAMES, *grid, periodic=periodic)


MIXED = (
    Task("made_up_convection", FRAMES, 16, 16, periodic=True, components=("scalar", "vector", "scalar")),
    Task("made_up_reaction", FRAMES, 16, 16, periodic=True, components=("scalar", "scalar")),
)
"""Tasks with scalars, beside a velocity and alone, on which every group is exact."""


def rotation_error(model: Baseline, x: Tensor) -> float:
    """Relative error of the three quarter turns."""
    act = partial(rotate, grid="centered", components=model.task.components)
    with torch.no_grad():
        pairs = [(model(act(x, k)), act(model(x), k)) for k in (1, 2, 3)]
    return max(relative_error(actual - expected, expected) for actual, expected in pairs)


def _all_turns(field: Tensor) -> Tensor:
    return torch.cat([rotate(field, turns, "centered") for turns in range(4)])


def reflection_error(model: Baseline, x: Tensor) -> float:
    """Relative error of mirrors along x and along y."""
    with torch.no_grad():
        act = partial(mirror, components=model.task.components)
        pairs = [(model(act(x, axis)), act(model(x), axis)) for axis in (0, 1)]
    return max(relative_error(actual - expected, expected) for actual, expected in pairs)


def _all_mirrors(field: Tensor) -> Tensor:
    both = torch.cat((field, mirror(field, 0)))
    return torch.cat((both, mirror(both, 1)))


def translation_error(model: Baseline, x: Tensor) -> float:
    """Relative error of shifts by an eighth of a periodic box along x and along y."""
    with torch.no_grad():
        shifts = [(x.shape[axis] // SHIFTS, axis) for axis in (-2, -1)]
        pairs = [(model(x.roll(*shift)), model(x).roll(*shift)) for shift in shifts]
    return max(relative_error(actual - expected, expected) for actual, expected in pairs)


def _all_shifts(field: Tensor) -> Tensor:
    steps = [size // SHIFTS for size in field.shape[-2:]]
    places = [(i * steps[0], j * steps[1]) for i in range(SHIFTS) for j in range(SHIFTS)]
    return torch.cat([field.roll(place, (-2, -1)) for place in places])


class Field(Kind):
    """A field (C, H, W): spectrum and divergence of its velocity, turns, mirrors, shifts and zooms of the plane."""

    name = "field"
    space = (-2, -1)
    tasks = (*(velocity_task(grid) for grid in (SQUARE, (64, 64), WIDE, JET)), *MIXED)
    actions: ClassVar[Mapping[Any, Action]] = {
        "rotation": Action([velocity_task(grid) for grid in SQUARES], rotation_error, _all_turns),
        "reflection": Action(tasks, reflection_error, _all_mirrors),
        "translation": Action([velocity_task(grid, periodic=True) for grid in BOXES], translation_error, _all_shifts),
    }

    symmetries = ("translation", "rotation", "reflection", "scale")

    def measures(self, stored: StoredField, dataset: Dataset, device: torch.device) -> Measures:
        """Energy spectrum and divergence of the velocity; of several components, also the RMSE of each."""
        measures: list[Measures] = []
        components = tuple(stored.components.values())
        if "vector" in components:
            box, (height, width) = Box(stored.grid, stored.spacing, dataset.periodic), stored.field.shape[-2:]
            measures.append(FlowError.zero(box, height, width, device, main_channels(components)))
        if len(components) > 1:
            sizes = {name: SIZES[component] for name, component in stored.components.items()}
            measures.append(ComponentErrors.zero(sizes, device))
        return Together(measures)

    def symmetry_metrics(
        self, model: Baseline, dataset: Dataset, windows: SplitWindows, world: Ranks
    ) -> dict[str, float | None]:
        """Errors over the elements of `benchmark.groups`, see `benchmark.evaluation.symmetry`."""
        return symmetry_metrics(model, dataset, windows, world)

    def relaxations(self, model: Baseline, task: Task) -> list[Relaxation]:
        """Layers whose weights differ from place to place."""
        return relaxations_of(model, (task.height, task.width))
