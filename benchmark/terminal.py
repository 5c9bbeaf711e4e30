"""Output of the commands: help with an example, tables, JSON, progress, durations."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

NEVER_WRAPPED = {"id", "name", "dataset", "model", "state"}
"""Columns that are never wrapped, so that they can be copied."""
LINE_SECONDS = 30.0
"""Seconds between lines of progress in a log."""
LONG_TABLE = 500
"""Rows beyond which a table is printed without rich, which takes a millisecond a row."""


class Examples(click.Command):
    """Command whose help ends with an example (`epilog`), printed verbatim."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            with formatter.section("Example"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Commands(click.Group):
    """Group whose help lists the commands in the order of work, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=200)) for name, one in self.commands.items()])


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    click.echo(json.dumps(document, indent=1))


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table. The keys of the first row are the headings; values are plain text, not markup."""
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
    """Empty table in the style of all commands."""
    heading = Text(title, style="bold")
    return Table(title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _print_long_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print aligned columns, each as wide as its widest value."""
    lines = [[key.replace("_", " ") for key in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    aligned = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    click.echo("\n".join((click.style(title, bold=True), *aligned)))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that shows progress: a bar on a terminal, lines now and then in a log."""
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
    started = printed = time.monotonic()

    def print_line(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if done and now - printed >= LINE_SECONDS:
            printed = now
            remaining = (now - started) * (total - done) / done
            click.echo(f"{label}: {100 * done / total:.0f} %, about {remaining:.0f} s left", err=True)

    yield print_line


def without_repetitions(named_texts: Sequence[tuple[str, str]]) -> list[str]:
    """The text of each (name, text); one that stands there already becomes `as NAME`, the name of its first.

    >>> without_repetitions([("a", "no such file"), ("b", "no such file"), ("c", "")])
    ['no such file', 'as a', '']
    """
    first: dict[str, str] = {}
    return [
        text if first.setdefault(text, name) == name or not text else f"as {first[text]}" for name, text in named_texts
    ]


def one_line(text: str) -> str:
    """Text on one line without control characters, safe for a terminal and for XML."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def console() -> Console:
    """Console as wide as the terminal; in a pipe, wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 120)


def size(number: float) -> str:
    """Bytes with a decimal unit: `840 kB`, `1.2 GB`."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while number >= 999.5 and unit != "TB":
        number, unit = number / 1000, next(units)
    return f"{number:.3g} {unit}"


def duration(seconds: float) -> str:
    """Duration in rounded seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
