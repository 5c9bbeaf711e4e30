"""Pictures of a dataset: contact sheets of fields, and the measured symmetry breaking of levels.

Equal fields give equal bytes: the files hold no date and no version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, cycle
from math import sqrt
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import PAPER, EquivarianceError, Preset
from benchmark.data.layout import StoredField
from benchmark.data.show.planes import COLORS, Planes, quickening, spread
from benchmark.data.strict_floor import FLOOR_STEPS, StrictFloor
from benchmark.files import replacing

Kind = Literal["absolute", "relative"]
Element = tuple[str, bool]
"""Name of a group element, and whether its action is exact."""

LOOK: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808890",
    "grid.alpha": 0.25,
    "image.composite_image": False,
    "text.parse_math": False,
}
"""matplotlib settings of all figures, also of those in the report."""
INK, SOFT, FRAME = "#1b1f24", "#57606a", "#808890"
SERIES = ("#2f7ed8", "#d1495b", "#2e9b57", "#c27a00", "#9163c9", "#0e8fa8", "#8c7f86", "#c2549d")
DASHES: Mapping[bool, Any] = {True: "-", False: (0, (4, 2.5))}
"""Line style of exact and of interpolated group elements."""
DOTS_PER_INCH = 110
PANEL_AREA, WIDEST_PANEL, GAP, TITLE, SHEET_SIDE = 2.5, 2.32, 0.08, 0.35, 9.6
"""Inches (square inches for the area) of a contact sheet: panels, gaps, titles, and the longest side."""
MOST_ROWS, MOST_COLUMNS = 5, 6


@dataclass(frozen=True)
class LevelErrors:
    """Measured errors of one level, the level as a number (`knob`), and the strict floor over 20 frames."""

    level: Level
    knob: float
    errors: tuple[EquivarianceError, ...]
    floor: float | None = None

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> LevelErrors:
        """Errors from the result of `info.describe`."""
        errors = (
            EquivarianceError(error["element"], error["absolute"], error["relative"], error["exact"])
            for error in description["equivariance_errors"]
            if None not in error.values()
        )
        known = description["strict_floor"]
        floor = StrictFloor.of(known).over(FLOOR_STEPS, description["grid"]) if known else None
        return cls(description["level"], description["level_value"], tuple(errors), floor)

    def mean(self, kind: Kind) -> float:
        """Mean over the group elements."""
        return fmean(getattr(error, kind) for error in self.errors)


def contact_sheet(stored: StoredField, path: Path) -> None:
    """Write a PNG of the vorticity, or of a scalar: a few runs, one a row, at a few times, one a column.

    x points to the right, y up. All panels share one colour scale. Time counts from the first frame of the file.
    MachineError: `path` cannot be written.
    """
    runs, frames, _, height, width = stored.field.shape
    panel_width = min(sqrt(PANEL_AREA * height / width), WIDEST_PANEL)
    panel_height = panel_width * width / height
    columns = quickening(frames, min(int(SHEET_SIDE / (panel_width + GAP)), MOST_COLUMNS))
    rows = spread(runs, min(max(int(SHEET_SIDE / (panel_height + TITLE)), 2), MOST_ROWS))
    planes = Planes.of(stored, rows, columns)
    size = (len(columns) * (panel_width + GAP) + 1.1, len(rows) * (panel_height + TITLE) + 0.65)
    with drawing(path, *size) as figure:
        for (row, column), plane in zip(np.ndindex(planes.values.shape[:2]), chain(*planes.values), strict=True):
            x, y = 0.1 + column * (panel_width + GAP), 0.1 + (len(rows) - 1 - row) * (panel_height + TITLE)
            axes = figure.add_axes((x / size[0], y / size[1], panel_width / size[0], panel_height / size[1]))
            image = show_plane(axes, plane, COLORS, -planes.limit, planes.limit)
            if column == 0:
                axes.set_title(planes.titles[row], loc="left", fontsize=9, pad=4)
            if row == 0:
                time = f"time {planes.times[column]:g}"
                figure.text((x + panel_width / 2) / size[0], 1 - 0.5 / size[1], time, ha="center", fontsize=9)
        name = f"{stored.dataset}, level {stored.level}, preset {stored.preset}"
        figure.text(0.1 / size[0], 1 - 0.22 / size[1], name, fontsize=11, weight="bold")
        _color_bar(figure, image, size, f"{planes.quantity}\n({planes.unit})")


def show_plane(axes: Axes, plane: NDArray[np.float32], colors: Any, low: float, high: float) -> AxesImage:
    """Draw values (X, Y) with x to the right and y up, a colour for each cell, in a thin frame."""
    image = axes.imshow(plane.T, origin="lower", cmap=colors, vmin=low, vmax=high, interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=FRAME, linewidth=0.6)
    return image


def _color_bar(figure: Figure, image: AxesImage, size: tuple[float, float], title: str) -> None:
    height = min(0.5 * size[1], 2.6) / size[1]
    bar = figure.add_axes((1 - 0.82 / size[0], 0.5 - height / 2, 0.13 / size[0], height))
    figure.colorbar(image, cax=bar, extend="both").outline.set_visible(False)
    bar.set_title(title, fontsize=9, pad=10)
    bar.tick_params(labelsize=8)
    bar.grid(visible=False)


def symmetry_breaking(
    points: Sequence[LevelErrors], path: Path, knob: str = "level", unit: str = Preset.error_unit
) -> bool:
    """Write a PNG of the measured data equivariance error, absolute and relative, against the level.

    `knob` is the label of the level axis, `unit` that of an error. Thin lines are group elements, the thick line is
    their mean, the dotted one the strict floor, a root mean square in the same units. The level `paper` is marked.
    Returns False, and writes nothing, if no level has an error. MachineError: `path` cannot be written.
    """
    measured = sorted((point for point in points if point.errors), key=lambda point: point.knob)
    if not measured:
        return False
    with drawing(path, 9.2, 3.9) as figure:
        wide, narrow = figure.subplots(1, 2, width_ratios=(1.8, 1))
        figure.subplots_adjust(left=0.06, right=0.8, bottom=0.19, top=0.9, wspace=0.22)
        _draw_errors(wide, measured, "absolute")
        _draw_errors(narrow, measured, "relative")
        floors = [(point.knob, point.floor) for point in measured if point.floor is not None and point.level != PAPER]
        if floors:
            wide.plot(
                *zip(*floors, strict=True), color=INK, ls=":", lw=1.8, label=f"strict floor\n({FLOOR_STEPS} frames)"
            )
        wide.set_title(f"measured data equivariance error ({unit})", loc="left", fontsize=10)
        narrow.set_title("relative to the mean |state|", loc="left", fontsize=10)
        figure.supxlabel(fill(knob, 100), x=0.425, y=0.02, fontsize=10)
        figure.legend(*wide.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.81, 0.53), frameon=False)
    return True


def _draw_errors(axes: Axes, points: Sequence[LevelErrors], kind: Kind) -> None:
    floors = [point.floor or 0.0 for point in points if kind == "absolute"]
    highest = max([*floors, *(getattr(error, kind) for point in points for error in point.errors)])
    axes.set_ylim(-0.03 * (highest or 1.0), 1.06 * (highest or 1.0))  # room for the markers at zero
    axes.locator_params(axis="x", nbins=5)
    knobs = [point.knob for point in points]
    twice = len(set(knobs)) < len(knobs)  # `paper` differs from a level in more than the knob
    joined = [point for point in points if point.level != PAPER] if twice else points
    elements = list(dict.fromkeys((error.element, error.exact) for point in points for error in point.errors))
    few = len(elements) <= len(SERIES)
    unnamed = Counter(exact for _, exact in elements)
    for color, (name, exact) in zip(cycle(SERIES), elements):
        line = _line(joined, (name, exact), kind)
        style: dict[str, Any]
        if few:
            style = {"color": color, "lw": 1.2, "marker": "o", "markersize": 2.5, "label": _label(name, exact)}
        else:  # grey lines, with one name for all
            count = unnamed.pop(exact, 0)
            label = _label(f"{count} element{'s'[: count > 1]}", exact) if count else "_"
            style = {"color": SOFT, "lw": 0.8, "alpha": 0.4, "label": label}
        axes.plot(*line, ls=DASHES[exact], **style)
    y = [point.mean(kind) for point in joined]
    below = 1.5 if few else 3  # few lines may coincide with the mean, and are drawn over it
    axes.plot([p.knob for p in joined], y, color=INK, lw=2.8, marker="o", markersize=6, label="mean", zorder=below)
    for paper in (point for point in points if point.level == PAPER):
        at = (paper.knob, paper.mean(kind))
        axes.plot(*at, color=INK, marker="*", markersize=17, mec="white", ls="", label="paper", zorder=4)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.annotate("paper", at, (8, -14), textcoords="offset points", fontsize=9, weight="bold", bbox=box)


def _line(points: Sequence[LevelErrors], element: Element, kind: Kind) -> tuple[list[float], list[float]]:
    """Knobs and errors of one element, at the levels that have it."""
    pairs = [(p.knob, error) for p in points for error in p.errors if (error.element, error.exact) == element]
    return [knob for knob, _ in pairs], [getattr(error, kind) for _, error in pairs]


def _label(element: str, exact: bool) -> str:
    return element if exact else f"{element}\n(interpolated)"


@contextmanager
def figure_of(
    width: float, height: float, dots_per_inch: int = DOTS_PER_INCH
) -> Iterator[tuple[Figure, FigureCanvasAgg]]:
    """A figure of `width` x `height` inches in the house style, and its canvas, without pyplot's global state."""
    ink: Any = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context({**LOOK, **ink}):
        figure = Figure(figsize=(width, height), dpi=dots_per_inch)
        yield figure, FigureCanvasAgg(figure)


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written to `path` as PNG at the end of the block."""
    with figure_of(width, height) as (figure, _):
        yield figure
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
