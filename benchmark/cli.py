"""The command line: the one file that knows all rooms.

Imports of torch, phiflow and mlflow take seconds, so a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_data import data
from .cli_models import COMMANDS as MODEL_COMMANDS
from .cli_run import COMMANDS as RUN_COMMANDS
from .errors import MachineError, SymbenchError
from .options import json_option, only_option, plugin_option, store_option, suite_argument
from .terminal import Examples, console, print_json, print_table

if TYPE_CHECKING:
    from results.store import Broken, Record, Store

    from .suite import Suite

Command = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="symbench")
def cli() -> None:
    """Benchmark approximately equivariant networks on dynamics.

    A suite names datasets, symmetry-breaking levels, models and seeds; each combination is a cell, trained once.
    """


cli.add_command(data)
for one in (*RUN_COMMANDS, *MODEL_COMMANDS):
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
    store_option,
    json_option,
    plugin_option,
    click.option("--metric", default="rmse_future", show_default=True, help="What the models are ranked by."),
    click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report as one file."),
    example="symbench leaderboard quickstart --metric rmse_domain --html board.html",
)
def leaderboard(suite: str, only: str, store_folder: Path, as_json: bool, metric: str, html: Path | None) -> None:
    """Rank the models of SUITE: mean and standard deviation over seeds, for each level."""
    from results import report
    from results.leaderboard import aggregate, to_json
    from results.table import to_table

    from .files import write_text

    loaded, store = _load(suite, only), _open(store_folder)
    records, broken = store.read(loaded.cells)
    _name_broken(broken)
    rows = aggregate(loaded.cells, records, metric)
    if as_json:
        print_json(to_json(rows))
    else:
        console().print(to_table(rows, metric))
    if html is not None:
        write_text(html, report.render(store, loaded, records, broken, metric))
        click.echo(f"wrote {html}", err=True)


@command(
    "sync",
    suite_argument,
    store_option,
    plugin_option,
    click.option("--tracking-uri", help="An MLflow server or database; by default mlflow.db in the store."),
    example="symbench sync quickstart\nsymbench sync quickstart --tracking-uri http://127.0.0.1:5000",
)
def sync(suite: str, store_folder: Path, tracking_uri: str | None) -> None:
    """Show the results of SUITE in MLflow; doing it again changes only what is new."""
    from results import mlflow_view, report

    loaded, store = _load(suite), _open(store_folder)
    records, broken = store.read(loaded.cells)
    _name_broken(broken)
    html = report.render(store, loaded, records, broken)
    synced = mlflow_view.sync(store, loaded, records, tracking_uri, html)
    click.echo(
        f"{loaded.name}: {synced.created} runs created, {synced.updated} updated, {synced.unchanged} unchanged, "
        f"{synced.removed} removed"
    )


@command(
    "ui",
    store_option,
    click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address."),
    click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535)),
    example="symbench ui --port 5001",
)
def ui(store_folder: Path, host: str, port: int) -> None:
    """Start MLflow's pages on this machine and print the links to the boards; Ctrl-C ends it."""
    import os
    import subprocess

    from results import mlflow_view

    store = _open(store_folder)
    if not (store.root / "mlflow.db").is_file():
        raise MachineError(f"store {store.root}: nothing to show yet; `symbench sync SUITE` fills MLflow")
    uri = mlflow_view.default_tracking_uri(store)
    command_line = mlflow_view.ui_command(uri, mlflow_view.artifact_folder(store), host, port)
    _require_free(host, port)
    for name, experiment in mlflow_view.boards(uri).items():
        click.echo(f"{name}: {mlflow_view.board_url(f'http://{host}:{port}', experiment)}")
    click.echo("The pages are there in a few seconds; Ctrl-C ends the server.")
    with subprocess.Popen(command_line, env={**os.environ, **mlflow_view.ENVIRONMENT}) as server:
        try:
            status = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            return
    if status:
        raise MachineError(f"the MLflow server ended with status {status}; its message stands above")


def _require_free(host: str, port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MachineError(f"--port {port}: cannot be used on {host} ({error.strerror}); choose another") from error


def _load(suite: str, only: str = "") -> Suite:
    from . import suite as suites

    loaded = suites.load(suite)
    return loaded.only(only) if only else loaded


def _open(folder: Path) -> Store:
    from results.store import Store

    return Store(folder)


def _records(suite: Suite, store: Store) -> dict[str, Record]:
    """The readable records; the others are named on stderr."""
    records, broken = store.read(suite.cells)
    _name_broken(broken)
    return records


def _name_broken(broken: list[Broken]) -> None:
    for item in broken:
        click.echo(f"skipped {item.folder}: {item.reason}", err=True)


def main() -> None:
    """The console script: one clear message and an exit status for whatever a person can mend."""
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
