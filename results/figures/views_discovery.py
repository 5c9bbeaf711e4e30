"""Figures of symmetry discovery: the level and the field that a model has learned, beside those of the data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from results.board.quantities import Statistic, written
from results.board.row import Row
from results.figures.figures import DASHED, Plot, Sheet, ends, few, hint, seeds_of
from results.figures.plot import Axis, Series, Style, chart
from results.figures.sphere import LONGEST, Arrow, Camera, Sphere, Vector, spheres
from results.figures.views_symmetry import BAND
from results.statistics.bootstrap import Estimate
from results.store.record import VECTORS

LEARNED, ANGLE = "learned_level", "learned_angle"
FIELD, TRUE = VECTORS
TRUTH = "truth"


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
    truth = Series(TRUTH, levels, levels, DASHED)
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


def learned_field(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> list[Plot]:
    """Learned fields in a sphere for each level but 0; no figure if no record has the vectors."""
    kept, note = few([row for row in rows if _has_field(row)], metric)
    if not kept:
        return []
    panels, lines = [], []
    for level in sorted({float(row.level) for row in kept}):
        members = sorted((row for row in kept if float(row.level) == level), key=lambda row: row.label)
        true = math.copysign(1, level) * _means(members[0], TRUE)
        truth = Arrow(TRUTH, true, replace(DASHED, fill=0.0), f"{TRUTH}, level {members[0].level}")
        arrows = [_arrow(row, true, look[row.label]) for row in members]
        panels.append(Sphere(f"level {members[0].level}", truth, arrows))
        numbers = [(TRUTH, [written(part) for part in abs(level) * true])]
        numbers += [(row.label, [_text(part) for part in row.vectors[FIELD]]) for row in members]
        lines += [(label, str(members[0].level), *parts) for label, parts in numbers]
    camera = Camera(panels[0].truth.vector)
    is_cut = any(arrow.is_long for panel in panels for arrow in panel.arrows)
    return [
        Plot(
            "learned-field",
            "Which field has the model learned?",
            "Magnetic field that a model has learned, mean over seeds; dashed: that of the data, whose length is the"
            " radius of the sphere at each level. A strictly equivariant model has none, and is a point at the centre."
            f" Seen along one direction with z upward, {camera.degrees:.0f} degrees from the true field: what points to"
            " the reader or away looks shorter. Thin: the equator, and the meridian of the true field; dotted on the"
            " far side."
            + (f" Arrows with a bar are longer than {LONGEST:g} true fields, and cut there." if is_cut else "")
            + f" The table has the components over the length of the field of level 1.{note}",
            spheres(panels, camera),
            sheet=Sheet(("Model", "Level", "x", "y", "z"), tuple(lines)),
        )
    ]


def _has_field(row: Row) -> bool:
    """Whether a row has both vectors, at a level with a field."""
    if isinstance(row.level, str) or not row.level:
        return False
    return all(len(row.vectors.get(name, ())) == 3 for name in VECTORS) and bool(_means(row, TRUE).any())


def _means(row: Row, name: str) -> Vector:
    return np.array([part.mean for part in row.vectors[name]], dtype=np.float64)


def _arrow(row: Row, true: Vector, style: Style) -> Arrow:
    """Mean learned field of a row over the length of the true field of its level, which points along `true`."""
    vector = _means(row, FIELD) / abs(float(row.level))
    angle = math.degrees(math.atan2(float(np.linalg.norm(np.cross(vector, true))), float(vector @ true)))
    length = written(float(np.linalg.norm(vector)))
    learned = f"{length} times as long as the true field, {angle:.1f} degrees from it"
    learned = learned if ANGLE in row.metrics else "no field"
    text = f"{row.label}, level {row.level}: {learned}, {seeds_of(row.vectors[FIELD][0].n)}"
    return Arrow(row.label, vector, style, text)


def _text(value: Statistic) -> str:
    return Estimate(value.mean, value.low, value.high).text(written)
