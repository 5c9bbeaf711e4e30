"""The leaderboard as one HTML file without external resources; equal records give equal bytes."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmark.suite.suite import Suite
from results.board.contests import MEMBER, BoardTests, claim, effect_text
from results.board.differences import provenance_notes
from results.board.leaderboard import aggregate, best
from results.board.notes import MARK, paper_notes, storage_of, symmetry_notes, unit_of
from results.board.quantities import METRICS, Statistic, with_neighbours, written, written_error, written_statistic
from results.board.reproduce import Commands
from results.board.row import Row, written_numbers
from results.board.standings import overall
from results.board.table import estimate
from results.board.trivial import first_line, skill_of
from results.board.tuning_ledger import HEADINGS, ledger_row, tuning_ledger, unequal_tuning, untuned_models
from results.figures import rollouts, views_discovery, views_flow, views_symmetry, views_weights
from results.figures.figures import Plot, styles
from results.figures.plot import Style, standalone
from results.figures.study_figures import figures_of as study_figures
from results.report.export import SHOWN
from results.report.literature import Beside, beside
from results.statistics.bootstrap import range_coverage
from results.store.record import Broken, Record
from results.store.store import Store
from results.store.studies import begun_studies, readable_trials

MORE_COLUMNS = (
    "skill_domain",
    "vrmse_future",
    "vrmse_domain",
    "model_equivariance_error_near_walls",
    "rollout_equivariance_error",
    "rollout_equivariance_error_over_change",
    "relaxation",
    "learned_level",
    "spectrum_error_future",
    "divergence_future",
    "samples_per_second",
    "peak_memory_bytes",
    "training_seconds",
    "training_joules",
    "best_epoch",
)
ALWAYS = ("data_equivariance_error", "rmse_future", "rmse_domain", "model_equivariance_error", "parameters", "flops")
"""Columns that a board without any result has, too."""
MOST_DETAILED = 400
"""Rows above which the page has only the columns SHOWN and the ids of the records."""
MOST_PANELS = 12
"""Datasets (each under one protocol) whose figures are drawn; the page counts the others."""
MOST_STANDINGS = 60
MOST_STUDIES = 12
"""Studies whose figures are drawn; the page counts the others."""
PROVENANCE = ("symbench", "git_commit", "python", "torch", "device", "world_size", "host", "data_file", "data_checksum")


@dataclass(frozen=True)
class Panel:
    """Figures and published results of one dataset under one protocol."""

    heading: str
    plots: Sequence[Plot]
    published: Sequence[Beside]


class Report:
    """The report of a suite. Figures and page are made when they are first used.

    UserError (from `html`): no such metric, no such baseline.
    """

    def __init__(
        self,
        store: Store,
        suite: Suite,
        records: Mapping[str, Record],
        broken: Sequence[Broken],
        metric: str = "rmse_future",
        baseline: str | None = None,
    ) -> None:
        self.store, self.suite, self.records, self.broken = store, suite, records, broken
        self.metric, self.baseline = metric, baseline

    @cached_property
    def rows(self) -> list[Row]:
        return aggregate(self.suite.cells, self.records, self.metric, self.suite.budgets)

    @cached_property
    def panels(self) -> list[Panel]:
        return panels_of(self.rows, self.records, self.metric)

    @property
    def svg_figures(self) -> list[tuple[str, str]]:
        """Every figure as (stem of a file name, SVG document)."""
        stems = [re.sub(r"[^a-z0-9]+", "-", panel.heading.lower()).strip("-") for panel in self.panels]
        return [
            (f"{stem}-{plot.key}", standalone(plot.svg, f"{plot.title}, {panel.heading}"))
            for stem, panel in zip(stems, self.panels, strict=True)
            for plot in panel.plots
            if plot.svg is not None
        ]

    @cached_property
    def html(self) -> str:
        """The page."""
        rows, metric, suite = self.rows, self.metric, self.suite
        detailed = len(rows) <= MOST_DETAILED
        columns = with_neighbours([*SHOWN, *(MORE_COLUMNS if detailed else ()), metric])
        recorded = {name for row in rows for name in row.metrics}
        columns = [name for name in columns if name in recorded or name in ALWAYS or name == metric]
        numbers = {name: written_numbers(rows, name) for name in columns}
        datasets = [*dict.fromkeys(row.dataset for row in rows)]
        tests, place = BoardTests(rows, metric), {id(row): index for index, row in enumerate(rows)}
        environment = Environment(
            loader=PackageLoader("results.report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= HELPERS
        environment.filters["svg"] = Markup  # safe: `plot` escapes every name in its SVG
        environment.filters["foldable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))
        return environment.get_template("report.html").render(
            suite=suite.name,
            metric_name=metric,
            metric=METRICS[metric],
            columns=[(name, METRICS[name], unit_of(name, datasets)) for name in columns],
            metric_unit=unit_of(metric, datasets),
            error_meanings=[*dict.fromkeys(storage_of(dataset).error_meaning for dataset in datasets)],
            rows=rows,
            detailed=detailed,
            most_detailed=MOST_DETAILED,
            winners={name: best(rows, name) for name in ("rmse_future", "rmse_domain", metric)},
            groups=tests.letters,
            verdicts=[
                (one, "-" if one.best is None else numbers[metric][place[id(one.best)]]) for one in tests.verdicts
            ],
            leads=tests.family_leads,
            member=MEMBER,
            standings=overall(rows, metric, self.baseline),
            most_standings=MOST_STANDINGS,
            claim=claim(rows, metric),
            numbers=numbers,
            sure=tests.sure_winners,
            commands=Commands(suite),
            panels=self.panels,
            losses=first_line(rows, metric),
            symmetry_notes=symmetry_notes(row.panel for row in rows),
            paper_notes=paper_notes(row.model for row in rows),
            provenance_notes=provenance_notes(rows),
            mark=MARK,
            left_out=untuned_models(suite),
            undrawn_panels=max(0, len({row.figure_key for row in rows}) - MOST_PANELS),
            tuning=_tuning(suite, self.records, self.store),
            broken=[(one.folder.relative_to(self.store.root).as_posix(), one.reason) for one in self.broken],
            provenance=_provenance(self.records[cell.id] for cell in suite.cells if cell.id in self.records),
            provenance_keys=PROVENANCE,
        )


def _tuning(suite: Suite, records: Mapping[str, Record], store: Store) -> dict[str, Any] | None:
    """Content of the section on tuning; None if nothing of the board is tuned."""
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
        "warnings": [*suite.edited, *unequal_tuning(ledger), *warnings],
        "plots": plots,
        "undrawn": max(0, len(finished) - MOST_STUDIES),
    }


def panels_of(rows: Sequence[Row], records: Mapping[str, Record], metric: str) -> list[Panel]:
    """The figures of the board; drawing them takes most of the time of a page."""
    look = styles(rows)
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    one_name = len({row.protocol["name"] for row in rows}) == 1
    for row in rows:
        groups[row.figure_key].append(row)
    panels = []
    for members in list(groups.values())[:MOST_PANELS]:
        first = members[0]
        name = "" if one_name else first.protocol["name"]
        heading = f"{first.dataset} ({', '.join(filter(None, (first.size, name, *first.varied, first.budget)))})"
        panels.append(Panel(heading, _plots(members, look, records, metric), beside(members)))
    return panels


def _plots(rows: Sequence[Row], look: Mapping[str, Style], records: Mapping[str, Record], metric: str) -> list[Plot]:
    """The figures of one dataset, in the styles of the board."""
    errors = [row.metrics.get("data_equivariance_error") for row in rows]
    most = max(zip(rows, errors, strict=True), key=lambda pair: -1.0 if pair[1] is None else pair[1].mean)[0].level
    last = [row for row in rows if row.level == most]
    least = min(zip(rows, errors, strict=True), key=lambda pair: inf if pair[1] is None else pair[1].mean)[0].level
    first = [row for row in rows if row.level == least != most]
    one_level = len({row.level for row in rows}) == 1
    where = f"level {most}" if one_level else f"level {most}, where the data break the symmetry most"
    plots = [views_symmetry.error_of_models(rows, metric, look)]
    skill = skill_of(metric)
    if any(skill in row.metrics for row in rows):
        plots.append(views_symmetry.error_of_models(rows, skill, look))
    measured = {(row.family, row.label) for row in rows if metric in row.metrics}
    if len(measured) > len({family for family, _ in measured}):
        plots.append(views_symmetry.error_of_families(rows, metric))
    plots += [
        *views_discovery.learned_level(rows, metric, look),
        *views_discovery.learned_field(rows, metric, look),
        views_symmetry.symmetry_kept(rows, metric, look),
        views_symmetry.where_they_cross(rows, metric),
        views_flow.by_step(last, metric, look, where),
        *rollouts.pictures(last, records, where),
    ]
    on_grid = storage_of(rows[0].dataset).on_grid
    if on_grid:
        plots += views_flow.component_errors(rows, metric, look)
        plots += [views_flow.spectra(last, metric, look, where), views_flow.divergence(rows, metric, look)]
    plots += views_flow.pareto(last, metric, look, where)
    return [*plots, views_weights.pictures(last, first, records, where)] if on_grid else plots


def _tooltip(name: str, value: Statistic, seeds: int) -> str:
    """Tooltip of a number: its interval, and the number of seeds if some are missing."""
    metric = METRICS[name]
    texts = []
    if metric.prefixed:
        texts.append(f"{value.mean:,}")
    elif value.low is not None and value.high is not None and value.std:
        ends = " to ".join(written(end / metric.divisor) for end in (value.low, value.high))
        covers = (
            f"range of {value.n} seeds, covers {100 * range_coverage(value.n):.0f} %"
            if value.n <= 4
            else "95 % interval"
        )
        texts.append(f"{ends} ({covers})")
    if value.n < seeds:
        texts.append(f"mean over {value.n} of {seeds} seeds")
    return "; ".join(texts)


def _provenance(records: Iterable[Record]) -> list[tuple[list[str], int]]:
    """Combinations of versions, machine and data, each with the number of its records."""
    counts = Counter(tuple(str(record.environment.get(key, "")) for key in PROVENANCE) for record in records)
    return [(list(values), count) for values, count in sorted(counts.items())]


HELPERS = {
    **{"tooltip": _tooltip, "estimate": estimate, "effect_text": effect_text},
    **{"written": written, "written_error": written_error, "written_statistic": written_statistic},
}
"""Functions that the template calls."""
