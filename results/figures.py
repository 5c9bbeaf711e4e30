"""Figures as SVG text for an HTML page: same rows, same bytes.

Ink is `currentColor` and the background transparent, so that a figure follows the page from light to dark; the
colours of the series are of a middle luminance that can be read on both.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.data.show.pictures import LOOK

from .leaderboard import Row
from .quantities import METRICS, Statistic

COLORS: Mapping[str, tuple[str, ...]] = {
    "relaxed": ("#d1495b", "#c2185b", "#e2572e"),
    "strict": ("#2f7ed8", "#0e8fa8", "#5b6ee1"),
    "cnn": ("#c27a00", "#a0722a", "#b8860b"),
    "approximate": ("#2e9b57", "#5a9216", "#0f9d86"),
    "reference": ("#808890", "#8c7f86", "#77868c"),
    "unknown": ("#9163c9", "#a05ab5", "#7d6bb0"),
}
"""Family -> colours of its models in turn; 3 : 1 or more against white and against near-black."""
MARKERS = "osD^vPX<>"
INK = "#010203"
"""Stands for `currentColor`, which matplotlib does not know."""
SETTINGS: Any = {
    **LOOK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "symbench",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Style:
    """How a series looks in every figure of a board."""

    color: str
    marker: str


def styles(rows: Sequence[Row]) -> dict[str, Style]:
    """Label -> style; the hue is the family's, the marker tells its models apart."""
    families: dict[str, list[str]] = defaultdict(list)
    for label, family in sorted({(row.label, row.family) for row in rows}):
        families[family if family in COLORS else "unknown"].append(label)
    return {
        label: Style(COLORS[family][index % len(COLORS[family])], MARKERS[index % len(MARKERS)])
        for family, labels in families.items()
        for index, label in enumerate(labels)
    }


def against_data_error(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> str | None:
    """`metric` over the measured data equivariance error, a line for each label, bars of one standard deviation.

    For model_equivariance_error the diagonal is drawn too: there the model breaks the symmetry as the data does.
    None where no row has both numbers.
    """
    lines: dict[str, list[tuple[float, Statistic]]] = defaultdict(list)
    for row in rows:
        if metric in row.metrics and "data_equivariance_error" in row.metrics:
            lines[row.label].append((row.metrics["data_equivariance_error"].mean, row.metrics[metric]))
    if not lines:
        return None
    with _drawing() as (figure, axes):
        ends = {}
        for label, points in sorted(lines.items()):
            points.sort(key=lambda point: point[0])
            x, y = [point[0] for point in points], [point[1].mean for point in points]
            bars = [point[1].std or 0.0 for point in points]
            style = look[label]
            axes.errorbar(x, y, bars, color=style.color, marker=style.marker, markersize=5, capsize=2, lw=1.6)
            ends[label] = (x[-1], y[-1])
        if metric == "model_equivariance_error":
            axes.axline((0, 0), slope=1, color=INK, lw=1, ls=(0, (4, 4)), alpha=0.6)
        axes.set_xlabel("measured data equivariance error (field units)")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel(f"{METRICS[metric].title} ({METRICS[metric].unit})")
        axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a marker at zero is whole
        _name_ends(axes, ends, look)
        return to_svg(figure)


def by_step(rows: Sequence[Row], curve: str, look: Mapping[str, Style]) -> str | None:
    """RMSE of each rolled-out step, the mean over seeds in a band of one standard deviation. None without curves."""
    lines = {row.label: row.curves[curve] for row in rows if curve in row.curves}
    if not lines:
        return None
    with _drawing() as (figure, axes):
        ends = {}
        for label, values in sorted(lines.items()):
            steps, color = range(1, len(values) + 1), look[label].color
            mean, std = [value.mean for value in values], [value.std or 0.0 for value in values]
            axes.plot(steps, mean, color=color, marker=look[label].marker, markersize=4, lw=1.6)
            low = [m - s for m, s in zip(mean, std, strict=True)]
            axes.fill_between(steps, low, [m + s for m, s in zip(mean, std, strict=True)], color=color, alpha=0.2, lw=0)
            ends[label] = (float(len(values)), mean[-1])
        axes.set_xlabel("rolled-out step")
        axes.set_ylabel("RMSE (field units)")
        axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a marker at zero is whole
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _name_ends(axes, ends, look)
        return to_svg(figure)


@contextmanager
def _drawing() -> Iterator[tuple[Figure, Axes]]:
    """A figure with one axes, in the house style and without pyplot's global state."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 3.7))
        figure.subplots_adjust(left=0.12, right=0.68, bottom=0.15, top=0.97)
        yield figure, figure.add_subplot()


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], look: Mapping[str, Style]) -> None:
    """Write each label to the right of the plot, as near to its line's end as the others let it."""
    low, high = axes.get_ylim()
    wanted = sorted(((y - low) / (high - low), label) for label, (_, y) in ends.items())
    texts = ["\n".join(wrap(label, 26, max_lines=3, placeholder=" …")) for _, label in wanted]
    lines = [text.count("\n") + 1 for text in texts]
    line = min(1 / 18, 1 / sum(lines))
    bottom = 0.0
    for index, ((height, label), text) in enumerate(zip(wanted, texts, strict=True)):
        highest = 1 - line * (sum(lines[index:]) - lines[index] / 2)
        center = min(max(height, bottom + line * lines[index] / 2), highest)
        bottom = center + line * lines[index] / 2
        axes.annotate(
            text,
            ends[label],
            (1.05, center),
            textcoords="axes fraction",
            va="center",
            fontsize=9 if line == 1 / 18 else 7,
            color=look[label].color,
            arrowprops={
                "arrowstyle": "-",
                "color": look[label].color,
                "lw": 0.7,
                "alpha": 0.6,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def to_svg(figure: Figure) -> str:
    """The bare <svg> element, without prolog, date and size, so that it takes the width of its place."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw it, not ours
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
