"""`symbench data`: simulate, import, check and show fields."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from benchmark.cli.options import (
    json_option,
    plugin_option,
    set_option,
    site_of,
    site_option,
    store_option,
    suite_argument,
)
from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, STORAGE
from benchmark.data.paths import Field, data_path
from benchmark.errors import MachineError, UserError, unknown_name
from benchmark.files import data_folder, write_json, write_text
from benchmark.suite import loading as suites
from benchmark.terminal import Commands, Examples, print_json, print_table, progress
from cluster.jobs.login_node import few_cores

if TYPE_CHECKING:
    from benchmark.data.layout import StoredField

_name_argument = click.argument("name", metavar="SUITE|DATASET")


@click.group(cls=Commands)
def data() -> None:
    """Simulate, import and look at the data."""


@data.command(
    "prepare",
    cls=Examples,
    epilog="symbench data prepare quickstart\nsymbench data prepare icml2022-scale --on my-site.yaml",
)
@suite_argument
@set_option
@store_option
@site_option
@click.option("--processes", type=click.IntRange(min=1), help="Simulations at a time (default: number of cores).")
@plugin_option
def prepare(suite: str, overrides: tuple[str, ...], store_folder: Path, site: str, processes: int | None) -> None:
    """Simulate the data of SUITE that the store does not have; after Ctrl-C, the same command continues."""
    from benchmark.data import prepare as preparing
    from benchmark.training.machine import available_cpus

    place = site_of(site)
    with few_cores(processes, "--processes N") if place is None else nullcontext():
        for work, levels in preparing.outlines(_of_suite(suite, store_folder, overrides), data_folder(store_folder)):
            label = f"{work.name} ({work.preset})"
            with progress(label) as show:
                if place is not None:
                    from cluster.slurm.simulate import simulate_on

                    simulate_on(place, work, store_folder, show)
                for path in preparing.prepare(work, show, processes or available_cpus()):
                    click.echo(f"simulated {path}")
            click.echo(f"{label}: {levels} {'level' if levels == 1 else 'levels'} ready, {len(work.levels)} new")


@data.command(
    "import",
    cls=Examples,
    epilog="symbench data import ~/Downloads/JetFlow --as jets --axes ntxyc --source 'my paper' --licence CC-BY-4.0\n"
    "symbench data import jetflow ~/Downloads/JetFlow",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...|DATASET FOLDER")
@click.option(
    "--as", "name", metavar="NAME", help="Name of the new dataset: writes NAME.py and a first suite, NAME.yaml."
)
@click.option("--source", help="Where the data come from: paper, DOI or address.")
@click.option("--licence", help="Licence of the data, as CC-BY-4.0, or unknown.")
@click.option(
    "--field", default="", help="Array with the velocity, or U,V: that of the x component, that of the y one."
)
@click.option("--scalar", multiple=True, metavar="NAME", help="Array of a scalar; without --field, scalars alone.")
@click.option(
    "--axes", help="Order of the axes, as ntxyc (run, time, x, y, component); -y where y falls along its axis."
)
@click.option(
    "--group", type=click.Choice(["C4", "translation", "scale"]), default="C4", help="Symmetry (default: C4)."
)
@click.option("--train-on", default="", metavar="PATTERN", help="Folder or files that are trained on (default: train).")
@click.option("--train-runs", type=click.IntRange(min=1), help="Runs to train on, evenly spread (default: all).")
@click.option("--unseen-runs", type=click.IntRange(min=1), help="Runs of the split domain, likewise.")
@click.option("--frames", default="", metavar="FIRST:END:STEP", help="Frames of each run (default: all).")
@click.option("--coarsen", type=click.IntRange(min=1), default=1, help="Mean over so many points along x and y.")
@click.option(
    "--spacing", type=click.FloatRange(0, min_open=True), help="Width of a cell, if the files do not have it."
)
@click.option("--time-step", type=click.FloatRange(0, min_open=True), help="Time between frames, likewise.")
@click.option("--periodic/--walls", default=None, help="Edges of the box, if the files do not have them.")
@click.option("--levels", default="", metavar="0,0.5,1", help="Levels of the PATHs, the most symmetric first.")
@store_option
def import_(paths: tuple[str, ...], name: str | None, store_folder: Path, **options: Any) -> None:
    """Convert data of others into a dataset NAME, one level for each PATH, or import the published files of DATASET.

    Files of The Well, PDEBench and RealPDEBench, .npy and .npz are read: docs/importing-data.md.
    """
    if name is not None:
        _import_as(name, paths, store_folder, options)
    elif any(click.get_current_context().get_parameter_source(key) == ParameterSource.COMMANDLINE for key in options):
        raise UserError("--as NAME is missing: the options are for data of your own")
    elif len(paths) == 2:
        _import_published(paths[0], Path(paths[1]), store_folder)
    else:
        raise UserError("give --as NAME to import data of your own, or DATASET FOLDER for published files")


def _import_as(name: str, paths: tuple[str, ...], store_folder: Path, options: dict[str, Any]) -> None:
    from benchmark.contract import imports

    plugin, suite = Path(f"{name}.py"), Path(f"{name}.yaml")
    plan = imports.plan_of(name, paths, shlex.join(["symbench", *sys.argv[1:]]), options)
    with progress(f"{name} (imported)") as show:
        lines = imports.run(plan, plugin, suite, data_folder(store_folder), show)
    click.echo("\n".join(lines))
    click.echo(
        f"next:\n  symbench check-dataset {plugin}\n  symbench data card {suite}\n  symbench run {suite}\n"
        f"  symbench leaderboard {suite} --html {name}.html"
    )


def _import_published(dataset: str, folder: Path, store_folder: Path) -> None:
    from benchmark.data import layout, published

    files = dataset_registry.dataset(dataset).published_files
    done, total = 0, len(files.names) if files else 0
    with progress(f"{dataset} (imported)") as show:

        def count(more: int) -> None:
            nonlocal done
            done += more
            show(done, total)

        path = published.import_files(dataset, folder, data_folder(store_folder), count)
    stored = layout.read(path)
    click.echo(f"wrote {path}: {' x '.join(map(str, stored.field.shape))} (run, time, component, x, y)")
    for key, value in stored.parameters.items():
        click.echo(f"  {key}: {value}")


@data.command("check", cls=Examples, epilog="symbench data check quickstart\nsymbench data check jetflow")
@_name_argument
@store_option
@json_option
@plugin_option
def check(name: str, store_folder: Path, as_json: bool) -> None:
    """Verify checksums, shapes, finiteness and divergence; exit status 3 if there is a problem."""
    from benchmark.data.check import check as problems_of

    rows = []
    for field in _fields(name, store_folder):
        path = data_path(data_folder(store_folder), *field)
        problems = problems_of(path, *field)
        rows.append({"file": str(path), "problems": problems})
        if not as_json:
            for line in problems or ["in order"]:
                click.echo(f"{path}: {line}")
    if as_json:
        print_json(rows)
    if any(row["problems"] for row in rows):
        sys.exit(3)


@data.command("info", cls=Examples, epilog="symbench data info quickstart\nsymbench data info smoke_rotation --json")
@_name_argument
@store_option
@json_option
@plugin_option
def info(name: str, store_folder: Path, as_json: bool) -> None:
    """Show sizes, splits, parameters and the measured symmetry breaking; without --json, draw them."""
    from benchmark.data.show.info import row

    descriptions = []
    drawn: list[Path] = []
    for stored in _stored(name, store_folder):
        descriptions.append(_describe(stored))
        if not as_json:
            drawn += _draw(stored)
    if as_json:
        print_json(descriptions)
        return
    if drawn:  # before the tables: a pipe to `head` ends the command
        for same in _by_preset(descriptions).values():
            drawn += _draw_errors(same, store_folder)
    print_table(name, [row(description) for description in descriptions])
    for dataset, reason in dict.fromkeys((one["dataset"], one["no_strict_floor"]) for one in descriptions):
        if reason:
            click.echo(f"{dataset}: no strict floor: {reason}")
    _print_splits(name, store_folder)
    for path in drawn:
        click.echo(f"picture: {path}")


@data.command("card", cls=Examples, epilog="symbench data card smoke_translation")
@_name_argument
@store_option
@plugin_option
def card(name: str, store_folder: Path) -> None:
    """Write a data card in Markdown, with pictures and Croissant metadata, for each dataset and preset."""
    for folder, _ in _cards(name, store_folder):
        for file in ("README.md", "croissant.json"):
            click.echo(f"wrote {folder / file}")


@data.command(
    "package",
    cls=Examples,
    epilog="symbench data package smoke_translation --license CC-BY-4.0 --creator 'Family, Given' --into archive",
)
@_name_argument
@click.option(
    "--license",
    "licence",
    type=click.Choice(["CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"]),
    required=True,
    help="Licence under which you publish the data.",
)
@click.option(
    "--creator", "creators", multiple=True, required=True, help="Name of an author; more than once if needed."
)
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of packages.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the data.")
@click.option("--doi", default="", help="DOI that the archive has reserved.")
@store_option
@plugin_option
def package(name: str, into: Path, store_folder: Path, licence: str, creators: tuple[str, ...], **more: str) -> None:
    """Write a folder for an archive with a DOI, for each dataset and preset that symbench simulated.

    It has the data, their card with pictures, Croissant metadata, checksums, licence and citation.
    """
    from benchmark.data.show import package as packaging

    terms = packaging.Terms(licence, creators, more["version"], more["doi"], datetime.date.today())
    for folder, descriptions in _cards(name, store_folder):
        dataset, preset = descriptions[0]["dataset"], descriptions[0]["preset"]
        click.echo(f"wrote {packaging.package(folder, into, dataset, preset, descriptions, terms)}")


def _cards(name: str, store_folder: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Write the card of each dataset and preset; yield its folder and the descriptions of its levels."""
    from benchmark.data.show.card import card as write_card
    from benchmark.data.show.croissant import FILE, croissant

    pictures: dict[tuple[str, str], dict[str, Path]] = {}
    descriptions = []
    for stored in _stored(name, store_folder):
        descriptions.append(_describe(stored))
        shown = pictures.setdefault((stored.dataset, stored.preset), {})
        sheet, animated = _draw(stored)
        shown[f"Level {stored.level}"] = sheet
        shown[f"Level {stored.level}, moving"] = animated
    for (dataset, preset), ours in _by_preset(descriptions).items():
        folder = data_folder(store_folder) / dataset / preset
        shown = pictures[dataset, preset]
        for path in _draw_errors(ours, store_folder):
            shown = {"Measured symmetry breaking": path, **shown}
        relative = {caption: path.relative_to(folder) for caption, path in shown.items()}
        write_text(folder / "README.md", write_card(dataset, preset, ours, relative))
        write_json(folder / FILE, croissant(dataset, preset, ours, folder))
        yield folder, ours


def _of_suite(suite: str, store_folder: Path, overrides: Iterable[str] = ()) -> list[Field]:
    cells = suites.declared(suite, store_folder, overrides).cells
    return list(dict.fromkeys((c.dataset.name, c.dataset.preset, c.dataset.level) for c in cells))


def _fields(name: str, store_folder: Path) -> list[Field]:
    """Fields of a suite, or fields of a dataset in the store."""
    if name not in dataset_registry.dataset_names():
        known = [*suites.available(), *suites.kept(store_folder)]
        if Path(name).suffix not in {".yaml", ".yml"} and name not in known:
            raise UserError(unknown_name("suite or dataset", name, [*dataset_registry.dataset_names(), *known]))
        return _of_suite(name, store_folder)
    dataset = dataset_registry.dataset(name)
    folder = data_folder(store_folder)
    stored = [
        (name, preset, level)
        for preset in dataset.presets
        for level in dataset.levels
        if data_path(folder, name, preset, level).exists()
    ]
    if not stored:
        command = "prepare SUITE" if set(dataset.presets) - {IMPORTED} else f"import {name} FOLDER"
        raise MachineError(f"{folder / name}: no data of {name}; `symbench data {command}` makes them")
    return stored


def _stored(name: str, store_folder: Path) -> Iterator[StoredField]:
    from benchmark.data.layout import read

    for field in _fields(name, store_folder):
        yield read(data_path(data_folder(store_folder), *field))


def _describe(stored: StoredField) -> dict[str, Any]:
    from benchmark.data.show.info import describe

    return describe(stored, dataset_registry.dataset(stored.dataset))


def _by_preset(descriptions: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for description in descriptions:
        groups.setdefault((description["dataset"], description["preset"]), []).append(description)
    return groups


def _draw(stored: StoredField) -> list[Path]:
    """A sheet and an animation, drawn again where the data are newer."""
    from benchmark.kinds.pictures import PAINTERS

    drawn = []
    for suffix, paint in PAINTERS[stored.kind].items():
        path = stored.path.parent / "pictures" / f"{stored.path.stem}{suffix}"
        if not path.exists() or path.stat().st_mtime < stored.path.stat().st_mtime:
            paint(stored, path)
        drawn.append(path)
    return drawn


def _draw_errors(descriptions: list[dict[str, Any]], store_folder: Path) -> list[Path]:
    """Figure of measured error against level; no path if there is no measurement."""
    from benchmark.data.show.pictures import LevelErrors, symmetry_breaking

    first = descriptions[0]
    path = data_folder(store_folder) / first["dataset"] / first["preset"] / "pictures" / "symmetry_breaking.png"
    meaning = dataset_registry.dataset(first["dataset"]).level_meaning
    points, unit = [LevelErrors.of(one) for one in descriptions], STORAGE[first["kind"]].error_unit
    return [path] if symmetry_breaking(points, path, meaning, unit) else []


def _print_splits(name: str, store_folder: Path) -> None:
    """Runs and windows of each split, with the protocols of a suite, or with both protocols at their defaults."""
    from benchmark.cell import Protocol

    defaults = [Protocol(name="disjoint"), Protocol(name="icml2022")]
    cells = () if name in dataset_registry.dataset_names() else suites.declared(name, store_folder).cells
    rows = []
    for dataset, preset in dict.fromkeys((dataset, preset) for dataset, preset, _ in _fields(name, store_folder)):
        mine = [c.protocol for c in cells if (c.dataset.name, c.dataset.preset) == (dataset, preset)]
        for protocol in dict.fromkeys(mine or defaults):
            row = {"dataset": dataset, "preset": preset, "protocol": protocol.name}
            row["frames"] = f"{protocol.input_frames} + {protocol.train_steps}, test {protocol.test_steps}"
            try:
                splits = dataset_registry.dataset(dataset).splits(protocol, preset)
            except UserError as error:
                click.echo(f"{dataset} ({preset}), {protocol.name}: {error}")
                continue
            for split, windows in splits.items():
                row[split] = f"{len(windows.runs)} runs x {len(windows.starts)}"
            rows.append(row)
    if rows:
        print_table("windows (runs x windows of each)", rows)
