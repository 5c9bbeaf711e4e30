"""Figures that ask how much symmetry a model should keep, and how much it does.

The x-axis is always the *measured* data equivariance error, never the knob that made it. Bands are the bootstrap
intervals over seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from results.board.quantities import METRICS, written
from results.board.row import Row
from results.figures.figures import INK, Plot, Sheet, Style, ends, family_style, few, hint
from results.figures.plot import Axis, Series, chart
from results.statistics.crossing import Crossing, crossing, slope_and_rank

DATA = "data_equivariance_error"
DATA_AXIS = Axis("measured data equivariance error (field units)")
RELATIVE_AXIS = Axis("data equivariance error / mean |field|")
BAND = "Bands: 95 % bootstrap interval over seeds, none for a single seed."
MEMBER = (
    "At each level the member of the family with the lowest validation error; one that lacks a seed only where no other"
    " is there."
)


def error_of_models(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> Plot:
    """`metric` over the data error, a line for each label."""
    kept, told = few(rows, metric)
    series = _by_label(kept, DATA, metric, look)
    return Plot(
        "error-of-models",
        f"{METRICS[metric].title} against the measured symmetry breaking of the data",
        f"{BAND} Only finished seeds count; the table tells which are not.{told}",
        chart(series, DATA_AXIS, _axis(metric), from_zero=True),
        reason=missing(rows),
    )


def missing(rows: Sequence[Row]) -> str:
    """Why there is no figure over the data error."""
    if any(row.metrics for row in rows) and not any(DATA in row.metrics for row in rows):
        return "the data equivariance error of measured data is not known"
    return "no finished record has the numbers for it yet"


def error_of_families(rows: Sequence[Row], metric: str) -> Plot:
    """`metric` over the data error, a line for each family: at each level its best member, chosen by validation."""
    series = []
    for family, members in envelopes(rows, metric).items():
        style = family_style(family)
        series.append(_series(family, members, DATA, metric, style))
    return Plot(
        "error-of-families",
        f"{METRICS[metric].title} of each family",
        f"{MEMBER} Point at a marker for its name. {BAND}",
        chart(series, DATA_AXIS, _axis(metric), from_zero=True),
        reason=missing(rows),
    )


def envelopes(rows: Sequence[Row], metric: str) -> dict[str, list[Row]]:
    """Family -> at each level its member with the lowest mean validation error, by the data error.

    One that lacks a seed stands there only where no other of its family does.
    """
    best: dict[tuple[str, object], Row] = {}
    for row in rows:
        if metric in row.metrics and DATA in row.metrics and "rmse_validation" in row.metrics:
            key = (row.family, row.level)
            if key not in best or _merit(row) < _merit(best[key]):
                best[key] = row
    found: dict[str, list[Row]] = defaultdict(list)
    for (family, _), row in sorted(best.items(), key=lambda item: (item[0][0], item[1].metrics[DATA].mean)):
        found[family].append(row)
    return dict(found)


def _merit(row: Row) -> tuple[bool, float, str]:
    return not row.complete, row.metrics["rmse_validation"].mean, row.label


def symmetry_kept(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> Plot:
    """Model over data equivariance error, both relative to the field, and a table of how one follows the other."""
    rolled = "rollout_equivariance_error_relative"
    ours = rolled if any(rolled in row.metrics for row in rows) else "model_equivariance_error_relative"
    kept, told = few(rows, metric)
    series = _by_label(kept, f"{DATA}_relative", ours, look)
    over = "over a rolled-out test window" if ours == rolled else "in one step"
    caption = (
        f"The model's: mean |F(gx) - g F(x)| {over}; the data's: the same set-up and its transformed one over the whole"
        " simulation. The two differ in kind (the second grows from the first frame on), so equal numbers mean nothing:"
        " what counts is whether the model's follows the data's. For quarter turns, and in a periodic box, a strict"
        " model stays at round-off; walls and interpolation leave more. One that learns the right amount rises with the"
        " data, and is small where the data are symmetric."
        f" {BAND}{told}"
    )
    return Plot(
        "symmetry-kept",
        "Does the model break the symmetry where the data do?",
        caption,
        chart(series, RELATIVE_AXIS, Axis(f"model equivariance error / mean |field|, {_short(ours)}", log=True)),
        reason=missing(rows),
        sheet=_calibration(kept, ours),
    )


def _short(metric: str) -> str:
    return "rolled out" if metric.startswith("rollout") else "one step"


def _calibration(rows: Sequence[Row], metric: str) -> Sheet | None:
    """Slope and rank correlation of the model's over the data's error, for each label with two levels or more."""
    lines = []
    for label, members in _labelled(rows, f"{DATA}_relative", metric).items():
        seeds = set.intersection(*({s.seed for s in row.seeds if s.state == "done"} for row in members))
        places = [row.metrics[f"{DATA}_relative"].mean for row in members]
        if len(members) < 2 or not seeds or places[0] == places[-1]:
            continue
        values: dict[int, list[float]] = {}
        for seed in sorted(seeds):
            line = [_value(row, metric, seed) for row in members]
            if all(value is not None for value in line):
                values[seed] = [value for value in line if value is not None]
        if not values:
            continue
        slope, rank = slope_and_rank(places, values)
        lines.append((label, slope.text(written), "-" if rank is None else f"{rank:.2f}", _least(members, metric)))
    head = ("Model", "Slope", "Rank correlation", "At the most symmetric level")
    return Sheet(head, tuple(lines)) if lines else None


def _least(members: Sequence[Row], metric: str) -> str:
    return written(members[0].metrics[metric].mean)


def _value(row: Row, metric: str, seed: int) -> float | None:
    return next(value for one, value in zip(row.seeds, row.values[metric], strict=True) if one.seed == seed)


def where_they_cross(rows: Sequence[Row], metric: str) -> Plot:
    """The best strict and the best relaxed model over the data error, and where their lines cross."""
    lines = envelopes(rows, metric)
    pair = [lines.get(family, []) for family in ("strict", "relaxed")]
    shared = sorted(set.intersection(*({row.level for row in members} for members in pair)), key=str)
    title = "Where strict and relaxed cross"
    if len(shared) < 2:
        return Plot("crossing", title, "", None, "it takes a strict and a relaxed model at two levels")
    pair = [[row for row in members if row.level in shared] for members in pair]
    found = _crossing(pair[0], pair[1], metric)
    series = [
        _series(f, members, DATA, metric, family_style(f))
        for f, members in zip(("strict", "relaxed"), pair, strict=True)
    ]
    ends_of = None
    if found is not None and found.at.low is not None and found.at.high is not None:
        ends_of = (found.at.low, found.at.high)
    return Plot(
        "crossing",
        title,
        f"{_told(found)} {MEMBER} {BAND}",
        chart(
            series, DATA_AXIS, _axis(metric), from_zero=True, span=ends_of, at=None if found is None else found.at.value
        ),
        sheet=_crossings(rows, metric),
    )


def _told(found: Crossing | None) -> str:
    if found is None:
        return "The means do not cross at the levels that were run."
    at = f"The means cross at a data equivariance error of {written(found.at.value)}"
    if not isfinite(found.share):
        return f"{at}; one seed each, so there is no interval."
    share = f"the lines cross in {100 * found.share:.0f} % of the resamples over seeds"
    if found.at.low is None or found.at.high is None:
        return f"{at}, but {share}: too few for an interval."
    return f"{at}, 95 % interval {written(found.at.low)} to {written(found.at.high)} (shaded); {share}."


def _crossing(one: Sequence[Row], other: Sequence[Row], metric: str) -> Crossing | None:
    at = {row.level: row for row in other}
    pairs = [(row, at[row.level]) for row in one if row.level in at]
    places = [row.metrics[DATA].mean for row, _ in pairs]
    seeds = [[_finite(row, metric) for row in pair] for pair in pairs]
    if len(set(places)) < 2 or not all(all(each) for each in seeds):
        return None
    return crossing(places, [each[0] for each in seeds], [each[1] for each in seeds])


def _finite(row: Row, metric: str) -> list[float]:
    return [value for value in row.sample(metric).values if isfinite(value)]


def _crossings(rows: Sequence[Row], metric: str) -> Sheet | None:
    """Every strict with every relaxed model, as far as a table can be read."""
    kept, _ = few(rows, metric)
    labelled = _labelled(kept, DATA, metric)
    families = {row.label: row.family for row in kept}
    lines = []
    for strict in (label for label in labelled if families[label] == "strict"):
        for relaxed in (label for label in labelled if families[label] == "relaxed"):
            found = _crossing(labelled[strict], labelled[relaxed], metric)
            at = "no crossing" if found is None else found.at.text(written)
            share = "-" if found is None or not isfinite(found.share) else f"{100 * found.share:.0f} %"
            lines.append((strict, relaxed, at, share))
    return Sheet(("Strict", "Relaxed", "Cross at", "In resamples"), tuple(lines)) if lines else None


def beside_truth(rows: Sequence[Row], metric: str, truth_metric: str, look: Mapping[str, Style]) -> str | None:
    """A metric over the data error on a logarithmic axis, a line for each label of `rows` and one for the truth."""
    points = {row.level: row for row in rows if truth_metric in row.metrics and DATA in row.metrics}
    truth = sorted(points.values(), key=lambda row: row.metrics[DATA].mean)
    places, values = ([row.metrics[name].mean for row in truth] for name in (DATA, truth_metric))
    line = Series("truth", places, values, INK, dashed=True, marker="o" if len(truth) == 1 else "")
    return chart([*_by_label(rows, DATA, metric, look), line], DATA_AXIS, _axis(metric, log=True))


def _axis(metric: str, log: bool = False) -> Axis:
    return Axis(f"{METRICS[metric].title} ({METRICS[metric].unit})", log)


def _labelled(rows: Sequence[Row], x: str, y: str) -> dict[str, list[Row]]:
    """Label -> its rows that have both numbers, by x."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if x in row.metrics and y in row.metrics:
            found[row.label].append(row)
    by_x: Callable[[Row], float] = lambda row: row.metrics[x].mean  # noqa: E731 - mypy wants its type
    return {label: sorted(members, key=by_x) for label, members in sorted(found.items())}


def _by_label(rows: Sequence[Row], x: str, y: str, look: Mapping[str, Style]) -> list[Series]:
    return [_series(label, members, x, y, look[label]) for label, members in _labelled(rows, x, y).items()]


def _series(name: str, members: Sequence[Row], x: str, y: str, style: Style) -> Series:
    values = [row.metrics[y] for row in members]
    low, high = ends(values)
    hints = [hint(row.label, row.level, value) for row, value in zip(members, values, strict=True)]
    places = [row.metrics[x].mean for row in members]
    return Series(name, places, [value.mean for value in values], style.color, style.marker, low, high, hints=hints)
