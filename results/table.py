"""The board on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .leaderboard import Row, best, letters_of
from .quantities import METRICS, written, written_statistic
from .standing import Standings
from .statistics import Estimate

COLUMNS = ("rmse_future", "rmse_domain", "model_equivariance_error", "parameters", "flops")
GIVES_WAY = "model_equivariance_error"
"""Left out where the board is sorted by a number that is not among them."""


def to_table(rows: Sequence[Row], metric: str = "rmse_future") -> Group:
    """A table for each dataset, its levels apart and the best of each in bold; fits 100 columns."""
    columns = COLUMNS if metric in COLUMNS else tuple(metric if name == GIVES_WAY else name for name in COLUMNS)
    groups = letters_of(rows, metric)
    winners = {name: best(rows, name) for name in {metric, "rmse_future", "rmse_domain"}}
    tables: list[RenderableType] = []
    for (dataset, preset, grid), members in groupby(enumerate(rows), key=lambda item: item[1].panel):
        table = titled(f"{dataset} ({preset}, {grid})")
        table.add_column("Model", overflow="fold", min_width=20)
        for name in columns:
            table.add_column(f"{fill(METRICS[name].title, 12)}\n{METRICS[name].unit}", justify="right")
        table.add_column("Seeds", no_wrap=True)
        for heading, level in groupby(members, key=lambda item: _heading(item[1])):
            table.add_row(Text(heading, style="bold"))
            for index, row in level:
                numbers = [
                    Text(
                        written_statistic(name, row.metrics[name]) if name in row.metrics else "-",
                        style="bold green" if index in winners.get(name, ()) else "",
                        no_wrap=True,
                    )
                    for name in columns
                ]
                remark = (f"\n {row.remark}", "yellow") if row.remark else ""
                seeds = f"{row.count('done')}/{len(row.seeds)} {groups[index][:4]}".rstrip()
                table.add_row(Text.assemble(" ", row.label, remark), *numbers, seeds)
            table.add_section()
        tables.append(table)
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
