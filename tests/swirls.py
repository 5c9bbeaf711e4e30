"""A dataset of a few vortices, and small stored files of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data import layout
from benchmark.data.dataset import (
    IMPORTED,
    Dataset,
    EquivarianceError,
    Part,
    Preset,
    PublishedFiles,
    PublishedWindows,
    Simulation,
)
from benchmark.data.paths import data_path

RUNS, FRAMES, HEIGHT, WIDTH = 6, 64, 20, 12


class Swirls(Dataset):
    """Vortices that a wall `moves`."""

    group = "C4"
    levels = (0, 0.5, "paper")
    level_meaning = "how much the wall moves"
    presets = {"tiny": Preset(HEIGHT, WIDTH, FRAMES), IMPORTED: Preset(HEIGHT, WIDTH, 40)}  # noqa: RUF012 - a constant
    published_files = PublishedFiles(("raw_data_1.pt",), "paper", "ask the authors")
    training_runs, unseen_runs = (0, 1, 2, 3), (4, 5)
    windows = PublishedWindows(range(2, 22), range(22, 27), range(27, 32), range(2, 22))
    test_runs = "designed"
    source = "this test"

    def level_value(self, level: Level) -> float:
        return 0.25 if level == "paper" else float(level)

    def parts(self, level: Level, preset: str) -> Sequence[Part]:
        return []

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        return simulation()


def swirls(runs: int = RUNS, frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.float32]:
    """A vortex in the lower left half that wanders to the right: the curl of a stream function at the corners.

    Staggered, free of divergence, nothing through the walls; run r turns r + 1 times as fast.
    """
    x, y = np.meshgrid(np.arange(height + 1), np.arange(width + 1), indexing="ij")
    walls = np.sin(np.pi * x / height) * np.sin(np.pi * y / width)
    centers = height * (0.25 + 0.5 * np.arange(frames) / max(frames - 1, 1))[:, None, None]
    stream = walls * np.exp(-((x - centers) ** 2 + (y - width / 4) ** 2) / 8)
    u, v = np.diff(stream, axis=2)[:, :-1], -np.diff(stream, axis=1)[:, :, :-1]
    speeds = np.arange(1, runs + 1)[:, None, None, None, None]
    return (speeds * np.stack((u, v), axis=1)).astype(np.float32)


def simulation(field: NDArray[np.float32] | None = None, **changes: Any) -> Simulation:
    field = swirls() if field is None else field
    complete = Simulation(
        field=field,
        grid="staggered",
        divergence_free=True,
        spacing=2.0,
        time_step=0.5,
        parameters={"box": {"size": 40.0}, "steps": FRAMES},
        run_parameters=[{"strength": float(run), "inflow": [8.0, 5.0], "side": "left"} for run in range(len(field))],
        equivariance_errors=[EquivarianceError("rot90", 0.25, 0.5), EquivarianceError("rot45", 0.75, 1.5, False)],
    )
    return replace(complete, **changes)


def write_swirls(
    folder: Path, field: NDArray[np.float32] | None = None, preset: str = "tiny", level: Level = 0, **changes: Any
) -> Path:
    """A stored file of `simulation(field, **changes)`; returns its path."""
    path = data_path(folder, "swirls", preset, level)
    layout.write(path, "swirls", preset, level, simulation(field, **changes))
    return path
