"""Figures over the symmetry breaking of the data: errors of the models, and the symmetry that they keep.

The x-axis is the *measured* data equivariance error, not the level. Bands are bootstrap intervals over seeds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor, isfinite, log10

from results.board.contests import MEMBER, family_members
from results.board.notes import group_of, group_words, storage_of, unit_of
from results.board.quantities import METRICS, SKILLS, written
from results.board.row import Row
from results.figures.figures import DASHED, Plot, Sheet, ends, family_style, few, hint
from results.figures.plot import Axis, Series, Style, chart
from results.statistics.crossing import Crossing, crossing, slope_and_rank

ROUND_OFF = 1e-5
"""Relative equivariance error of a roll-out below which a model is strict up to round-off (single precision)."""
DATA, FLOOR = "data_equivariance_error", "strict_floor"
RELATIVE_AXIS = Axis("measured data error / mean |state| (1)")
BAND = "Bands: 95 % bootstrap interval over seeds, none for a single seed."


def error_of_models(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> Plot:
    """`metric`, an error or a skill, over the data error, a line for each label."""
    kept, note = few(rows, metric)
    series, floor = _by_label(kept, DATA, metric, look), _floor(rows, metric)
    if metric in SKILLS:
        note += " 0 is the best trivial forecast of the level, 1 a perfect one."
    return Plot(
        "skill-of-models" if metric in SKILLS else "error-of-models",
        f"{METRICS[metric].title} against the measured symmetry breaking of the data",
        f"{BAND}{_floor_note(floor)} Only finished seeds count; the table names the others.{note}",
        chart([*series, *floor], data_axis(rows), axis_of(rows, metric), from_zero=True),
        reason=missing(rows),
    )


def missing(rows: Sequence[Row]) -> str:
    """Reason why there is no figure over the data error."""
    if any(row.metrics for row in rows) and not any(DATA in row.metrics for row in rows):
        return "the data equivariance error of measured data is not known"
    return "no finished record has the numbers for it yet"


def error_of_families(rows: Sequence[Row], metric: str) -> Plot:
    """`metric` over the data error, a line for each family: at each level its best member, chosen by validation."""
    members_of = envelopes(rows, metric)
    series = [_series(name, members, DATA, metric, family_style(name)) for name, members in members_of.items()]
    floor = _floor(rows, metric)
    return Plot(
        "error-of-families",
        f"{METRICS[metric].title} of each family",
        f"{MEMBER} Point at a marker for its name. {BAND}{_floor_note(floor)}",
        chart([*series, *floor], data_axis(rows), axis_of(rows, metric), from_zero=True),
        reason=missing(rows),
    )


def envelopes(rows: Sequence[Row], metric: str) -> dict[str, list[Row]]:
    """Family -> its member at each level (`contests.family_members`), ordered by the data error."""
    levels: dict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if metric in row.metrics and DATA in row.metrics:
            levels[row.level].append(index)
    chosen = [rows[index] for positions in levels.values() for index in family_members(rows, positions).values()]
    families: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(chosen, key=lambda row: (row.family, row.metrics[DATA].mean)):
        families[row.family].append(row)
    return dict(families)


def symmetry_kept(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> Plot:
    """Model over data equivariance error, both relative to the field, and a table of slopes and correlations.

    For scalings, the errors of the models alone: those of the data are of another action.
    """
    if rows and group_of(rows[0].dataset) == "scale":
        return _zooms(rows, metric, look)
    rollout = "rollout_equivariance_error_relative"
    ours = rollout if any(rollout in row.metrics for row in rows) else "model_equivariance_error_relative"
    kept, note = few(rows, metric)
    series = _by_label(kept, f"{DATA}_relative", ours, look)
    least = _least([value for one in series for value in one.y])
    over, short = ("over a rolled-out test window", "rolled out") if ours == rollout else ("in one step", "one step")
    axis = Axis(f"model error / mean |state| (1), {short}", log=True, least=least)
    if least is not None:
        note += f" The axis ends at {least:.0e}: strict models, whose error is round-off, are drawn there."
    caption = (
        f"Error of the model: mean |F(gx) - g F(x)| {over}. Error of the data: difference between two whole"
        " simulations, one with the transformed set-up, which grows with every frame. The two differ in kind, so equal"
        " numbers mean nothing; look at whether the model's error follows that of the data."
        f" {storage_of(rows[0].dataset).strictness} The error of a model that learns the right amount rises with that"
        " of the data, and is small for symmetric data."
        f" {BAND}{note}"
    )
    return Plot(
        "symmetry-kept",
        "Does the model break the symmetry where the data do?",
        caption,
        chart(series, RELATIVE_AXIS, axis),
        reason=missing(rows),
        sheet=_calibration(kept, ours),
    )


def _least(values: Sequence[float]) -> float | None:
    """Lower end of a logarithmic axis, if the lowest values are round-off two decades below all others; else None."""
    others = [value for value in values if value > ROUND_OFF]
    if not others or min(values) > min(others) / 100:
        return None
    return 10.0 ** (floor(log10(min(others))) - 1)


def _zooms(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> Plot:
    """Error under zooms within the range of scales, by level, above the floor of the zoom."""
    within, floor = "model_equivariance_error_within_range", "equivariance_floor"
    kept, note = few([row for row in rows if within in row.metrics], metric)
    levels = dict.fromkeys(row.level for row in rows)  # in the order of the board
    place = {level: index for index, level in enumerate(levels, start=1)}
    lines = []
    for label in sorted({row.label for row in kept}):
        members = sorted((row for row in kept if row.label == label), key=lambda row: place[row.level])
        values = [row.metrics[within] for row in members]
        low, high = ends(values)
        hints = [hint(label, row.level, value) for row, value in zip(members, values, strict=True)]
        places, means = [place[row.level] for row in members], [value.mean for value in values]
        lines.append(Series(label, places, means, look[label], low, high, hints))
    floors = {row.level: row.metrics[floor].mean for row in rows if floor in row.metrics}
    flat = sorted((place[level], value) for level, value in floors.items())
    lines.append(Series("floor", [x for x, _ in flat], [y for _, y in flat], _dashed(flat)))
    return Plot(
        "zoom-errors",
        "How strict is the model under zooms?",
        "Error of one step over the change, with the scales that a zoom leaves within the range of the network, in the"
        " middle half of the box. Dashed: the floor, the same for a map that commutes with every zoom. The data"
        " equivariance error is that of boxes of other sizes, another action, and is not on an axis here. See"
        f" docs/scale.md. {BAND}{note}",
        chart(
            lines,
            Axis(", ".join(f"{index}: level {level}" for level, index in place.items()), integer=True),
            Axis(METRICS[within].title, log=True),
        )
        if kept
        else None,
        reason="no finished record has the error within the range of scales; older records lack it",
    )


def _calibration(rows: Sequence[Row], metric: str) -> Sheet | None:
    """Slope and rank correlation of the model's error over the data's, for each label with at least two levels."""
    lines = []
    for label, members in _labelled(rows, f"{DATA}_relative", metric).items():
        seeds = set.intersection(*({s.seed for s in row.seeds if s.state == "done"} for row in members))
        places = [row.metrics[f"{DATA}_relative"].mean for row in members]
        if len(members) < 2 or not seeds or places[0] == places[-1]:
            continue
        recorded = [dict(zip((s.seed for s in row.seeds), row.values[metric], strict=True)) for row in members]
        by_seed = {seed: [each[seed] for each in recorded] for seed in sorted(seeds)}
        values = {seed: [v for v in line if v is not None] for seed, line in by_seed.items() if None not in line}
        if not values:
            continue
        slope, rank = slope_and_rank(places, values)
        least = written(members[0].metrics[metric].mean)
        lines.append((label, slope.text(written), "-" if rank is None else f"{rank:.2f}", least))
    head = ("Model", "Slope", "Rank correlation", "At the most symmetric level")
    return Sheet(head, tuple(lines)) if lines else None


def where_they_cross(rows: Sequence[Row], metric: str) -> Plot:
    """The best strict and the best relaxed model over the data error, and the crossing of their lines."""
    lines = envelopes(rows, metric)
    pair = [lines.get(family, []) for family in ("strict", "relaxed")]
    shared = sorted(set.intersection(*({row.level for row in members} for members in pair)), key=str)
    title = "Where strict and relaxed cross"
    if len(shared) < 2:
        return Plot("crossing", title, "", None, "it needs a strict and a relaxed model at two levels")
    pair = [[row for row in members if row.level in shared] for members in pair]
    at = _crossing(pair[0], pair[1], metric)
    series = [
        _series(f, members, DATA, metric, family_style(f))
        for f, members in zip(("strict", "relaxed"), pair, strict=True)
    ]
    floor = _floor(rows, metric)
    place, span = None, None
    if at is not None:
        place = at.at.value
        span = None if at.at.low is None or at.at.high is None else (at.at.low, at.at.high)
    return Plot(
        "crossing",
        title,
        f"{_sentence(at)} {MEMBER} {BAND}{_floor_note(floor)}",
        chart([*series, *floor], data_axis(rows), axis_of(rows, metric), from_zero=True, span=span, at=place),
        sheet=_crossings(rows, metric),
    )


def _sentence(crossing: Crossing | None) -> str:
    if crossing is None:
        return "The means do not cross at these levels."
    at = f"The means cross at a data equivariance error of {written(crossing.at.value)}"
    if not isfinite(crossing.share):
        return f"{at}; one seed each, so there is no interval."
    share = f"the lines cross in {100 * crossing.share:.0f} % of the resamples over seeds"
    if crossing.at.low is None or crossing.at.high is None:
        return f"{at}, but {share}: too few for an interval."
    return f"{at}, 95 % interval {written(crossing.at.low)} to {written(crossing.at.high)} (shaded); {share}."


def _crossing(one: Sequence[Row], other: Sequence[Row], metric: str) -> Crossing | None:
    by_level = {row.level: row for row in other}
    pairs = [(row, by_level[row.level]) for row in one if row.level in by_level]
    places = [row.metrics[DATA].mean for row, _ in pairs]
    seeds = [[list(filter(isfinite, row.sample(metric).values)) for row in pair] for pair in pairs]
    if len(set(places)) < 2 or not all(all(each) for each in seeds):
        return None
    return crossing(places, [each[0] for each in seeds], [each[1] for each in seeds])


def _crossings(rows: Sequence[Row], metric: str) -> Sheet | None:
    """Crossings of every strict with every relaxed model among those of the figures."""
    kept, _ = few(rows, metric)
    labelled = _labelled(kept, DATA, metric)
    families = {row.label: row.family for row in kept}
    lines = []
    for strict in (label for label in labelled if families[label] == "strict"):
        for relaxed in (label for label in labelled if families[label] == "relaxed"):
            at = _crossing(labelled[strict], labelled[relaxed], metric)
            place = "no crossing" if at is None else at.at.text(written)
            share = "-" if at is None or not isfinite(at.share) else f"{100 * at.share:.0f} %"
            lines.append((strict, relaxed, place, share))
    return Sheet(("Strict", "Relaxed", "Cross at", "In resamples"), tuple(lines)) if lines else None


def _floor(rows: Sequence[Row], metric: str) -> list[Series]:
    """Strict floor over the data error, a line without markers; nothing for metrics that are no RMSE and no skill."""
    rmse = SKILLS.get(metric, metric)
    needed = {FLOOR, DATA, rmse, metric}
    by_level = {row.level: row for row in rows if needed <= row.metrics.keys() and row.metrics[rmse].mean > 0}
    if rmse not in SKILLS.values() or not by_level:
        return []

    def height(row: Row) -> float:
        floor = row.metrics[FLOOR].mean
        return floor if metric == rmse else 1 - floor * (1 - row.metrics[metric].mean) / row.metrics[rmse].mean

    return [_line("strict floor", [(row, height(row)) for row in by_level.values()])]


def _floor_note(floor: Sequence[Series]) -> str:
    """Sentence on the line, if it is drawn."""
    return (
        " Dashed: the strict floor, which no strictly equivariant forecast can beat unless the state shows its"
        " orientation."
        if floor
        else ""
    )


def _line(name: str, heights: Sequence[tuple[Row, float]]) -> Series:
    """Dashed line of a number that the data have, over the data error."""
    points = sorted((row.metrics[DATA].mean, height) for row, height in heights)
    places, values = ([point[axis] for point in points] for axis in (0, 1))
    return Series(name, places, values, _dashed(points))


def _dashed(points: Sequence[object]) -> Style:
    """Style of a dashed line; a marker if it has a single point."""
    return replace(DASHED, marker="o") if len(points) == 1 else DASHED


def beside_truth(rows: Sequence[Row], metric: str, truth_metric: str, look: Mapping[str, Style]) -> str | None:
    """A metric over the data error on a logarithmic axis, a line for each label of `rows` and one for the truth."""
    points = {row.level: row for row in rows if truth_metric in row.metrics and DATA in row.metrics}
    line = _line("truth", [(row, row.metrics[truth_metric].mean) for row in points.values()])
    return chart([*_by_label(rows, DATA, metric, look), line], data_axis(rows), axis_of(rows, metric, log=True))


def data_axis(rows: Sequence[Row]) -> Axis:
    """Axis of the data error of one dataset."""
    group = f" over {words}" if rows and (words := group_words(rows[0].dataset)) else ""
    return Axis(f"measured data error{group} ({unit_of(DATA, {row.dataset for row in rows})})")


def axis_of(rows: Sequence[Row], metric: str, log: bool = False) -> Axis:
    """Axis of a metric with its unit."""
    return Axis(f"{METRICS[metric].title} ({unit_of(metric, {row.dataset for row in rows})})", log)


def _labelled(rows: Sequence[Row], x: str, y: str) -> dict[str, list[Row]]:
    """Label -> its rows that have both numbers, sorted by x; the labels are sorted, too."""
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(
        (row for row in rows if x in row.metrics and y in row.metrics), key=lambda row: row.metrics[x].mean
    ):
        by_label[row.label].append(row)
    return dict(sorted(by_label.items()))


def _by_label(rows: Sequence[Row], x: str, y: str, look: Mapping[str, Style]) -> list[Series]:
    return [_series(label, members, x, y, look[label]) for label, members in _labelled(rows, x, y).items()]


def _series(name: str, members: Sequence[Row], x: str, y: str, style: Style) -> Series:
    values = [row.metrics[y] for row in members]
    low, high = ends(values)
    hints = [hint(row.label, row.level, value) for row, value in zip(members, values, strict=True)]
    places = [row.metrics[x].mean for row in members]
    return Series(name, places, [value.mean for value in values], style, low, high, hints)
