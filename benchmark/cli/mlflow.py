"""`symbench sync` and `ui`: results in MLflow."""

from __future__ import annotations

import time
import webbrowser
from typing import TYPE_CHECKING

import click

from benchmark.cli.options import Selection, name_broken, selecting, whole_suite
from benchmark.errors import MachineError
from benchmark.terminal import Examples, one_line, progress

if TYPE_CHECKING:
    from benchmark.suite.suite import Suite
    from results.store.record import Broken
    from results.store.store import Store


tracking_option = click.option(
    "--tracking-uri", metavar="URI", help="MLflow server or database (default: mlflow.db in the store)."
)


@click.command(
    cls=Examples,
    epilog="symbench sync quickstart\nsymbench sync quickstart --tracking-uri https://mlflow.example.org\n"
    "symbench sync quickstart --watch    # beside a running `symbench run`, here or on a cluster",
)
@whole_suite
@tracking_option
@click.option("--watch", is_flag=True, help="Repeat every ten seconds until each cell is done, diverged or n/a.")
def sync(selection: Selection, tracking_uri: str | None, watch: bool) -> None:
    """Copy the results of SUITE into MLflow; only new results are copied again.

    With --watch, MLflow shows each epoch of running cells; Ctrl-C ends the watch. After an interruption, the same
    command continues.
    """
    from results.tracking import sync as mlflow_sync

    loaded, store = selection.load(skip_untuned=True), selection.store
    with progress(f"{loaded.name} into MLflow") as show:
        synced = mlflow_sync.sync(store, loaded, tracking_uri, show=show)
    name_broken(synced.broken)
    click.echo(f"{loaded.name}: {synced}")
    if watch:
        _watch(store, loaded, tracking_uri, synced.broken)


def _watch(store: Store, suite: Suite, tracking_uri: str | None, named: tuple[Broken, ...]) -> None:
    """Print each round with changes, and the last one; a repeated error or unreadable record is printed once."""
    from results.tracking import watch as mlflow_watch

    click.echo("watching until every cell is done, diverged or n/a; Ctrl-C ends it")
    error = ""
    for done in mlflow_watch.watch(store, suite, tracking_uri):
        if done.error not in ("", error):
            click.echo(f"symbench: {done.error}", err=True)
        error = done.error
        if done.synced is None:
            continue
        name_broken(tuple(one for one in done.synced.broken if one not in named))
        named = done.synced.broken
        if done.synced.changed or done.final == len(suite.cells):
            final = f"{done.final} of {len(suite.cells)} cells final"
            click.echo(f"{time.strftime('%H:%M:%S')} {suite.name}: {done.synced}; {final}")


@click.command(
    cls=Examples,
    epilog="symbench ui --port 5001\nsymbench ui --tracking-uri https://mlflow.example.org",
)
@selecting(plugins=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@tracking_option
@click.option("--open", "opens", is_flag=True, help="Open the first page, the report, in a browser.")
def ui(selection: Selection, host: str, port: int, tracking_uri: str | None, opens: bool) -> None:
    """Start MLflow on this machine for reading, and print links to its pages; Ctrl-C ends it.

    Each link answers one question. It has the secret of this server, which whoever opens a page needs: do not pass it
    on. For a running server, only the links are printed.
    """
    from results.tracking import experiment as mlflow_experiment
    from results.tracking import server as mlflow_server
    from results.tracking.client import default_tracking_uri

    if tracking_uri is not None and tracking_uri.startswith("http"):
        first = _print_links(mlflow_experiment.table_view_links(tracking_uri), f"{tracking_uri.rstrip('/')}/")
        if opens and first:
            webbrowser.open(first)
        return
    store = selection.store
    if not store.root.is_dir() or (tracking_uri is None and not (store.root / "mlflow.db").is_file()):
        raise MachineError(f"store {store.root}: nothing to show yet; `symbench sync SUITE` fills MLflow")
    place = mlflow_server.Place(host, port)
    uri = tracking_uri or default_tracking_uri(store)
    artifacts = mlflow_experiment.artifact_folder(store, uri)
    log = artifacts.with_name("mlflow-server.log")
    links = mlflow_experiment.table_view_links(uri)
    with mlflow_server.serving(place, uri, artifacts, log) as server:
        first = _print_links(links, place.link(""))
        click.echo("\nCtrl-C ends the server.")
        try:
            with mlflow_server.private_page(first, log.parent) as page:
                if opens and first:
                    webbrowser.open(page)
                status = server.wait()
        except KeyboardInterrupt:
            return
    raise MachineError(f"the MLflow server ended with status {status}; see {log}")


def _print_links(links: dict[str, list[tuple[str, str]]], address: str) -> str:
    """Print each question with its link, and return the first. Names are escaped: others may write to the server."""
    shown = [
        (one_line(suite), [(one_line(question), f"{address}{one_line(path)}") for question, path in views])
        for suite, views in links.items()
    ]
    for suite, views in shown:
        click.echo(click.style(f"\n{suite}", bold=True))
        width = max((len(question) for question, _ in views), default=0)
        for question, link in views:
            click.echo(f"  {question:{width}}  {link}")
    return next((link for _, views in shown for _, link in views), "")


COMMANDS = (sync, ui)
