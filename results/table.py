"""The board on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .leaderboard import Row, best
from .quantities import METRICS, written_statistic

COLUMNS = ("rmse_future", "rmse_domain", "model_equivariance_error", "parameters", "flops")
GIVES_WAY = "model_equivariance_error"
"""Left out where the board is sorted by a number that is not among them."""


def to_table(rows: Sequence[Row], metric: str = "rmse_future") -> Group:
    """A table for each dataset, its levels apart and the best of each in bold; fits 100 columns."""
    columns = COLUMNS if metric in COLUMNS else tuple(metric if name == GIVES_WAY else name for name in COLUMNS)
    winners = {name: best(rows, name) for name in {metric, "rmse_future", "rmse_domain"}}
    tables: list[RenderableType] = []
    for (dataset, preset, grid), members in groupby(enumerate(rows), key=lambda item: item[1].panel):
        table = Table(
            title=Text(f"{dataset} ({preset}, {grid})"),
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("Model", overflow="fold", min_width=20)
        for name in columns:
            table.add_column(f"{fill(METRICS[name].title, 12)}\n{METRICS[name].unit}", justify="right")
        table.add_column("Seeds", justify="right", no_wrap=True)
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
                remark = (f"\n  {row.remark}", "yellow") if row.remark else ""
                table.add_row(Text.assemble("  ", row.label, remark), *numbers, f"{row.count('done')}/{len(row.seeds)}")
            table.add_section()
        tables.append(table)
    return Group(*tables)


def _heading(row: Row) -> str:
    return f"level {row.level}, {row.protocol['name']}"
