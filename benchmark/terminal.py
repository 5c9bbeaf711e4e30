"""How the commands speak: help with an example, tables, JSON, durations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

NEVER_WRAPPED = {"id", "name", "dataset", "model", "state"}
"""Columns that a person copies from."""
LINE_SECONDS = 30.0
"""Where there is no terminal, a line of progress this often."""
LONG_TABLE = 500
"""Rows beyond which a table is laid out plainly: rich takes a millisecond for each."""


class Examples(click.Command):
    """A command whose help ends with an example, printed as it stands."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            with formatter.section("Example"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


def print_json(document: Any) -> None:
    """For programs: one document on stdout."""
    click.echo(json.dumps(document, indent=1))


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """For people: the keys of the first row are the headings; nothing in a cell is taken for markup."""
    if len(rows) > LONG_TABLE:
        _print_long_table(title, rows)
        return
    table = titled(title)
    for key in rows[0] if rows else ():
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=key in NEVER_WRAPPED)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console().print(table)


def titled(title: str) -> Table:
    """An empty table in the look of every command."""
    heading = Text(title, style="bold")
    return Table(title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _print_long_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Aligned columns and no more, each as wide as its widest value."""
    lines = [[key.replace("_", " ") for key in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    told = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    click.echo("\n".join((click.style(title, bold=True), *told)))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show what is done of a total: a bar with the time left on a terminal, a line now and then in a log."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    started = said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done and now - said >= LINE_SECONDS:
            said = now
            left = (now - started) * (total - done) / done
            click.echo(f"{label}: {100 * done / total:.0f} %, about {left:.0f} s left", err=True)

    yield say


def one_line(text: str) -> str:
    """Without control characters, which neither a terminal nor XML should get."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def console() -> Console:
    """As wide as the terminal; where there is none, wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 120)


def duration(seconds: float) -> str:
    """Rounded as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
