"""Arguments and options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark import discovery
from benchmark.errors import UserError
from benchmark.suite import loading as suites

if TYPE_CHECKING:
    from benchmark.suite.suite import Suite
    from cluster.site import Site
    from results.store.record import Broken
    from results.store.store import Store

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _plugins(ctx: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    for path in paths:
        discovery.add_plugin(path)


def _hours(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gpu|rank)?h", value)
    if match is None:
        raise click.BadParameter("must be hours of all ranks together, as 200gpuh")
    return float(match[1])


def complete_suites(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names for the completion of a shell."""
    store = Path(ctx.params.get("store_folder") or os.environ.get("SYMBENCH_STORE", "runs"))
    return [name for name in (*suites.available(), *suites.kept(store)) if name.startswith(incomplete)]


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """As above."""
    from benchmark.models import model_registry

    return [name for name in model_registry.model_names() if name.startswith(incomplete)]


suite_argument = click.argument("suite", shell_complete=complete_suites)
store_option = click.option(
    "--store",
    "store_folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SYMBENCH_STORE",
    default="runs",
    show_default=True,
    help="Folder of data and results; also $SYMBENCH_STORE.",
)
only_option = click.option(
    "--only", metavar="EXPR", default="", help="Only some cells: 'level>=1,model=[convnet,e2cnn],seed!=0'."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for a key of SUITE: train.epochs=2; it is then a suite of its own.",
)
site_option = click.option(
    "--on", "site", metavar="SITE", default="local", show_default=True, help="This machine, or a cluster: name or YAML."
)
budget_option = click.option(
    "--budget",
    "hours",
    callback=_hours,
    metavar="200gpuh",
    help="On a cluster: as many seeds and levels as fit into these hours, each with all models.",
)
tuned_option = click.option(
    "--tuned", is_flag=True, help="Use the settings that `symbench tune` found; the suite is then <suite>-tuned."
)
live_code_option = click.option(
    "--live-code", is_flag=True, help="On a cluster: jobs import the files of today's checkout, not a copy of them."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable field names.")
plugin_option = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=_plugins,
    expose_value=False,
    is_eager=True,
    metavar="FILE",
    help="Python file with another baseline.",
)


@dataclass(frozen=True)
class Selection:
    """Store, and suite or part of it, that a command works on."""

    store_folder: Path
    suite: str = ""
    only: str = ""
    tuned: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def store(self) -> Store:
        from results.store.store import Store

        return Store(self.store_folder)

    @property
    def existing_store(self) -> Store:
        """The store. UserError: there is none."""
        if not self.store_folder.is_dir():
            raise UserError(f"no store at {self.store_folder}; `symbench run` makes it, --store names another")
        return self.store

    def load(self, skip_untuned: bool = False) -> Suite:
        """The suite with `--only` and `--tuned`. UserError: a cell is not tuned, unless `skip_untuned`.

        Prints which results of studies are not as their search wrote them.
        """
        suite = self._loaded(self.only, skip_untuned)
        for line in suite.edited:
            click.echo(line, err=True)
        return suite

    def declared(self) -> Suite:
        """All of the suite, with the settings that it writes and not those of `symbench tune`."""
        return suites.declared(self.suite, self.store_folder, self.overrides)

    def load_with_full_suite(self) -> tuple[Suite, Suite]:
        """The suite with `--only`, and without it."""
        loaded = self.load()
        return loaded, self._loaded("", skip_untuned=True) if self.only else loaded

    def _loaded(self, only: str, skip_untuned: bool) -> Suite:
        return suites.load(self.suite, self.store_folder, self.tuned, only, skip_untuned, self.overrides)


def selecting(*options: Decorator, plugins: bool = True) -> Decorator:
    """Add `options`, `--store` and, with `plugins`, `--plugin`; their values become the argument `selection`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**given: Any) -> Any:
            mine = {field.name: given.pop(field.name) for field in fields(Selection) if field.name in given}
            return function(Selection(**mine), **given)

        decorated: Callable[..., Any] = command
        every: tuple[Decorator, ...] = (*options, store_option, *([plugin_option] if plugins else []))
        for option in reversed(every):
            decorated = option(decorated)
        return decorated

    return decorate


whole_suite = selecting(suite_argument, set_option, tuned_option)
some_cells = selecting(suite_argument, only_option, set_option, tuned_option)


def site_of(name: str, hours: float | None = None, live_code: bool = False) -> Site | None:
    """Cluster that `--on` names, or None for this machine. UserError: an option that is for a cluster alone."""
    if name == "local":
        if live_code:
            raise UserError("--live-code: is for a cluster, with `--on SITE`; this machine always runs the checkout")
        if hours is not None:
            raise UserError("--budget: is for a cluster, with `--on SITE`; on this machine choose cells with --only")
        return None
    from cluster import site

    return site.load(name)


def name_broken(broken: Iterable[Broken]) -> None:
    """Name unreadable records on stderr."""
    for item in broken:
        click.echo(f"skipped {item.folder}: {item.reason}", err=True)
