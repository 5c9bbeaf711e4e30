"""Smoke plumes that a quarter turn carries into each other, up to their strength (Wang, Walters, Yu 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import TINY, Dataset, Preset, PublishedWindows, Simulation
from benchmark.data.equivariance import measure
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume
from benchmark.data.physics.smoke_floor import SmokeFloor, floor_parts
from benchmark.data.physics.smoke_part import SmokePart, by_plume, turned

SIZE = 64.0
TRAINING_INFLOW, UNSEEN_INFLOW = (32.0, 5.0), (24.0, 5.0)
BUOYANCY, FIRST_STRENGTH = 0.005, 2
FIRST_FRAME = 10
ERROR_FRAMES = slice(10, 49)
"""Kept frames that the published data equivariance error is averaged over."""


class SmokeRotationLevels(Dataset):
    """Runs 0 to 3 of level l are plumes of strength 2, 2 + l, 2 + 2l, 2 + 3l, turned by 0, 90, 180, 270 degrees.

    A plume of strength k rises from (32, 5) with the buoyancy (0, 0.005 k). At level 0 the four runs are one trajectory
    seen from four sides. Two things differ from the published set: the turn is exact on the staggered grid, where the
    published turn is half a cell off, and runs 4 to 7 are new. These are the unseen domain, which the published
    experiment lacks: the same strengths and turns, with the inflow at (24, 5) before the turn.

    The preset `paper` keeps the published frames 10..59; `small` has half the resolution and 64 frames. Windows of
    `icml2022`: training t = 0..29 and validation t = 30..39 are published, with 1 input frame and 6 steps. `future`,
    from t = 40 on as far as the frames go, and `domain`, t = 0..39 of the unseen runs, are new.
    """

    group = "C4"
    levels = tuple(range(10))
    level_meaning = "the buoyancy of the plume grows by 0.005 times this with each quarter turn, from 0.01"
    presets: ClassVar[Mapping[str, Preset]] = {"small": Preset(32, 32, 64), "tiny": TINY, "paper": Preset(64, 64, 50)}
    training_runs, unseen_runs = (0, 1, 2, 3), (4, 5, 6, 7)
    windows = PublishedWindows(range(2, 32), range(32, 42), range(42, 66), range(2, 42))
    test_runs = "designed"
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def parts(self, level: Level, preset: str) -> list[SmokePart]:
        """One part for each of the four strengths, with both inflows; levels share most of the parts."""
        size = self.presets[preset]
        box = Box(SIZE, size.height, inflow_radius=5.0, velocity_time_step=0.5)
        return [
            SmokePart(box, _plumes(strength), FIRST_FRAME + size.frames, FIRST_FRAME) for strength in _strengths(level)
        ]

    def floor_parts(self, level: Level, preset: str) -> list[SmokeFloor]:
        """The four training runs at two times each; a turned state has the strength of its new side."""
        box, strengths = self.parts(level, preset)[0].box, _strengths(level)
        plumes = [tuple(_plumes(strengths[(side + turns) % 4])[0] for turns in range(4)) for side in range(4)]
        return floor_parts(box, [(one, one) for one in plumes], self.presets[preset].frames, dropped=FIRST_FRAME)

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """Turn the plumes. The error compares runs 1 to 3, turned back, with run 0 (as published)."""
        parts = self.parts(level, preset)
        trajectories = by_plume(parts, fields)
        plumes = [_plumes(strength) for strength in _strengths(level)]
        runs = [(plumes[turns][inflow], turns) for inflow in range(2) for turns in range(4)]
        first, *others = (trajectories[plume][ERROR_FRAMES] for plume, _ in runs[:4])
        return Simulation(
            field=np.stack([turned(trajectories[plume], turns) for plume, turns in runs]),
            grid="staggered",
            divergence_free=True,
            spacing=parts[0].box.spacing,
            time_step=SMOKE_TIME_STEP,
            parameters=parts[0].parameters,
            run_parameters=[asdict(plume) | {"quarter_turns": turns} for plume, turns in runs],
            equivariance_errors=[measure(f"rot{90 * i}", [(first, other)]) for i, other in enumerate(others, start=1)],
        )


def _strengths(level: Level) -> list[int]:
    return [FIRST_STRENGTH + int(level) * turns for turns in range(4)]


def _plumes(strength: int) -> tuple[Plume, Plume]:
    """Plume of the training run and of the unseen run, before the turn."""
    buoyancy = (0.0, BUOYANCY * strength)
    return Plume(TRAINING_INFLOW, buoyancy), Plume(UNSEEN_INFLOW, buoyancy)
