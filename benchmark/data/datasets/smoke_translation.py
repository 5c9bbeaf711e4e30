"""Smoke that rises from 35 places in a box whose halves lift it differently (Wang, Walters, Yu 2022)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import PAPER, Dataset, EquivarianceError, Preset, PublishedFiles, Simulation
from benchmark.data.equivariance import Pair, measure
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume
from benchmark.data.physics.smoke_part import PUBLISHED_SMOKE, SmokePart, smoke_presets

SIZE = 64.0
COLUMNS, ROWS = range(8, 64, 8), range(5, 30, 5)
INFLOWS = tuple((float(x), float(y)) for x, y in itertools.product(COLUMNS, ROWS))
MEAN_BUOYANCY, PAPER_DIFFERENCE = 0.15, 0.1
UNSEEN = ((32, 20), (32, 5), (24, 20), (16, 25), (24, 5), (16, 10), (40, 20), (8, 25), (24, 25), (40, 10))
ERROR_FRAMES = slice(0, 30)


class SmokeTranslation(Dataset):
    """Run (x, y) has its inflow there, x in 8..56 by 8 and y in 5..25 by 5; the right half of the box lifts smoke more.

    The buoyancy of unit smoke is 0.15 - d/2 in the left half and 0.15 + d/2 in the right one, with the level d. Level
    `paper` is the published setting, 0.1 and 0.2. At level 0 only the walls break the symmetry: they do not move with a
    shifted plume, and the error of level 0 is theirs.

    The data equivariance error compares all pairs of runs whose inflows differ by a whole number of cells along one
    axis, where both see the box, over the first 30 frames. Later every plume has met the opposite wall. Runs: 25 for
    training and 10 unseen ones, as published.
    """

    group = "translation"
    levels = (0, 0.05, PAPER, 0.15, 0.2)
    level_meaning = "by how much the right half of the box lifts unit smoke more than the left one (lengths / time^2)"
    presets: ClassVar[Mapping[str, Preset]] = smoke_presets(310)
    published_files = PublishedFiles(tuple(f"raw_data_{x:.0f}_{y:.0f}.pt" for x, y in INFLOWS), PAPER, PUBLISHED_SMOKE)
    unseen_runs = tuple(INFLOWS.index(inflow) for inflow in UNSEEN)
    training_runs = tuple(run for run, inflow in enumerate(INFLOWS) if inflow not in UNSEEN)
    no_floor = "a shifted state does not fit between the walls, so that its future cannot be simulated"
    test_runs = "designed"
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def level_value(self, level: Level) -> float:
        """Difference d of the two accelerations."""
        return PAPER_DIFFERENCE if level == PAPER else float(level)

    def parts(self, level: Level, preset: str) -> list[SmokePart]:
        """One part for each x of the inflow."""
        size = self.presets[preset]
        box = Box(SIZE, size.height, inflow_radius=5.0, velocity_time_step=0.5)
        plumes = self._plumes(level)
        return [SmokePart(box, plumes[i : i + len(ROWS)], size.frames) for i in range(0, len(plumes), len(ROWS))]

    def breaking_map(self, level: Level, preset: str) -> NDArray[np.float64] | None:
        """Buoyancy of unit smoke."""
        size, plume = self.presets[preset], self._plumes(level)[0]
        if plume.right_buoyancy in (None, plume.buoyancy):
            return None
        x = np.arange(size.height) + 0.5
        lift = np.where(x > size.height / 2, plume.right_buoyancy[1], plume.buoyancy[1])
        return np.repeat(lift[:, None], size.width, axis=1)

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """All runs, ordered by x, then y."""
        field = np.concatenate(fields)
        spacing = SIZE / self.presets[preset].height
        return Simulation(
            field=field,
            grid="staggered",
            divergence_free=True,
            spacing=spacing,
            time_step=SMOKE_TIME_STEP,
            parameters=self.parts(level, preset)[0].parameters,
            run_parameters=[asdict(plume) for plume in self._plumes(level)],
            equivariance_errors=list(_errors(field[:, ERROR_FRAMES], spacing)),
        )

    def _plumes(self, level: Level) -> tuple[Plume, ...]:
        half = self.level_value(level) / 2
        left_half, right_half = ((0.0, round(MEAN_BUOYANCY + sign * half, 12)) for sign in (-1, 1))
        return tuple(Plume(inflow, left_half, right_half) for inflow in INFLOWS)


def _errors(field: NDArray[np.float32], spacing: float) -> Iterator[EquivarianceError]:
    """Errors of the shifts by whole cells along one axis that carry an inflow to another one."""
    shifts = [(x - COLUMNS[0], 0) for x in COLUMNS[1:]] + [(0, y - ROWS[0]) for y in ROWS[1:]]
    for shift in shifts:
        x, y = (length / spacing for length in shift)
        if x.is_integer() and y.is_integer():
            yield measure(f"shift{x:+.0f}{y:+.0f}", _pairs(field, shift, int(x), int(y)))


def _pairs(field: NDArray[np.float32], shift: tuple[int, int], x: int, y: int) -> Iterator[Pair]:
    """Pairs of a run, cut to the overlap with the shifted box, and the run of the shifted inflow, shifted back."""
    height, width = field.shape[-2:]
    for run, inflow in enumerate(INFLOWS):
        shifted = (inflow[0] + shift[0], inflow[1] + shift[1])
        if shifted in INFLOWS:
            yield field[run, ..., : height - x, : width - y], field[INFLOWS.index(shifted), ..., x:, y:]
