"""The board on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .leaderboard import Row, best, letters_of
from .quantities import METRICS, written, written_statistic
from .standing import Standings
from .statistics import Estimate

COLUMNS = ("rmse_future", "rmse_domain", "model_equivariance_error", "parameters", "flops")
GIVES_WAY = "model_equivariance_error"
"""Left out where the board is sorted by a number that is not among them."""
NARROW, NARROWEST, GAP = 20, 8, 2
"""The models' column: others are left out for so much of it, it is never narrower; between two columns."""
HEAD, LEVEL, WINNER, REMARK = (Style.parse(text) for text in ("bold", "bold", "bold green", "yellow"))


@dataclass(frozen=True)
class Line:
    """One row: its model and what is to be said of it, which are folded, and its numbers, which are not."""

    label: str
    remark: str
    numbers: tuple[str, ...]
    winner: tuple[bool, ...]
    seeds: str


@dataclass(frozen=True)
class Board:
    """The table of one dataset. Drawn by hand: rich takes a millisecond for each row of a table of its own.

    In a narrow terminal the last columns are left out, never that of `metric`, and named.
    """

    title: str
    columns: tuple[str, ...]
    metric: str
    levels: tuple[tuple[str, tuple[Line, ...]], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [line for _, members in self.levels for line in members]
        heads = [(*fill(METRICS[name].title, 12).split("\n"), METRICS[name].unit) for name in self.columns]
        widths = [max(map(len, (*head, *(line.numbers[i] for line in lines)))) + GAP for i, head in enumerate(heads)]
        last = max(len("Seeds"), *(len(line.seeds) for line in lines)) + GAP
        shown, may_go = list(range(len(widths))), [i for i, name in enumerate(self.columns) if name != self.metric]
        while options.max_width - last - sum(widths[i] for i in shown) < NARROW and may_go:
            shown.remove(may_go.pop())
        room = options.max_width - last - sum(widths[i] for i in shown)
        first = max(NARROWEST, min(room, max(NARROW, *(cell_len(line.label) + 1 for line in lines))))

        yield Text(self.title, style="italic")
        yield Text()
        tall = max(len(heads[i]) for i in shown)
        for depth in range(-tall, 0):
            words = [heads[i][depth] if len(heads[i]) >= -depth else "" for i in shown]
            ends = ("Model", "Seeds") if depth == -1 else ("", "")
            numbers = "".join(word.rjust(widths[i]) for i, word in zip(shown, words, strict=True))
            yield Segment(f"{ends[0]:{first}}{numbers}{'':{GAP}}{ends[1]}\n", HEAD)
        yield Segment("─" * (first + sum(widths[i] for i in shown) + last) + "\n")
        for heading, members in self.levels:
            yield Segment(f"{heading}\n", LEVEL)
            for line in members:
                told, *rest = _folded(line.label, first - 1, console)
                yield Segment(f" {set_cell_size(told, first - 1)}")
                for i in shown:
                    yield Segment(line.numbers[i].rjust(widths[i]), WINNER if line.winner[i] else None)
                yield Segment(f"{'':{GAP}}{line.seeds}\n")
                yield from (Segment(f" {text}\n") for text in rest)
                if line.remark:
                    yield from (Segment(f" {text}\n", REMARK) for text in _folded(line.remark, first - 1, console))
            yield Segment("\n")
        if len(shown) < len(self.columns):
            gone = ", ".join(METRICS[name].title for i, name in enumerate(self.columns) if i not in shown)
            yield Text(f"Left out for want of width: {gone}.\n", style="dim")


def _folded(text: str, width: int, console: Console) -> list[str]:
    return [text] if cell_len(text) <= width else [line.plain.rstrip() for line in Text(text).wrap(console, width)]


def to_table(rows: Sequence[Row], metric: str = "rmse_future") -> Group:
    """A table for each dataset, its levels apart and the best of each in green; fits 100 columns."""
    columns = COLUMNS if metric in COLUMNS else tuple(metric if name == GIVES_WAY else name for name in COLUMNS)
    groups = letters_of(rows, metric)
    winners = {name: best(rows, name) for name in {metric, "rmse_future", "rmse_domain"}}
    tables: list[RenderableType] = []
    for (dataset, preset, grid), members in groupby(enumerate(rows), key=lambda item: item[1].panel):
        levels = [
            (
                heading,
                tuple(
                    Line(
                        row.label,
                        row.remark,
                        tuple(
                            written_statistic(name, row.metrics[name]) if name in row.metrics else "-"
                            for name in columns
                        ),
                        tuple(index in winners.get(name, ()) for name in columns),
                        f"{row.count('done')}/{len(row.seeds)} {groups[index][:4]}".rstrip(),
                    )
                    for index, row in level
                ),
            )
            for heading, level in groupby(members, key=lambda item: _heading(item[1]))
        ]
        tables.append(Board(f"{dataset} ({preset}, {grid})", columns, metric, tuple(levels)))
    told = "± is one standard deviation over seeds."
    if any(groups):
        told += " Models that share a letter behind their seeds cannot be told apart in their level (5 %)."
    return Group(*tables, Text(f"{told}\n", style="dim"))


def titled(title: str) -> Table:
    """An empty table in the board's look."""
    return Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def standings_table(standings: Standings) -> RenderableType:
    """Over all levels of the board; nothing for a board of one level."""
    if standings.blocks < 2:
        return Group()
    table = titled(f"{METRICS[standings.metric].title} over {standings.blocks} levels")
    table.add_column("Model", overflow="fold", min_width=20)
    for heading in ("Mean\nrank", "Levels", "IQM\n/ baseline", "Better than\nbaseline", "Diverged,\nmissing"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    for one in standings.models:
        table.add_row(
            Text(one.label),
            written(one.mean_rank) if one.blocks else "-",
            f"{one.blocks}/{standings.blocks}",
            "baseline" if one.label == standings.baseline else estimate(one.relative),
            "" if one.label == standings.baseline else estimate(one.improvement, percent=True),
            f"{one.diverged}, {one.missing}" if one.diverged or one.missing else "",
            one.group[:5],
        )
    told = [standings.reason] if standings.reason else []
    if standings.alike is not None:
        told.append(f"that all models with a number in every level are alike: p = {standings.alike:.2g} (Friedman)")
    return Group(table, Text("\n".join([*told, ""]), style="dim"))


def estimate(value: Estimate | None, percent: bool = False) -> str:
    """With its 95 % interval: `0.82 [0.75, 0.90]`."""
    if value is None:
        return "-"
    numbers = [value.value, *(end for end in (value.low, value.high) if end is not None)]
    texts = [f"{100 * number:.0f}" if percent else f"{number:.3g}" for number in numbers]
    unit = " %" if percent else ""
    return texts[0] + unit if len(texts) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]{unit}"


def _heading(row: Row) -> str:
    return f"level {row.level}, {row.protocol['name']}"
