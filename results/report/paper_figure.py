"""A figure for a paper: a metric against the measured symmetry breaking of the data, with matplotlib."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmark.errors import UserError
from results.board.notes import unit_of
from results.board.quantities import METRICS, SKILLS, require_ranking
from results.board.row import Row
from results.figures.figures import ends, styles
from results.report.frames import rows_of

DATA, FLOOR = "data_equivariance_error", "strict_floor"


def figure(board: str | Path, store: str | Path | None = None, metric: str = "rmse_future") -> Figure:
    """Lines of the models of a published board, or of a suite in `store`, with bootstrap intervals over seeds.

    One axes for each dataset, preset, grid, protocol and budget. x is the measured data equivariance error, as in the
    report; the dashed line is the strict floor. UserError: no such board, suite or metric, or nothing to draw.
    """
    require_ranking(metric)
    panels: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows_of(board, store, metric):
        if metric in row.metrics and DATA in row.metrics:
            panels[row.figure_key].append(row)
    if not panels:
        raise UserError(f"{board}: no row has both {metric} and a measured data error; nothing to draw")
    drawn = Figure(figsize=(6.4 * len(panels), 4.2), layout="constrained")
    for axes, rows in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels.values(), strict=True):
        _draw(axes, rows, metric)
        unit = {name: unit_of(name, {rows[0].dataset}) for name in (DATA, metric)}
        title = f"{rows[0].dataset} ({rows[0].size}), {rows[0].terms}"
        axes.set(title=title, xlabel=f"measured data equivariance error ({unit[DATA]})")
        axes.set_ylabel(f"{METRICS[metric].title} ({unit[metric]})")
        axes.legend(fontsize="small")
    return drawn


def _draw(axes, rows: Sequence[Row], metric: str) -> None:  # type: ignore[no-untyped-def]
    divisor, look = METRICS[metric].divisor, styles(rows)
    for label, style in look.items():
        members = sorted((row for row in rows if row.label == label), key=lambda row: row.metrics[DATA].mean)
        x, values = [row.metrics[DATA].mean for row in members], [row.metrics[metric] for row in members]
        low, high = ends(values)
        dash = tuple(map(float, style.dash.split()))
        face = style.color if style.fill else "none"
        axes.plot(
            *(x, [value.mean / divisor for value in values]),
            **{"color": style.color, "marker": style.marker, "markerfacecolor": face, "label": label},
            linestyle=(0, dash) if dash else "-",
        )
        if low:
            band = ([end / divisor for end in side] for side in (low, high))
            axes.fill_between(x, *band, color=style.color, alpha=0.16, linewidth=0)
    floor = sorted({(row.metrics[DATA].mean, row.metrics[FLOOR].mean) for row in rows if FLOOR in row.metrics})
    if floor and metric in SKILLS.values():
        axes.plot(*zip(*floor, strict=True), "k--", label="strict floor")
