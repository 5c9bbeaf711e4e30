"""The commands for those who read results: MLflow, comparisons, committed boards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import MachineError
from .options import json_option, only_option, plugin_option, store_option, suite_argument, tuned_option
from .terminal import Examples, console, one_line, print_json

if TYPE_CHECKING:
    from results.record import Broken
    from results.store import Store

    from .suite import Suite

tracking_option = click.option(
    "--tracking-uri", metavar="URI", help="An MLflow server or database; by default mlflow.db in the store."
)


@click.command(
    cls=Examples,
    epilog="symbench sync quickstart\nsymbench sync quickstart --tracking-uri http://127.0.0.1:5000\n"
    "symbench sync quickstart --watch    # beside a running `symbench run`, here or on a cluster",
)
@suite_argument
@tuned_option
@store_option
@plugin_option
@tracking_option
@click.option("--watch", is_flag=True, help="Go on every ten seconds until each cell is done, diverged or n/a.")
def sync(suite: str, store_folder: Path, tracking_uri: str | None, tuned: bool, watch: bool) -> None:
    """Show the results of SUITE in MLflow; doing it again changes only what is new.

    With --watch, MLflow shows each epoch of the cells that run; Ctrl-C ends the watch and nothing else.

    Interrupted, refused or cut off, it loses nothing: the store is the truth, and the same command goes on.
    """
    from results import mlflow_sync
    from results.store import Store

    from . import suites

    loaded = suites.load(suite, store_folder, tuned, partly=True)
    store = Store(store_folder)
    with _progress(f"{loaded.name} into MLflow") as show:
        synced = mlflow_sync.sync(store, loaded, tracking_uri, show=show)
    name_broken(synced.broken)
    click.echo(f"{loaded.name}: {synced}")
    if watch:
        _watch(store, loaded, tracking_uri, synced.broken)


def _watch(store: Store, suite: Suite, tracking_uri: str | None, named: tuple[Broken, ...]) -> None:
    """Print each round that changed something; an error or an unreadable record only once in a row."""
    from results import mlflow_watch

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
        if done.synced.changed:
            final = f"{done.final} of {len(suite.cells)} cells final"
            click.echo(f"{time.strftime('%H:%M:%S')} {suite.name}: {done.synced}; {final}")


@click.command(
    cls=Examples,
    epilog="symbench ui --port 5001\nsymbench ui --tracking-uri http://127.0.0.1:5000",
)
@store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@tracking_option
def ui(store_folder: Path, host: str, port: int, tracking_uri: str | None) -> None:
    """Start MLflow on this machine and print a link for each question that its tables answer; Ctrl-C ends it.

    A link opens with columns, filter and order set. For a server that already runs, only the links are printed.
    """
    from results import mlflow_experiment, mlflow_server
    from results.mlflow_client import default_tracking_uri
    from results.store import Store

    if tracking_uri is not None and tracking_uri.startswith("http"):
        _print_links(mlflow_experiment.table_view_links(tracking_uri), tracking_uri)
        return
    store = Store(store_folder)
    if not store.root.is_dir() or (tracking_uri is None and not (store.root / "mlflow.db").is_file()):
        raise MachineError(f"store {store.root}: nothing to show yet; `symbench sync SUITE` fills MLflow")
    uri = tracking_uri or default_tracking_uri(store)
    argv = mlflow_server.command(uri, mlflow_experiment.artifact_folder(store), host, port)
    links = mlflow_experiment.table_view_links(uri)
    with mlflow_server.serving(argv, host, port, store.root / "mlflow-server.log") as server:
        _print_links(links, mlflow_server.address(host, port))
        click.echo("\nCtrl-C ends the server.")
        try:
            status = server.wait()
        except KeyboardInterrupt:
            return
    raise MachineError(f"the MLflow server ended with status {status}; see {store.root}/mlflow-server.log")


def _print_links(links: dict[str, list[tuple[str, str]]], address: str) -> None:
    """Print each question with its link. Names may contain anything: other people may write to the server."""
    for suite, views in links.items():
        click.echo(click.style(f"\n{one_line(suite)}", bold=True))
        lines = [(one_line(question), one_line(path)) for question, path in views]
        width = max((len(question) for question, _ in lines), default=0)
        for question, path in lines:
            click.echo(f"  {question:{width}}  {address.rstrip('/')}/{path}")


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def name_broken(broken: Iterable[Broken]) -> None:
    """Name on stderr what was skipped because it cannot be read."""
    for item in broken:
        click.echo(f"skipped {item.folder}: {item.reason}", err=True)


@click.command(
    cls=Examples,
    epilog="symbench compare convnet e2cnn --suite quickstart    # two models of a suite\n"
    "symbench compare convnet 'relaxed_steerable_rotation penalty=0.0' --suite quickstart --json\n"
    "symbench compare my-levels.yaml my-levels-longer.yaml    # two suites in one store\n"
    "symbench compare runs /shared/runs --suite quickstart    # two stores",
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--suite", help="A and B are models of this suite, or stores that hold it; without it they are suites.")
@only_option
@click.option("--metric", default="rmse_future", show_default=True, help="What they are compared by.")
@tuned_option
@store_option
@json_option
@plugin_option
def compare(
    first: str, second: str, suite: str | None, only: str, metric: str, store_folder: Path, as_json: bool, tuned: bool
) -> None:
    """Tell what differs between A and B, and whether their results do.

    With --suite, A and B are two of its models, named as the leaderboard labels them, or two folders: stores that
    hold that suite. Without it they are two suites, whose common models are compared on their common tasks.

    A and B are paired by level, seed and test run. The difference is A - B with its 95 % interval; P(A better) is the
    probability that a seed of A beats one of B; p is adjusted (Holm) for the number of lines, and below 0.05 the
    better one is named. With one seed each there is no test, and that is said.
    """
    from results import compare as comparing
    from results.compare_table import to_table
    from results.store import Store

    from . import suites

    def load(name: str) -> Suite:
        return suites.load(name, store_folder, tuned, only, partly=True)

    store = Store(store_folder)
    if suite is None:
        compared = comparing.suites(load(first), load(second), store, metric)
    elif Path(first).is_dir() and Path(second).is_dir():
        compared = comparing.stores(load(suite), Store(Path(first)), Store(Path(second)), metric)
    else:
        compared = comparing.models(load(suite), store, first, second, metric)
    name_broken((*compared.first.broken, *(one for one in compared.second.broken if one not in compared.first.broken)))
    if as_json:
        print_json(comparing.to_json(compared))
    else:
        console().print(to_table(compared))


@click.command(
    cls=Examples,
    epilog="symbench publish quickstart\nsymbench publish quickstart --into /tmp/boards    # to look at it",
)
@suite_argument
@click.option("--metric", default="rmse_future", show_default=True, help="What its tables show.")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), help="Another folder; README.md then stays as it is."
)
@tuned_option
@store_option
@plugin_option
def publish(suite: str, metric: str, into: Path | None, store_folder: Path, tuned: bool) -> None:
    """Write the board of SUITE into results/published/, to be committed: JSON, Markdown, and where it comes from.

    README.md shows the foremost board (published sizes before small ones, then by the cells that are done) and names
    the others. What is missing is listed, and nothing is left out of it.
    """
    from results import publish as publishing
    from results.store import Store

    from . import suites

    loaded, store = suites.load(suite, store_folder, tuned), Store(store_folder)
    if into is None:
        published = publishing.publish(store, loaded, metric=metric)
    else:
        published = publishing.publish(store, loaded, into, None, metric)
    name_broken(published.broken)
    for path in published.files:
        click.echo(f"wrote {path}")
    if published.unfinished:
        told = ", ".join(f"{count} {state}" for state, count in published.unfinished.items())
        click.echo(f"not done: {told}; the board lists them")


COMMANDS = (sync, ui, compare, publish)
