"""The command line: the one file that knows all rooms.

Imports of torch, phiflow and mlflow take seconds, so a command imports what it needs when it runs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_data import data
from .cli_models import COMMANDS as MODEL_COMMANDS
from .cli_results import COMMANDS as RESULT_COMMANDS
from .cli_results import name_broken
from .cli_run import COMMANDS as RUN_COMMANDS
from .cli_tune import tune
from .errors import SymbenchError, UserError
from .options import json_option, only_option, plugin_option, store_option, suite_argument, tuned_option
from .terminal import Examples, console, print_json, print_table

if TYPE_CHECKING:
    from results.record import Record
    from results.store import Store

    from .suite import Suite

Command = Callable[..., Any]
_FILE = click.Path(dir_okay=False, allow_dash=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="symbench")
def cli() -> None:
    """Benchmark approximately equivariant networks on dynamics.

    A suite names datasets, symmetry-breaking levels, models and seeds; each combination is a cell, trained once.
    """


cli.add_command(data)
cli.add_command(tune)
for one in (*RUN_COMMANDS, *RESULT_COMMANDS, *MODEL_COMMANDS):
    cli.add_command(one)


def command(name: str, *decorators: Callable[[Command], Command], example: str) -> Callable[[Command], Command]:
    """A command of the group with its options and an example in its help."""

    def register(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return cli.command(name, cls=Examples, epilog=example)(function)

    return register


@command(
    "list",
    click.argument("what", type=click.Choice(["models", "datasets", "suites", "sites"]), required=False),
    json_option,
    plugin_option,
    example="symbench list models",
)
def list_(what: str | None, as_json: bool) -> None:
    """Show the models, datasets, suites and sites that there are."""
    from cluster import site as sites

    from . import catalogue

    sections = {
        "models": catalogue.models,
        "datasets": catalogue.datasets,
        "suites": catalogue.suites,
        "sites": sites.rows,
    }
    rows = {name: list_rows() for name, list_rows in sections.items() if what in (None, name)}
    if as_json:
        print_json(rows if what is None else rows[what])
        return
    for name, section in rows.items():
        print_table(name, catalogue.for_people(name, section))


@command(
    "leaderboard",
    suite_argument,
    only_option,
    tuned_option,
    store_option,
    json_option,
    plugin_option,
    click.option("--metric", default="rmse_future", show_default=True, help="What the models are ranked by."),
    click.option("--baseline", help="Whom the models are compared with over all levels; by default the ConvNet."),
    click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report as one file."),
    click.option("--csv", type=_FILE, help="Also write every number as CSV; - prints it instead of the tables."),
    click.option("--latex", type=_FILE, help="The same with booktabs tables for LaTeX."),
    click.option("--markdown", type=_FILE, help="The same with Markdown tables."),
    example="symbench leaderboard quickstart --metric rmse_domain --html board.html\n"
    "symbench leaderboard quickstart --latex -",
)
def leaderboard(
    suite: str,
    only: str,
    store_folder: Path,
    as_json: bool,
    metric: str,
    baseline: str | None,
    html: Path | None,
    tuned: bool,
    **exports: str | None,
) -> None:
    """Rank the models of SUITE: mean and standard deviation over seeds, for each level."""
    from results.export import FORMATS
    from results.leaderboard import aggregate, to_json
    from results.standing import MOST_STANDING, overall
    from results.table import standings_table, to_table

    from .files import write_text

    loaded, store = _load(suite, only, store_folder, tuned), _open(store_folder)
    if as_json + list(exports.values()).count("-") > 1:
        raise UserError("--json, --csv -, --latex - and --markdown -: only one of them can have the standard output")
    records, broken = store.read(loaded.cells, history=False)
    name_broken(broken)
    rows = aggregate(loaded.cells, records, metric)
    if as_json:
        print_json(to_json(rows))
    elif "-" not in exports.values():
        console().print(to_table(rows, metric))
        if baseline is not None or len(rows) <= MOST_STANDING:
            console().print(standings_table(overall(rows, metric, baseline)))
    _show_tuning(loaded, records, store, with_ledger=not as_json and "-" not in exports.values())
    for kind, target in exports.items():
        if target == "-":
            click.echo(FORMATS[kind](rows, metric), nl=False)
        elif target is not None:
            write_text(Path(target), FORMATS[kind](rows, metric))
            click.echo(f"wrote {target}", err=True)
    if html is not None:
        from results import report  # its figures need matplotlib, which takes a second

        write_text(html, report.render(store, loaded, records, broken, metric, baseline))
        click.echo(f"wrote {html}", err=True)


def _show_tuning(suite: Suite, records: Mapping[str, Record], store: Store, with_ledger: bool) -> None:
    from results.tuning_ledger import ledger_table, left_out, spent_by, warnings_of

    ledger = spent_by(suite, records, store) if with_ledger else []
    if ledger:
        console().print(ledger_table(ledger))
    for line in (*warnings_of(ledger), left_out(suite)):
        if line:
            click.echo(line, err=True)


def _load(suite: str, only: str, store_folder: Path, tuned: bool) -> Suite:
    from . import suites

    return suites.load(suite, store_folder, tuned, only, partly=True)


def _open(folder: Path) -> Store:
    from results.store import Store

    return Store(folder)


def main() -> None:
    """The console script: one clear message and an exit status for whatever a person can mend."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that what we started does not outlive us
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SymbenchError as error:
        click.echo(f"symbench: {error}", err=True)
        sys.exit(error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
