"""Figures of the forecasts: error by step, spectra, divergence, and error against cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from results.board.notes import unit_of
from results.board.quantities import METRICS, Statistic, summaries
from results.board.row import Row
from results.figures.figures import DASHED, Plot, ends, few, hint
from results.figures.plot import Axis, Series, Style, chart
from results.figures.views_symmetry import BAND, axis_of, beside_truth, missing

WAVES, ENERGY = Axis("wave number (waves in the box)", log=True), Axis("energy (field units²)", log=True)
OF_COMPONENT = "rmse_future_of_"
"""Beginning of the metric of a component in a record."""
COSTS = (
    ("parameters", 1.0, "trainable parameters (count)"),
    ("flops", 1.0, "FLOPs of one forecast step (count)"),
    ("training_seconds", 3600.0, "training time (hours)"),
    ("training_joules", 1000.0, "energy of the training (kJ)"),
)
"""Metric, divisor, label of the axis."""
NOT_MEASURED = {"training_joules": "not measured: no counter could be read, or others used the machine, too"}
"""Cost -> why no record has it."""


def by_step(rows: Sequence[Row], metric: str, look: Mapping[str, Style], where: str) -> Plot:
    """RMSE of each rolled-out step, on later frames of the runs seen."""
    kept, note = few(rows, metric)
    return Plot(
        "error-by-step",
        "Error by rolled-out step",
        f"Later frames of the runs seen; {where}. {BAND}{note}",
        _curves(
            kept,
            "rmse_future_by_step",
            look,
            Axis("rolled-out step (count)", integer=True),
            Axis(f"RMSE ({unit_of('rmse_future', {row.dataset for row in rows})})"),
        ),
    )


def spectra(rows: Sequence[Row], metric: str, look: Mapping[str, Style], where: str) -> Plot:
    """Energy of each scale at the last rolled-out step, beside that of the truth."""
    kept, note = few(rows, metric)
    truth = next((row.curves["spectrum_truth_future"] for row in kept if "spectrum_truth_future" in row.curves), ())
    series = [Series("truth", list(_numbers(truth)), [v.mean for v in truth], DASHED)] if truth else []
    return Plot(
        "energy-spectra",
        "Energy spectra at the last rolled-out step",
        "Kinetic energy in shells of wave numbers, counted along the longer side of the box; with a Hann window in a"
        " box with walls. Below the truth a model smooths that scale, above it the model adds structure."
        " Persistence repeats a true frame, so its spectrum is among the best: read it beside the RMSE."
        f" Later frames of the runs seen; {where}. {BAND}{note}",
        _curves(kept, "spectrum_future", look, WAVES, ENERGY, series),
        reason="no finished record has the numbers for it; older records lack them",
    )


def component_errors(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> list[Plot]:
    """RMSE of each component over the level, if the states have several; a panel for each."""
    recorded = dict.fromkeys(name for row in rows for one in row.recorded for name in one)
    kept, note = few([row for row in rows if not isinstance(row.level, str)], metric)
    kept = sorted(kept, key=lambda row: float(row.level))
    plots = []
    for name in [name for name in recorded if name.startswith(OF_COMPONENT)]:
        component = name.removeprefix(OF_COMPONENT)
        errors = zip(kept, summaries([[one.get(name) for one in row.recorded] for row in kept]), strict=True)
        known = [(row, error) for row, error in errors if error is not None]
        series = []
        for label in dict.fromkeys(row.label for row, _ in known):
            members = [(row.level, error) for row, error in known if row.label == label]
            values = [error for _, error in members]
            hints = [hint(label, level, error) for level, error in members]
            levels, means = [float(level) for level, _ in members], [error.mean for error in values]
            series.append(Series(label, levels, means, look[label], *ends(values), hints))
        drawn = chart(series, Axis("level of the data"), Axis(f"RMSE of {component}"), from_zero=True)
        caption = f"Roll-outs, later frames of the runs seen, in the unit in which {component} is stored. {BAND}{note}"
        plots.append(Plot(f"error-of-{component}", f"Error of {component}", caption, drawn))
    return plots


def divergence(rows: Sequence[Row], metric: str, look: Mapping[str, Style]) -> Plot:
    """Mean |divergence| of the roll-outs over the data error, beside that of the same frames of the truth."""
    kept, note = few(rows, metric)
    recorded = any("divergence_future" in row.metrics for row in kept)
    return Plot(
        "divergence",
        "Divergence of the forecasts",
        "Mean |div u| over all rolled-out steps, on the stencil of the grid (faces of a staggered cell, central"
        " differences at cell centres). The flows are incompressible: that of the truth is the error of the stencil."
        f" {BAND}{note}",
        beside_truth(kept, "divergence_future", "divergence_truth_future", look) if recorded else None,
        reason=missing(rows) if recorded else "no finished record has the numbers for it; older records lack them",
    )


def pareto(rows: Sequence[Row], metric: str, look: Mapping[str, Style], where: str) -> list[Plot]:
    """`metric` against each cost, with the Pareto front."""
    return [_pareto(rows, metric, look, where, cost) for cost in COSTS]


def _pareto(
    rows: Sequence[Row], metric: str, look: Mapping[str, Style], where: str, axis: tuple[str, float, str]
) -> Plot:
    cost, divisor, cost_label = axis
    measured = [row for row in rows if metric in row.metrics and cost in row.metrics and row.metrics[cost].mean > 0]
    front = pareto_front([row for row in measured if row.ranks(metric)], cost, metric)
    named = {id(row) for row in few(measured, metric)[0]} | {id(row) for row in front}
    series = []
    for row in measured:
        value, style = row.metrics[metric], look[row.label]
        low, high = ends([value])
        place = [row.metrics[cost].mean / divisor]
        name = row.label if id(row) in named and len(named) <= 24 else ""
        hints = [hint(row.label, row.level, value)]
        series.append(Series(name, place, [value.mean], style, low, high, hints))
    steps = [(row.metrics[cost].mean / divisor, row.metrics[metric].mean) for row in front]
    if len(steps) > 1:
        series.insert(0, Series("", [x for x, _ in steps], [y for _, y in steps], DASHED))
    return Plot(
        f"pareto-{cost.replace('_', '-')}",
        f"{METRICS[metric].title} against {cost_label.partition(' (')[0]}",
        f"At {where}. Dashed: the Pareto front, the models that no other beats in both; models that lack a seed are not"
        " on it. Bars: 95 % bootstrap interval over seeds.",
        chart(series, Axis(cost_label, log=True), axis_of(rows, metric)),
        reason=NOT_MEASURED.get(cost, Plot.reason),
        folded=cost == "flops",
    )


def pareto_front(rows: Sequence[Row], cost: str, metric: str) -> list[Row]:
    """Rows that no other row beats in both, or in one while equal in the other; the cheapest first."""

    def merit(row: Row) -> float:
        return METRICS[metric].merit(row.metrics[metric].mean)

    ranked = sorted(rows, key=lambda row: (row.metrics[cost].mean, merit(row), row.label))
    front: list[Row] = []
    for row in ranked:
        if not front or merit(row) < merit(front[-1]):
            front.append(row)
    return front


def _curves(
    rows: Sequence[Row], curve: str, look: Mapping[str, Style], x: Axis, y: Axis, others: Sequence[Series] = ()
) -> str | None:
    series = []
    for row in sorted((row for row in rows if curve in row.curves), key=lambda row: row.label):
        values, style = row.curves[curve], look[row.label]
        low, high = ends(values)
        style = style if len(values) <= 24 else replace(style, marker="")
        series.append(Series(row.label, list(_numbers(values)), [v.mean for v in values], style, low, high))
    return chart([*others, *series], x, y, from_zero=True) if series else None


def _numbers(values: Sequence[Statistic]) -> range:
    return range(1, len(values) + 1)
