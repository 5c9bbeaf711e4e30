"""Measured jets, whose symmetry nobody has set (Wang, Walters, Yu 2022)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level, Protocol
from benchmark.data.dataset import (
    IMPORTED,
    PAPER,
    Dataset,
    Part,
    Preset,
    PublishedFiles,
    PublishedWindows,
    Simulation,
    Split,
    SplitName,
    divide,
)
from benchmark.errors import UserError

SERIES = tuple(itertools.product(range(1, 4), range(1, 9)))
UNSEEN = ((2, 3), (3, 7), (2, 7), (2, 5), (3, 2), (1, 5))
UNSEEN_RUNS = tuple(SERIES.index(series) for series in UNSEEN)
TRAINING_RUNS = tuple(run for run in range(len(SERIES)) if run not in UNSEEN_RUNS)


class JetFlow(Dataset):
    """24 series of turbulent velocities at 62 x 23 points, measured in a jet; run 8 (i - 1) + j - 1 is series (i, j).

    Units are not published: lengths are distances between points, times between frames. There is no set-up to
    transform, so how far the data break a symmetry cannot be measured. The paper trains networks of all three
    symmetries on it; the group is C4, since that is the one whose model error it measures here.

    281 frames are what the published windows touch: the last one, t = 249, reads 10 frames from t + 2 and 20 more.
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
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def level_value(self, level: Level) -> float:
        """0, which orders nothing: there is one level, and no knob."""
        return 0.0

    def parts(self, level: Level, preset: str) -> Sequence[Part]:
        """UserError: there is nothing to simulate."""
        self._refuse()

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """UserError: there is nothing to simulate."""
        self._refuse()

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """18 series to train on and 6 unseen ones, as published."""
        return divide(self.presets[preset], TRAINING_RUNS, UNSEEN_RUNS, protocol, PublishedWindows())

    def _refuse(self) -> NoReturn:
        raise UserError(
            f"jetflow is measured, not simulated: {self.published_files.where};"
            " then `symbench data import jetflow DIR` takes the files from the folder DIR"
        )
