"""Common parts of a board's figures: styles of the series, figures with captions, tables below them.

A family has a colour, a marker and a line, the same in every figure of a board; its models differ in the fill of the
marker. The colours have a middle luminance, which is readable on light and dark pages.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from results.board.quantities import Statistic, written
from results.board.row import Row, merits
from results.figures.plot import DASH, Style
from results.statistics.bootstrap import Estimate

FAMILIES: Mapping[str, Style] = {
    "relaxed": Style("#ef5c62", "o"),
    "strict": Style("#2a6caa", "s", dash="12 3"),
    "cnn": Style("#d87318", "D", dash="2 3"),
    "approximate": Style("#2a7147", "^", dash="10 3 2 3"),
    "reference": Style("#8e949e", "v", dash="2 6"),
    "unknown": Style("#9a1de2", "P", dash="5 3"),
}
"""Family -> its style. Colours differ under deuteranopia, too; contrast at least 3 : 1 against white and near-black."""
FILLS = (1.0, 0.0, 0.45)
"""Opacity of the markers of a family's models, used in turn."""
INK = "currentColor"
DASHED = Style(INK, dash=DASH)
"""Style of lines that are no model's: floors, the truth, the Pareto front."""
MOST_SERIES = 12
"""Lines in one figure; more are hard to distinguish."""


@dataclass(frozen=True)
class Sheet:
    """A small table below a figure."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A figure of the page, or the reason why it is not drawn.

    `key` is its part of a file name. A `folded` figure is closed until it is clicked.
    """

    key: str
    title: str
    caption: str
    svg: str | None
    reason: str = "no finished record has the numbers for it yet"
    sheet: Sheet | None = None
    folded: bool = False


def styles(rows: Sequence[Row]) -> dict[str, Style]:
    """Label -> style, for all labels of a board."""
    families: dict[str, list[str]] = defaultdict(list)
    for label, family in sorted({(row.label, row.family) for row in rows}):
        families[family].append(label)
    return {
        label: replace(family_style(family), fill=FILLS[index % len(FILLS)])
        for family, labels in families.items()
        for index, label in enumerate(labels)
    }


def family_style(family: str) -> Style:
    """Style of a line that stands for a whole family; `free`, on particles, has that of `cnn`, on fields."""
    return FAMILIES.get("cnn" if family == "free" else family, FAMILIES["unknown"])


def few(rows: Sequence[Row], metric: str) -> tuple[list[Row], str]:
    """Rows of at most MOST_SERIES labels, and a sentence on the omission of the others.

    The best label of each model comes first, then the best of the rest, by mean place in their levels.
    """
    labels = list(dict.fromkeys(row.label for row in rows))
    if len(labels) <= MOST_SERIES:
        return list(rows), ""
    places: dict[str, list[float]] = defaultdict(list)
    ranked = sorted(zip(merits(rows, metric), rows, strict=True), key=lambda pair: pair[0])
    for level in {row.level for row in rows}:
        at = [row for _, row in ranked if row.level == level and metric in row.metrics]
        for place, row in enumerate(at):
            places[row.label].append(place)
    last = float(len(rows))
    mean = {label: sum(places[label]) / len(places[label]) if places[label] else last for label in labels}
    models = {row.label: row.model for row in rows}
    seen: dict[str, int] = defaultdict(int)
    order = []
    for label in sorted(labels, key=lambda label: (mean[label], label)):
        order.append((seen[models[label]], mean[label], label))
        seen[models[label]] += 1
    kept = {label for *_, label in sorted(order)[:MOST_SERIES]}
    note = f" {MOST_SERIES} of {len(labels)} models: the best of each kind, then the best of the others."
    return [row for row in rows if row.label in kept], note


def ends(values: Sequence[Statistic]) -> tuple[list[float], list[float]]:
    """Ends of the intervals for a band, or the mean for a single seed; empty if no value has an interval."""
    if all(value.low is None for value in values):
        return [], []
    low = [value.mean if value.low is None else value.low for value in values]
    return low, [value.mean if value.high is None else value.high for value in values]


def hint(label: str, level: object, value: Statistic) -> str:
    """Tooltip of a point: label, level, value with its interval, number of seeds."""
    estimate = Estimate(value.mean, value.low, value.high).text(written)
    return f"{label}, level {level}: {estimate}, {seeds_of(value.n)}"


def seeds_of(n: int) -> str:
    """Number of seeds in words."""
    return "1 seed" if n == 1 else f"{n} seeds"
