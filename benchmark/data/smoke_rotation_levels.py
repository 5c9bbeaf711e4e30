"""Smoke plumes that a quarter turn carries into each other, up to their strength (Wang, Walters, Yu 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..cell import Level, Protocol
from ..errors import UserError
from ..groups import rotate
from .dataset import Dataset, EquivarianceError, Preset, Progress, Simulation, Split, SplitName, disjoint_splits
from .smoke import BOX, INFLOW_RADIUS, SMOKE_TIME_STEP, Plume, simulate

TRAINING_INFLOW = (32.0, 5.0)
UNSEEN_INFLOW = (24.0, 5.0)
BUOYANCY = 0.005
VELOCITY_TIME_STEP = 0.5
FIRST_FRAME = 10
ERROR_FRAMES = slice(10, 49)
"""The kept frames over which the data equivariance error is the published mean."""

TRAINING_RUNS, UNSEEN_RUNS = (0, 1, 2, 3), (4, 5, 6, 7)

WINDOW_OFFSET = 2
TRAIN_WINDOWS, VALIDATION_WINDOWS = range(30), range(30, 40)


class SmokeRotationLevels(Dataset):
    """Runs 0 to 3 of level l are plumes of strength 1, 1 + l, 1 + 2l, 1 + 3l, turned by 0, 90, 180, 270 degrees.

    A plume of strength k rises from (32, 5) under the buoyancy (0, 0.005 k). With level 0 the four runs are one
    trajectory seen from four sides. As published, but for two things: the turn is the exact one of the staggered
    grid, where the published one is half a cell off; and runs 4 to 7 are ours. They are the unseen domain, which the
    published experiment lacks: the same strengths and turns, with the inflow at (24, 5) before the turn.

    The preset `paper` keeps the published frames 10..59; `small` has half the resolution and 64 frames, by the end of
    which the weaker plumes are about to reach the opposite wall.
    """

    group = "C4"
    levels = tuple(range(10))
    level_meaning = "the buoyancy of the plume grows by this many times its first strength with each quarter turn"
    presets: ClassVar[Mapping[str, Preset]] = {"small": Preset(32, 64), "paper": Preset(64, 50)}
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def simulate(self, levels: Sequence[Level], preset: str, progress: Progress) -> Iterator[tuple[Level, Simulation]]:
        """Yield each of `levels`; every distinct plume is simulated once, all in one batch."""
        cells, frames = self.presets[preset].cells, self.presets[preset].frames
        plumes = list(dict.fromkeys(plume for level in levels for plume in _plumes(level)))
        steps = FIRST_FRAME + frames
        trajectories = simulate(plumes, cells, steps, VELOCITY_TIME_STEP, progress)[:, FIRST_FRAME:]
        parameters = {
            "box": BOX,
            "cells": cells,
            "inflow_radius": INFLOW_RADIUS,
            "smoke_time_step": SMOKE_TIME_STEP,
            "velocity_time_step": VELOCITY_TIME_STEP,
            "steps": steps,
            "first_frame": FIRST_FRAME,
        }
        for level in levels:
            runs = [trajectories[plumes.index(plume)] for plume in _plumes(level)]
            turned = [rotate(torch.from_numpy(run), i % 4, "staggered").numpy() for i, run in enumerate(runs)]
            run_parameters = [
                {"inflow": list(plume.inflow), "buoyancy": list(plume.buoyancy), "quarter_turns": i % 4}
                for i, plume in enumerate(_plumes(level))
            ]
            yield (
                level,
                Simulation(
                    field=np.stack(turned),
                    grid="staggered",
                    spacing=BOX / cells,
                    time_step=SMOKE_TIME_STEP,
                    parameters=parameters,
                    run_parameters=run_parameters,
                    equivariance_errors=_equivariance_errors(runs[: len(TRAINING_RUNS)]),
                ),
            )

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """`disjoint` blocks of frames, or the windows of the published level experiment (`icml2022`).

        Window t of `icml2022` starts at frame t + 2. Published: training t = 0..29 and validation t = 30..39, with 1
        input frame and 6 steps. Ours: `future` from t = 40 on, as many as the frames hold, and `domain` t = 0..39 on
        the unseen runs. Windows that would run beyond the last frame are left out; UserError if none is left.
        """
        frames = self.presets[preset].frames
        if protocol.name == "disjoint":
            return disjoint_splits(frames, TRAINING_RUNS, UNSEEN_RUNS, protocol)

        def split(name: SplitName, runs: tuple[int, ...], numbers: range, steps: int) -> Split:
            last_start = frames - protocol.input_frames - steps
            starts = tuple(t + WINDOW_OFFSET for t in numbers if t + WINDOW_OFFSET <= last_start)
            if not starts:
                first = numbers[0] + WINDOW_OFFSET
                raise UserError(
                    f"{name} windows start at frame {first} of {frames} ({preset}); input_frames and"
                    f" steps may sum up to {frames - first} at most, not {protocol.input_frames} + {steps}"
                )
            return Split(runs, starts, steps)

        future = range(VALIDATION_WINDOWS.stop, frames)
        return {
            "train": split("train", TRAINING_RUNS, TRAIN_WINDOWS, protocol.train_steps),
            "validation": split("validation", TRAINING_RUNS, VALIDATION_WINDOWS, protocol.train_steps),
            "future": split("future", TRAINING_RUNS, future, protocol.test_steps),
            "domain": split("domain", UNSEEN_RUNS, range(VALIDATION_WINDOWS.stop), protocol.test_steps),
        }


def _plumes(level: Level) -> list[Plume]:
    """The eight plumes of a level before they are turned: four to train on, four unseen."""
    strengths = [1 + int(level) * turn for turn in range(4)]
    return [Plume(inflow, (0.0, BUOYANCY * k)) for inflow in (TRAINING_INFLOW, UNSEEN_INFLOW) for k in strengths]


def _equivariance_errors(runs: Sequence[NDArray[np.float32]]) -> list[EquivarianceError]:
    """How far each of runs 1, 2, 3 is from run 0 before turning: the turned run, turned back."""
    first, *others = (run[ERROR_FRAMES].astype(np.float64) for run in runs)
    scale = float(np.abs(first).mean())
    absolutes = [float(np.abs(first - other).mean()) for other in others]
    return [
        EquivarianceError(f"rot{90 * turn}", absolute, absolute / scale)
        for turn, absolute in enumerate(absolutes, start=1)
    ]
