"""The leaderboard as tables for the terminal."""

import re
from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from benchmark.terminal import titled
from results.board.contests import claim, family_leads, letters_of, sure_winners, verdicts
from results.board.differences import provenance_notes
from results.board.leaderboard import best
from results.board.notes import paper_notes, symmetry_notes
from results.board.quantities import METRICS, symmetry_metric, with_neighbours, written
from results.board.row import Row, written_numbers
from results.board.standings import Standings
from results.board.trivial import first_line
from results.statistics.bootstrap import Estimate

COLUMNS = ("rmse_future", "skill_future", "rmse_domain", "model_equivariance_error", "parameters", "flops")
SKILL, REPLACEABLE = "skill_future", "model_equivariance_error"
"""Skill beside its RMSE; column that is replaced if the board is sorted by one without a column."""
OPTIONAL = (SKILL, *(metric.beside for metric in METRICS.values() if metric.beside))
"""Columns that are left out if no row has them."""
NARROW, GAP = 20, 2
"""Least width of the column of models with the table's edges; space between two columns."""


def to_table(rows: Sequence[Row], metric: str = "rmse_future") -> Group:
    """A table for each dataset, with the best number of each level in bold; a winner that is sure has a green name."""
    tables = [_Panel(list(members), metric) for _, members in groupby(rows, key=lambda row: row.panel)]
    note = "± is one standard deviation over seeds."
    if any(group for table in tables for group in table.groups):
        note += " Bold: the best; green: it is sure. Models of a level that share a letter do not differ"
        note += " significantly (5 %)."
        note += f" {claim(rows, metric)}"
    losses = first_line(rows, metric)
    above = [Text(f"{losses}\n", style="yellow")] if losses else []
    below = [Text(f"{text}\n", style="yellow") for text in symmetry_notes(row.panel for row in rows)]
    below += [Text(f"{text}\n", style="dim") for text in paper_notes(row.model for row in rows)]
    below += [Text(f"{text}\n", style="yellow") for text in provenance_notes(rows)]
    return Group(*above, *tables, *below, Text(f"{note}\n", style="dim"))


class _Panel:
    """Table of one dataset. A narrow terminal gets fewer columns, but always that of `metric`, and their names."""

    def __init__(self, rows: Sequence[Row], metric: str) -> None:
        self.rows, self.metric = rows, metric
        recorded = {name for row in rows for name in row.metrics}
        replacing = symmetry_metric(recorded) if metric in COLUMNS else metric
        columns = with_neighbours(replacing if name == REPLACEABLE else name for name in COLUMNS)
        self.columns = [name for name in columns if name in recorded or name not in OPTIONAL or name == metric]
        self.numbers = {name: self._numbers(name) for name in self.columns}
        self.heads = {name: f"{fill(METRICS[name].title, 12)}\n{METRICS[name].unit}" for name in self.columns}
        self.groups = [letters[:4] for letters in letters_of(rows, metric)]
        self.seeds = [f"{row.count('done')}/{len(row.seeds)}" for row in rows]
        self.verdicts = verdicts(rows, metric)
        self.one_protocol = len({row.terms for row in rows}) == 1

    def _numbers(self, name: str) -> list[str]:
        """Column of a metric; the skill beside its RMSE is short."""
        if name == SKILL != self.metric:
            return [f"{row.metrics[name].mean:.3f}" if name in row.metrics else "-" for row in self.rows]
        return written_numbers(self.rows, name)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, width = self._fitting(options.max_width)
        yield Text(self._title(), style="bold")
        yield from map(Text, [*family_leads(self.rows, self.metric), *self._verdicts()])
        yield self._table(shown, width)
        if hidden := [METRICS[name].title for name in self.columns if name not in shown]:
            yield Text(f"Hidden in this narrow terminal: {', '.join(hidden)}.\n", style="dim")

    def _verdicts(self) -> list[str]:
        """A sentence for each contest that has a result, and one for the others."""
        lines = [one.sentence(self.metric) for one in self.verdicts if one.best is not None]
        waiting = [str(one.example.level) for one in self.verdicts if one.best is None]
        return [*lines, f"level {', '.join(waiting)}: no model has finished all its seeds"] if waiting else lines

    def _fitting(self, width: int) -> tuple[list[str], int]:
        """Columns that fit beside the models, and the width that they leave for the names of the models."""
        widths = {n: max(map(len, (*self.heads[n].split("\n"), *self.numbers[n]))) + GAP for n in self.columns}
        room = width - NARROW - max(len("Seeds"), *map(len, self.seeds)) - GAP
        room -= len("Verdict") + GAP if any(self.groups) else 0
        shown, optional = list(self.columns), [name for name in self.columns if name != self.metric]
        while optional and sum(widths[name] for name in shown) > room:
            shown.remove(optional.pop())
        return shown, NARROW - GAP + max(0, room - sum(widths[name] for name in shown))

    def _title(self) -> str:
        dataset, preset, grid = self.rows[0].panel
        runs = self.rows[0].test_runs or "unknown"
        terms = f"{self.rows[0].terms}, " if self.one_protocol else ""
        return f"{dataset} ({preset}, {grid}), {terms}{runs} test runs: {METRICS[self.metric].title}"

    def _heading(self, row: Row) -> str:
        return f"level {row.level}" + ("" if self.one_protocol else f", {row.terms}")

    def _table(self, shown: Sequence[str], width: int) -> Table:
        table = titled("")
        table.add_column("Model", overflow="fold")
        for name in shown:
            table.add_column(self.heads[name], justify="right", no_wrap=True)
        table.add_column("Seeds", justify="right", no_wrap=True)
        if any(self.groups):
            table.add_column("Verdict", no_wrap=True)
        sure = sure_winners(self.rows, self.verdicts)
        winners = {name: best(self.rows, name) for name in {self.metric, "rmse_future", "rmse_domain"}}
        for heading, level in groupby(enumerate(self.rows), key=lambda item: self._heading(item[1])):
            if table.row_count:
                table.add_row()
            table.add_row(Text(heading, style="bold"))
            for index, row in level:
                remark = f"\n{row.remark}" if row.remark else ""
                numbers = (
                    Text(self.numbers[name][index], "bold" if index in winners.get(name, ()) else "") for name in shown
                )
                label = Text.assemble(
                    (_folded(row.marked, width), "bold green" if index in sure else ""), (remark, "yellow")
                )
                table.add_row(label, *numbers, self.seeds[index], *([self.groups[index]] if any(self.groups) else []))
        return table


def _folded(label: str, width: int) -> str:
    """A label on lines of at most `width` characters, broken after an underscore where there is one."""
    lines = [""]
    for part in re.split(r"(?<=_)", label):
        lines = [*lines, part] if lines[-1] and len(lines[-1]) + len(part) > width else [*lines[:-1], lines[-1] + part]
    return "\n".join(lines)


def standings_table(standings: Standings) -> RenderableType:
    """Table of the standings over all levels; nothing for a board of one level."""
    if standings.blocks < 2:
        return Group()
    table = titled(f"{METRICS[standings.metric].title} over {standings.blocks} levels")
    table.add_column("Model", overflow="fold", min_width=20)
    skilled = any(one.skill is not None for one in standings.models)
    skill = ["Skill\n(IQM)"] if skilled else []
    for heading in ("Mean\nrank", "Levels", "IQM\n/ baseline", "Better than\nbaseline", *skill, "Diverged,\nmissing"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    for one in standings.models:
        table.add_row(
            Text(one.label),
            written(one.mean_rank) if one.blocks else "-",
            f"{one.blocks}/{standings.blocks}",
            "baseline" if one.label == standings.baseline else estimate(one.relative),
            "" if one.label == standings.baseline else estimate(one.improvement, percent=True),
            *([estimate(one.skill)] if skilled else []),
            f"{one.diverged}, {one.missing}" if one.diverged or one.missing else "",
            one.group[:5],
        )
    return Group(table, Text(f"{standings.reason}\n" if standings.reason else "", style="dim"))


def estimate(value: Estimate | None, percent: bool = False) -> str:
    """`value` with its 95 % interval, such as `0.82 [0.75, 0.90]`; `-` for None."""
    if value is None:
        return "-"
    return value.text(lambda part: f"{100 * part:.0f}") + " %" if percent else value.text("{:.3g}".format)
