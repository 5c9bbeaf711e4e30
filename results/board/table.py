"""The leaderboard as tables for the terminal."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from textwrap import fill

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from benchmark.terminal import titled
from results.board.contests import BoardTests, claim
from results.board.differences import provenance_notes
from results.board.leaderboard import best
from results.board.notes import paper_notes, symmetry_notes, unit_of
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
NARROW, NARROWEST, GAP = 20, 8, 2
"""Width of the column of models before other columns give way, and its least; space between two columns."""


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
        self.tests = BoardTests(rows, metric)
        self.numbers = {name: self._numbers(name) for name in self.columns}
        self.heads = {
            name: f"{fill(METRICS[name].title, 12)}\n{unit_of(name, [rows[0].dataset])}" for name in self.columns
        }
        self.groups = [letters[:4] for letters in self.tests.letters]
        self.seeds = [f"{row.count('done')}/{len(row.seeds)}" for row in rows]

    def _numbers(self, name: str) -> list[str]:
        """Column of a metric; the skill beside its RMSE is short."""
        if name == SKILL != self.metric:
            return [f"{row.metrics[name].mean:.3f}" if name in row.metrics else "-" for row in self.rows]
        return written_numbers(self.rows, name)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, width = self._fitting(options.max_width)
        yield Text(self._title(), style="bold")
        yield from (Text(_hanging(line, options.max_width)) for line in (*self.tests.family_leads, *self._verdicts()))
        yield from self._table(shown, width)
        if hidden := [METRICS[name].title for name in self.columns if name not in shown]:
            yield Text(f"Hidden in this narrow terminal: {', '.join(hidden)}.\n", style="dim")

    def _verdicts(self) -> list[str]:
        """A sentence for each contest that has a result, and one for the others."""
        lines = [one.sentence(self.metric) for one in self.tests.verdicts if one.best is not None]
        waiting = [str(one.example.level) for one in self.tests.verdicts if one.best is None]
        return [*lines, f"level {', '.join(waiting)}: no model has finished all its seeds"] if waiting else lines

    def _fitting(self, width: int) -> tuple[list[str], int]:
        """Columns that fit beside the models, and the width that they leave for the names of the models."""
        widths = {n: max(map(len, (*self.heads[n].split("\n"), *self.numbers[n]))) + GAP for n in self.columns}
        room = width - NARROW - max(len("Seeds"), *map(len, self.seeds)) - GAP
        room -= len("Verdict") + GAP if any(self.groups) else 0
        shown, optional = list(self.columns), [name for name in self.columns if name != self.metric]
        while optional and sum(widths[name] for name in shown) > room:
            shown.remove(optional.pop())
        return shown, max(NARROWEST, NARROW - GAP + room - sum(widths[name] for name in shown))

    def _title(self) -> str:
        first = self.rows[0]
        terms = f"{first.terms}, " if self.tests.one_protocol else ""
        return f"{first.dataset} ({first.size}), {terms}{first.test_words}: {METRICS[self.metric].title}"

    def _heading(self, row: Row) -> str:
        return f"level {row.level}" + ("" if self.tests.one_protocol else f", {row.terms}")

    def _table(self, shown: Sequence[str], width: int) -> Iterator[Text]:
        """Lines of the table, laid out here: rich's Table takes a millisecond a row."""
        sure = self.tests.sure_winners
        names = [
            [(part, "bold green" if index in sure else "") for part in _folded(row.marked, width)]
            + [(part, "yellow") for part in _folded(row.remark, width)]
            for index, row in enumerate(self.rows)
        ]
        winners = {name: best(self.rows, name) for name in {self.metric, "rmse_future", "rmse_domain"}}
        columns = [(self.heads[name].split("\n"), self.numbers[name], winners.get(name, ())) for name in shown]
        columns.append((["Seeds"], self.seeds, ()))
        widest = max(cell_len(part) for name in names for part, _ in name)
        widths = [max(map(len, (*head, *numbers))) for head, numbers, _ in columns]

        def line(name: str, style: str, numbers: Iterable[tuple[str, str]] = (), verdict: str = "") -> Text:
            parts = ((f"{'':{GAP}}{text:>{width}}", own) for (text, own), width in zip(numbers, widths, strict=False))
            return Text.assemble((f" {name}{' ' * (widest - cell_len(name))}", style), *parts, (f"  {verdict}", style))

        verdict = "Verdict" if any(self.groups) else ""
        heads = zip_longest(["Model"], *(head[::-1] for head, _, _ in columns), fillvalue="")  # the lowest line first
        yield Text()
        for first, *others in [*heads][::-1]:
            yield line(first, "bold", [(text, "bold") for text in others], verdict if first else "")
        yield Text(f" {'─' * (widest + sum(widths) + GAP * len(widths) + (GAP + len(verdict) if verdict else 0))}")
        for heading, level in groupby(enumerate(self.rows), key=lambda item: self._heading(item[1])):
            yield line(heading, "bold")
            for index, _ in level:
                numbers = [(texts[index], "bold" if index in bold else "") for _, texts, bold in columns]
                yield line(*names[index][0], numbers, self.groups[index])
                yield from (line(*part) for part in names[index][1:])
            yield Text()


def _hanging(sentence: str, width: int) -> str:
    """A sentence on lines of `width`, all but the first indented; a number stays beside its percent sign."""
    bound = sentence.replace(" %", "\N{NO-BREAK SPACE}%")
    return fill(bound, width, subsequent_indent="  ", break_on_hyphens=False).replace("\N{NO-BREAK SPACE}", " ")


def _folded(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken after an underscore or a space where there is one."""
    lines = [""] if text else []
    for part in re.findall(rf"[^_ ]{{0,{width - 1}}}[_ ]|[^_ ]{{1,{width}}}", text):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


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
