"""The picture of a roll-out: truth and predictions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import h5py
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.data.show.pictures import show_plane

from .figures import SETTINGS, to_svg
from .leaderboard import Row
from .store import Record

MOST_MODELS = 6
STEPS_SHOWN = 4
COLOR_LEVELS = 48
"""Few enough for the embedded pictures to stay small."""


@dataclass(frozen=True)
class Window:
    """One rolled-out test window, speed |u| of each step: (S, H, W)."""

    run: int
    first_frame: int
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]


def first_window(record: Record, split: str = "future") -> Window | None:
    """The first window that the record keeps of `split`; None where there is none that can be read."""
    try:
        with h5py.File(record.predictions_path) as file:
            group = file[split]
            run, first_frame = (int(value) for value in group.attrs["windows"][0])
            return Window(run, first_frame, *(_speed(group[name][0]) for name in ("truth", "prediction")))
    except (OSError, KeyError, IndexError, ValueError):
        return None


def picture(rows: Sequence[Row], records: Mapping[str, Record]) -> str | None:
    """SVG with a line of frames for the truth and for each of `rows` (the first few with a roll-out); else None.

    All frames share one colour scale, that of the truth; models whose first window is another one are left out.
    """
    shown: list[tuple[str, Window]] = []
    for row in rows:
        done = [records[seed.cell_id] for seed in row.seeds if seed.state == "done"]
        window = first_window(done[0]) if done else None
        if window is not None and (not shown or _same(window, shown[0][1])) and len(shown) < MOST_MODELS:
            shown.append((row.label, window))
    if not shown:
        return None
    truth = shown[0][1].truth
    steps = sorted({round(step) for step in np.linspace(0, len(truth) - 1, STEPS_SHOWN)})
    lines = [("truth", truth), *((label, window.prediction) for label, window in shown)]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(1.45 * len(steps) + 0.3, 1.65 * len(lines) + 0.25))
        grid = figure.subplots(len(lines), len(steps), squeeze=False)
        figure.subplots_adjust(
            left=0.02, right=0.9, bottom=0.02, top=1 - 0.4 / figure.get_figheight(), hspace=0.16, wspace=0.04
        )
        colors = matplotlib.colormaps["viridis"].resampled(COLOR_LEVELS)
        image = None
        for axes_line, (label, speed) in zip(grid, lines, strict=True):
            for axes, step in zip(axes_line, steps, strict=True):
                image = show_plane(axes, speed[step], colors, 0.0, float(truth.max()) or 1.0)
            axes_line[0].set_title(label, loc="left", fontsize=9, pad=3)
        for axes, step in zip(grid[0], steps, strict=True):
            axes.text(0.5, 1.2, f"step {step + 1}", transform=axes.transAxes, ha="center", fontsize=9)
        assert image is not None
        bar = figure.add_axes((0.92, 0.3, 0.02, 0.4))
        figure.colorbar(image, cax=bar).outline.set_visible(False)
        bar.set_title("|u|", fontsize=9)
        bar.tick_params(labelsize=8)
        return to_svg(figure)


def _speed(field_SCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.linalg.norm(field_SCHW, axis=1)


def _same(one: Window, other: Window) -> bool:
    return (one.run, one.first_frame, one.truth.shape) == (other.run, other.first_frame, other.truth.shape)
