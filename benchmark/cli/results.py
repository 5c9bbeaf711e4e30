"""`symbench leaderboard`, `compare` and `publish`: boards of results and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmark.cli.options import (
    Selection,
    complete_suites,
    json_option,
    name_broken,
    only_option,
    selecting,
    set_option,
    tuned_option,
    whole_suite,
)
from benchmark.errors import UserError, unknown_name
from benchmark.files import write_text
from benchmark.suite import loading as suites
from benchmark.terminal import Examples, console, print_json, print_table

if TYPE_CHECKING:
    from benchmark.suite.suite import Suite
    from results.store.record import Record
    from results.store.store import Store

_FILE = click.Path(dir_okay=False, allow_dash=True)


@click.command(
    cls=Examples,
    epilog="symbench leaderboard    # the suites that the store has run\n"
    "symbench leaderboard quickstart --metric rmse_domain --html board.html\n"
    "symbench leaderboard quickstart --latex -",
)
@selecting(
    click.argument("suite", required=False, default="", shell_complete=complete_suites),
    *(only_option, set_option, tuned_option),
)
@json_option
@click.option("--metric", default="rmse_future", show_default=True, help="Metric that ranks the models.")
@click.option("--baseline", help="Reference model for the comparison over levels (default: convnet or gnn).")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report, one HTML file.")
@click.option("--csv", type=_FILE, help="Also write all numbers as CSV; - prints them instead of the tables.")
@click.option("--latex", type=_FILE, help="Also write the tables in LaTeX (booktabs); - as above.")
@click.option("--markdown", type=_FILE, help="Also write the tables in Markdown; - as above.")
def leaderboard(
    selection: Selection, as_json: bool, metric: str, baseline: str | None, html: Path | None, **exports: str | None
) -> None:
    """Rank the models of SUITE: mean and standard deviation over seeds, for each level."""
    from results.board.leaderboard import aggregate, to_json
    from results.board.standings import MOST_STANDING, overall
    from results.board.table import standings_table, to_table
    from results.report.export import FORMATS

    store = selection.existing_store
    if not selection.suite:
        _show_suites(store, as_json)
        return
    loaded = selection.load(skip_untuned=True)
    if as_json + list(exports.values()).count("-") > 1:
        raise UserError("--json, --csv -, --latex - and --markdown -: only one of them can have the standard output")
    records, broken = store.read(loaded.cells, history=False)
    name_broken(broken)
    rows = aggregate(loaded.cells, records, metric, loaded.budgets)
    for kind, target in exports.items():  # files before tables: a pipe to `head` ends the command
        if target is not None and target != "-":
            write_text(Path(target), FORMATS[kind](rows, metric))
            click.echo(f"wrote {target}", err=True)
    if html is not None:
        from results.report.report import Report  # its figures need matplotlib, which takes a second

        write_text(html, Report(store, loaded, records, broken, metric, baseline).html)
        click.echo(f"wrote {html}", err=True)
    if as_json:
        print_json(to_json(rows))
    elif "-" not in exports.values():
        console().print(to_table(rows, metric))
        if baseline is not None or len(rows) <= MOST_STANDING:
            console().print(standings_table(overall(rows, metric, baseline)))
    _show_tuning(loaded, records, store, with_ledger=not as_json and "-" not in exports.values())
    for kind in (kind for kind, target in exports.items() if target == "-"):
        click.echo(FORMATS[kind](rows, metric), nl=False)


def _show_suites(store: Store, as_json: bool) -> None:
    """The suites of symbench, and those with overrides, of which the store has a cell."""
    present = {path.name for path in (store.root / "cells").glob("*")}
    names = [*suites.available(), *suites.kept(store.root)]
    cells = {name: suites.load(name, store.root, skip_untuned=True).cells for name in names}
    rows = [
        {"suite": name, "begun": sum(cell.id in present for cell in members), "cells": len(members)}
        for name, members in cells.items()
        if any(cell.id in present for cell in members)
    ]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(str(store.root), rows)
    else:
        click.echo(f"store {store.root}: no cell of a suite that `symbench list suites` names")


def _show_tuning(suite: Suite, records: Mapping[str, Record], store: Store, with_ledger: bool) -> None:
    from results.board.tuning_ledger import ledger_table, tuning_ledger, unequal_tuning, untuned_models

    ledger = tuning_ledger(suite, records, store) if with_ledger else []
    if ledger:
        console().print(ledger_table(ledger))
    for line in (*unequal_tuning(ledger), untuned_models(suite)):
        if line:
            click.echo(line, err=True)


@click.command(
    cls=Examples,
    epilog="symbench compare convnet e2cnn --suite quickstart    # two models of a suite\n"
    "symbench compare convnet 'relaxed_steerable_rotation penalty=0.0' --suite quickstart --json\n"
    "symbench compare my-levels.yaml my-levels-longer.yaml    # two suites in one store\n"
    "symbench compare runs /shared/runs --suite quickstart    # two stores",
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@selecting(
    click.option(
        "--suite",
        default="",
        help="Suite of the models, or of the stores, A and B; without it A and B are suites.",
    ),
    only_option,
    tuned_option,
)
@click.option("--metric", default="rmse_future", show_default=True, help="Metric of the comparison.")
@json_option
def compare(selection: Selection, first: str, second: str, metric: str, as_json: bool) -> None:
    """Show the differences between A and B, and whether their results differ.

    With --suite, A and B are two of its models, named as the leaderboard labels them, or two folders: stores that
    hold that suite. Without it they are two suites, whose common models are compared on their common tasks.

    A and B are paired by level. The interval of A against B is adjusted as p is (Holm): for all pairs of the contest,
    as on the board, or for the number of lines if A and B are suites or stores. Below 0.05 the better one is named.
    P(A better) is the probability that a seed of A beats one of B. With one seed each there is no test.
    """
    from results.board import compare as comparing
    from results.board.compare_table import to_table
    from results.store.store import Store

    store = selection.store
    if not selection.suite:
        known = [*suites.available(), *suites.kept(store.root)]
        for name in (first, second):
            if name not in known and not Path(name).exists():
                raise UserError(
                    f"{unknown_name('suite', name, known)}; two models, or two stores, are compared with --suite SUITE"
                )
        one, other = (replace(selection, suite=name).load(skip_untuned=True) for name in (first, second))
        compared = comparing.suites(one, other, store, metric)
    elif Path(first).is_dir() and Path(second).is_dir():
        compared = comparing.stores(selection.load(skip_untuned=True), Store(Path(first)), Store(Path(second)), metric)
    else:
        compared = comparing.models(selection.load(skip_untuned=True), store, first, second, metric)
    name_broken((*compared.first.broken, *(one for one in compared.second.broken if one not in compared.first.broken)))
    if as_json:
        print_json(comparing.to_json(compared))
    else:
        console().print(to_table(compared))


@click.command(
    cls=Examples,
    epilog="symbench publish quickstart\nsymbench publish quickstart --into /tmp/boards    # to look at it",
)
@whole_suite
@click.option("--metric", default="rmse_future", show_default=True, help="Metric of the tables.")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), help="Another folder; README.md then stays as it is."
)
def publish(selection: Selection, metric: str, into: Path | None) -> None:
    """Write the board of SUITE into results/published/, to be committed: JSON, Markdown, and where it comes from.

    README.md lists the boards, each with the first sentence of its suite. A board names what is missing, and leaves
    nothing out.
    """
    from results.report import publish as publishing

    folder, readme = (publishing.PUBLISHED_FOLDER, publishing.README) if into is None else (into, None)
    published = publishing.publish(selection.store, selection.load(), folder, readme, metric)
    name_broken(published.broken)
    for path in published.files:
        click.echo(f"wrote {path}")
    if published.unfinished:
        states = ", ".join(f"{count} {state}" for state, count in published.unfinished.items())
        click.echo(f"not done: {states}; the board lists them")


COMMANDS = (leaderboard, compare, publish)
