"""Measured jets, whose symmetry breaking is unknown (Wang, Walters, Yu 2022)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import IMPORTED, PAPER, Dataset, Preset, PublishedFiles
from benchmark.errors import UserError

SERIES = tuple(itertools.product(range(1, 4), range(1, 9)))
UNSEEN = ((2, 3), (3, 7), (2, 7), (2, 5), (3, 2), (1, 5))


class JetFlow(Dataset):
    """24 series of turbulent velocities at 62 x 23 points, measured in a jet; run 8 (i - 1) + j - 1 is series (i, j).

    Units are not published: lengths are distances between points, times between frames. The set-up cannot be
    transformed, so the data equivariance error cannot be measured. The paper trains networks of all three symmetries
    on this set; the group here is C4, for which the model equivariance error is measured.

    The published windows need 281 frames: the last one, t = 249, reads 10 frames from t + 2 on and 20 more.
    Runs: 18 series for training and 6 unseen ones, as published. They count as designed: the series are fixed places in
    one measured flow, whose neighbours depend on each other, and the six were chosen; they are no sample of other jets.
    """

    group = "C4"
    levels = (PAPER,)
    level_meaning = "nothing: the flow is as it was measured"
    presets: ClassVar[Mapping[str, Preset]] = {IMPORTED: Preset(62, 23, 281)}
    published_files: ClassVar[PublishedFiles] = PublishedFiles(
        tuple(f"raw_data_{i}_{j}.pt" for i, j in SERIES),
        PAPER,
        "the authors of arXiv 2201.11969 share the 24 files publicly",
        measured=True,
    )
    unseen_runs = tuple(SERIES.index(series) for series in UNSEEN)
    training_runs = tuple(run for run, series in enumerate(SERIES) if series not in UNSEEN)
    no_floor = "the flow is measured, not simulated"
    test_runs = "designed"
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def level_value(self, level: Level) -> float:
        """0: the only level has no knob."""
        return 0.0

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> NoReturn:
        """UserError: measured data are not simulated."""
        self.parts(level, preset)

    def parts(self, level: Level, preset: str) -> NoReturn:
        """UserError: measured data are not simulated."""
        raise UserError(
            f"jetflow is measured, not simulated: {self.published_files.where};"
            " then `symbench data import jetflow DIR` takes the files from the folder DIR"
        )
