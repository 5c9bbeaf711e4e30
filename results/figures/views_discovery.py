"""Figure of symmetry discovery: the level that a model has learned, beside that of the data."""

from collections.abc import Mapping, Sequence

from results.board.quantities import Statistic, written
from results.board.row import Row
from results.figures.figures import DASHED, Plot, Sheet, ends, few, hint
from results.figures.plot import Axis, Series, Style, chart
from results.figures.views_symmetry import BAND
from results.statistics.bootstrap import Estimate

LEARNED, ANGLE = "learned_level", "learned_angle"


def learned_level(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> list[Plot]:
    """Learned over true level, a line for each label; no figure if no record has it, or the levels are no numbers."""
    measured = [row for row in rows if LEARNED in row.metrics and not isinstance(row.level, str)]
    if not measured:
        return []
    kept, note = few(measured, metric)
    series, lines = [], []
    for label in sorted({row.label for row in kept}):
        members = sorted((row for row in kept if row.label == label), key=lambda row: float(row.level))
        values = [row.metrics[LEARNED] for row in members]
        levels = [float(row.level) for row in members]
        hints = [hint(label, row.level, value) for row, value in zip(members, values, strict=True)]
        series.append(Series(label, levels, [value.mean for value in values], look[label], *ends(values), hints))
        for row, value in zip(members, values, strict=True):
            angle = row.metrics.get(ANGLE)
            lines.append((label, str(row.level), _text(value), _text(angle) if angle is not None else "-"))
    levels = sorted({float(row.level) for row in measured})
    truth = Series("truth", levels, levels, DASHED)
    return [
        Plot(
            "learned-level",
            "Does the model learn the breaking that the data have?",
            "Level whose field or anisotropy a model has learned, from the derivatives of its forecast. Dashed: the"
            " level of the data. A strictly equivariant model has 0. The table has the angle between the learned and"
            f" the true breaking, which says nothing where the true one is 0. {BAND}{note}",
            chart([*series, truth], Axis("level of the data"), Axis("learned level"), from_zero=True),
            sheet=Sheet(("Model", "Level", "Learned level", "Angle (degrees)"), tuple(lines)),
        )
    ]


def _text(value: Statistic) -> str:
    return Estimate(value.mean, value.low, value.high).text(written)
