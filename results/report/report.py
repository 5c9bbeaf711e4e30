"""The board as one HTML file that needs nothing but a browser: same records, same bytes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmark.suite.suite import Suite
from results.board.leaderboard import aggregate, best, letters_of
from results.board.literature import beside
from results.board.quantities import METRICS, Statistic, written, written_statistic
from results.board.reproduce import Commands
from results.board.row import Row
from results.board.standings import overall
from results.board.table import estimate
from results.board.tuning_ledger import HEADINGS, ledger_row, tuning_ledger, unequal_tuning, untuned_models
from results.board.verdicts import Verdict, sure, verdicts
from results.figures import figures, rollouts, views_flow, views_symmetry, views_weights
from results.figures.figures import Plot
from results.figures.plot import standalone
from results.figures.study_figures import figures_of as study_figures
from results.report.export import SHOWN
from results.statistics.bootstrap import range_coverage
from results.store.record import Broken, Record
from results.store.store import Store
from results.store.studies import begun_studies, readable_trials

MORE_COLUMNS = (
    "vrmse_future",
    "vrmse_domain",
    "rollout_equivariance_error",
    "spectrum_error_future",
    "divergence_future",
    "samples_per_second",
    "peak_memory_bytes",
    "training_seconds",
    "best_epoch",
)
MOST_DETAILED = 400
"""Rows, beyond which the page keeps to SHOWN and to the ids of the records."""
MOST_PANELS = 12
"""Datasets, each under one protocol, whose figures are drawn; the page says so of the others."""
MOST_STANDINGS = 60
MOST_STUDIES = 12
"""Studies whose figures are drawn; the page says so of the others."""
PROVENANCE = ("symbench", "git_commit", "python", "torch", "device", "world_size", "host", "data_file", "data_checksum")


@dataclass(frozen=True)
class Panel:
    """What is shown of one dataset under one protocol."""

    heading: str
    plots: Sequence[Plot]
    published: Sequence[Any]


def render(
    store: Store,
    suite: Suite,
    records: Mapping[str, Record],
    broken: Sequence[Broken],
    metric: str = "rmse_future",
    baseline: str | None = None,
    panels: Sequence[Panel] | None = None,
) -> str:
    """The whole page; `panels` where the caller has them. UserError: no such metric, no such baseline."""
    rows = aggregate(suite.cells, records, metric)
    detailed = len(rows) <= MOST_DETAILED
    columns = [*SHOWN, *(MORE_COLUMNS if detailed else ())]
    columns += [] if metric in columns else [metric]
    columns = [name for name in columns if name in SHOWN or any(name in row.metrics for row in rows)]
    commands = Commands(suite)
    standings = overall(rows, metric, baseline)
    environment = Environment(
        loader=PackageLoader("results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # ours alone: `plot` escapes every name in it
    return environment.get_template("report.html").render(
        suite=suite.name,
        metric_name=metric,
        metric=METRICS[metric],
        columns=[(name, METRICS[name]) for name in columns],
        rows=rows,
        detailed=detailed,
        most_detailed=MOST_DETAILED,
        winners={name: best(rows, name) for name in ("rmse_future", "rmse_domain", metric)},
        groups=letters_of(rows, metric),
        cell=_cell,
        verdicts=[_told_verdict(verdict, metric) for verdict in verdicts(rows, metric)],
        standings=standings,
        most_standings=MOST_STANDINGS,
        estimate=estimate,
        written=written,
        written_statistic=written_statistic,
        commands=commands,
        panels=panels_of(rows, records, metric) if panels is None else panels,
        left_out=untuned_models(suite),
        panels_left=max(0, len({_figured(row) for row in rows}) - MOST_PANELS),
        tuning=_tuning(suite, records, store),
        broken=[(_below(broken_one.folder, store), broken_one.reason) for broken_one in broken],
        provenance=_provenance(records[cell.id] for cell in suite.cells if cell.id in records),
        provenance_keys=PROVENANCE,
    )


def _tuning(suite: Suite, records: Mapping[str, Record], store: Store) -> dict[str, Any] | None:
    """What the page shows of tuning; None where nothing of the board is tuned."""
    ledger = tuning_ledger(suite, records, store)
    if not ledger:
        return None
    folders, warnings = begun_studies(suite, store)
    finished = [folder for folder in folders if folder.result_path.exists()]
    plots: list[Plot] = []
    for folder in finished[:MOST_STUDIES]:
        trials, message = readable_trials(folder)
        plots += study_figures(folder.study, [trial for trial in trials if trial.closed])
        warnings += [message] if message else []
    return {
        "headings": HEADINGS,
        "lines": [ledger_row(line) for line in ledger],
        "warnings": [*unequal_tuning(ledger), *warnings],
        "plots": plots,
        "left": max(0, len(finished) - MOST_STUDIES),
    }


def figures_of(panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """Every figure of the board as (stem of a file name, SVG document that stands alone)."""
    found = []
    for panel in panels:
        stem = re.sub(r"[^a-z0-9]+", "-", panel.heading.lower()).strip("-")
        found += [(f"{stem}-{plot.key}", standalone(plot.svg)) for plot in panel.plots if plot.svg is not None]
    return found


def panels_of(rows: Sequence[Row], records: Mapping[str, Record], metric: str = "rmse_future") -> list[Panel]:
    """The figures of the board; to draw them is most of the work of a page."""
    found: list[Panel] = []
    look = figures.styles(rows)
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    protocols: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[_figured(row)].append(row)
        protocols[row.panel][row.contest[-1]] = row.protocol
    for members in list(groups.values())[:MOST_PANELS]:
        name, preset, grid = members[0].panel
        told = _apart(members[0].protocol, list(protocols[members[0].panel].values()))
        heading = f"{name} ({', '.join((preset, grid, *told))})"
        found.append(Panel(heading, _plots(members, look, records, metric), beside(members)))
    return found


def _figured(row: Row) -> tuple[Any, ...]:
    """What stands in one set of figures: rows of another protocol are asked something else."""
    return (*row.panel, row.contest[-1])


def _apart(protocol: Mapping[str, Any], all_of_them: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those settings of `protocol` that tell it from the others; none where there is only one."""
    return [f"{key} {value}" for key, value in protocol.items() if any(one.get(key) != value for one in all_of_them)]


def _plots(
    rows: Sequence[Row], look: Mapping[str, figures.Style], records: Mapping[str, Record], metric: str
) -> list[Plot]:
    """The figures of one dataset, in the styles of the whole board."""
    most = max(rows, key=_data_error).level
    last = [row for row in rows if row.level == most]
    one_level = len({row.level for row in rows}) == 1
    where = f"level {most}" if one_level else f"level {most}, where the data break the symmetry most"
    plots = [views_symmetry.error_of_models(rows, metric, look)]
    measured = {(row.family, row.label) for row in rows if metric in row.metrics}
    if len(measured) > len({family for family, _ in measured}):
        plots.append(views_symmetry.error_of_families(rows, metric))
    plots += [
        views_symmetry.symmetry_kept(rows, metric, look),
        views_symmetry.where_they_cross(rows, metric),
        views_flow.by_step(last, metric, look, where),
        *rollouts.pictures(last, records, where),
        views_flow.spectra(last, metric, look, where),
        views_flow.divergence(rows, metric, look),
        *views_flow.pareto(last, metric, look, where),
        views_weights.pictures(last, records, where),
    ]
    return plots


def _data_error(row: Row) -> float:
    error = row.metrics.get("data_equivariance_error")
    return -1.0 if error is None else error.mean


def _cell(name: str, value: Statistic, seeds: int) -> str:
    """What a number says when it is pointed at: its interval, and what it lacks."""
    metric = METRICS[name]
    told = []
    if metric.prefixed:
        told.append(f"{value.mean:,}")
    elif value.low is not None and value.high is not None and value.std:
        ends = " to ".join(written(end / metric.divisor) for end in (value.low, value.high))
        covers = (
            f"range of {value.n} seeds, covers {100 * range_coverage(value.n):.0f} %"
            if value.n <= 4
            else "95 % interval"
        )
        told.append(f"{ends} ({covers})")
    if value.n < seeds:
        told.append(f"mean over {value.n} of {seeds} seeds")
    return "; ".join(told)


def _told_verdict(verdict: Verdict, metric: str) -> dict[str, Any]:
    """The line of one contest."""
    row = verdict.example
    data = row.metrics.get("data_equivariance_error")
    best_row, second, between = verdict.best, verdict.second, verdict.comparison
    relative = None if between is None else between.relative
    return {
        "where": f"{row.dataset} ({row.preset}, {row.grid}), {row.protocol['name']}",
        "level": row.level,
        "data": "-" if data is None else written(data.mean),
        "best": "-" if best_row is None else best_row.label,
        "number": "-" if best_row is None else best_row.written(metric),
        "second": "-" if second is None else second.label,
        "margin": "-" if relative is None else f"{100 * relative:+.0f} %",
        "difference": "" if between is None else estimate(between.difference),
        "sure": verdict.words,
        "is_sure": verdict.tested and not verdict.alike and sure(between),
    }


def _provenance(records: Iterable[Record]) -> list[tuple[list[str], int]]:
    """Each combination of versions, machine and data found in the records, and in how many of them."""
    found = Counter(tuple(_told(record.environment, key) for key in PROVENANCE) for record in records)
    return [(list(values), count) for values, count in sorted(found.items())]


def _told(environment: Mapping[str, Any], key: str) -> str:
    value = str(environment.get(key, ""))
    return Path(value).name if key == "data_file" else value


def _below(folder: Path, store: Store) -> str:
    return folder.relative_to(store.root).as_posix() if folder.is_relative_to(store.root) else folder.name
