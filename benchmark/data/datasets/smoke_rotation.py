"""36 smoke plumes from the four sides of a box, one of which lifts more strongly (Wang, Walters, Yu 2022)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import PAPER, Dataset, Preset, PublishedFiles, Simulation
from benchmark.data.equivariance import Pair, measure
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume
from benchmark.data.physics.smoke_floor import SmokeFloor, floor_parts
from benchmark.data.physics.smoke_part import PUBLISHED_SMOKE, SmokePart, by_plume, smoke_presets, turned

SIZE = 64.0
INFLOW, BUOYANCY, PAPER_EXCESS = (32.0, 5.0), 0.01, 0.1
STRENGTHS = tuple(range(1, 37))
STRONG_SIDE = 2
RUNS_IN_PART = 9
UNSEEN = (6, 14, 15, 10, 18, 20, 24, 13, 21, 5)
"""Strengths of the unseen runs, as published; the strength 32 is in no split."""
ERROR_FRAMES = slice(0, 50)


class SmokeRotation(Dataset):
    """Run k - 1, k = 1..36, has strength k and rises from side (k - 1) mod 4: lower y, upper x, upper y, lower x.

    The buoyancy of unit smoke points away from its side and is 0.01 k, on the upper y side 0.01 k (1 + e) with the
    level e. Level `paper` has the published 0.011 k there. Each plume is simulated on the lower y side and turned
    exactly on the staggered grid. The simulation commutes with quarter turns, so level 0 is exactly symmetric.

    The data equivariance error compares, for the nine strengths of the upper y side, the plumes of all four sides,
    turned to one side, over the first 50 frames. Later the strong plumes are chaotic, and any difference grows to the
    size of the flow. Runs: 25 for training and 10 unseen ones, as published; k = 32 is in neither.
    """

    group = "C4"
    levels = (0, 0.05, PAPER, 0.2, 0.4)
    level_meaning = "by which fraction the upper y side lifts smoke more than the other three"
    presets: ClassVar[Mapping[str, Preset]] = smoke_presets(309)
    published_files = PublishedFiles(tuple(f"raw_data_{k}_{(k - 1) % 4}.pt" for k in STRENGTHS), PAPER, PUBLISHED_SMOKE)
    unseen_runs = tuple(k - 1 for k in UNSEEN)
    training_runs = tuple(k - 1 for k in STRENGTHS if k not in (*UNSEEN, 32))
    test_runs = "designed"
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def level_value(self, level: Level) -> float:
        """Excess e of the strong side."""
        return PAPER_EXCESS if level == PAPER else float(level)

    def parts(self, level: Level, preset: str) -> list[SmokePart]:
        """The 27 plumes of three sides, the 9 of the strong side, and these 9 with the buoyancy of the other sides."""
        size = self.presets[preset]
        box = Box(SIZE, size.height, inflow_radius=5.0, velocity_time_step=1.0)
        plumes = [_plume(k, 0.0) for k in STRENGTHS if k not in STRONG]
        plumes += [_plume(k, excess) for excess in (self.level_value(level), 0.0) for k in STRONG]
        batches = [tuple(plumes[i : i + RUNS_IN_PART]) for i in range(0, len(plumes), RUNS_IN_PART)]
        return [SmokePart(box, batch, size.frames + 1, dropped=1) for batch in batches]

    def floor_parts(self, level: Level, preset: str) -> list[SmokeFloor]:
        """Two training runs of each side, a weak and a strong one; a turned state has the strength of its new side."""
        box, excess = self.parts(level, preset)[0].box, self.level_value(level)
        sides = []
        for side in range(4):
            strengths = [run + 1 for run in self.training_runs if _side(run + 1) == side]
            pair = (strengths[len(strengths) // 4], strengths[3 * len(strengths) // 4])
            turned_to = [(side + turns) % 4 for turns in range(4)]
            sides.append([tuple(_plume(k, excess if to == STRONG_SIDE else 0.0) for to in turned_to) for k in pair])
        return floor_parts(box, sides, self.presets[preset].frames, dropped=1)

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """Turn each plume to its side."""
        parts = self.parts(level, preset)
        trajectories = by_plume(parts, fields)

        def plume(k: int, side: int) -> Plume:
            return _plume(k, self.level_value(level) if side == STRONG_SIDE else 0.0)

        def pairs(turns: int) -> Iterator[Pair]:
            for k, side in itertools.product(STRONG, range(4)):
                first, other = (trajectories[plume(k, s)] for s in (side, (side + turns) % 4))
                yield first[ERROR_FRAMES], other[ERROR_FRAMES]

        runs = [(plume(k, _side(k)), _side(k)) for k in STRENGTHS]
        return Simulation(
            field=np.stack([turned(trajectories[one], side) for one, side in runs]),
            grid="staggered",
            divergence_free=True,
            spacing=parts[0].box.spacing,
            time_step=SMOKE_TIME_STEP,
            parameters=parts[0].parameters,
            run_parameters=[asdict(one) | {"quarter_turns": side} for one, side in runs],
            equivariance_errors=[measure(f"rot{90 * turns}", pairs(turns)) for turns in (1, 2, 3)],
        )


def _side(k: int) -> int:
    """Side of strength k, and the number of quarter turns that carry the lower y side there."""
    return (k - 1) % 4


STRONG = tuple(k for k in STRENGTHS if _side(k) == STRONG_SIDE)


def _plume(k: int, excess: float) -> Plume:
    """Plume of strength k on the lower y side; rounded, so that 0.01 (1 + 0.1) is the published 0.011."""
    return Plume(INFLOW, (0.0, round(BUOYANCY * k * (1 + excess), 12)))
