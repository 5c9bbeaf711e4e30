"""`symbench archive` and `prune`: fewer files and bytes in the store."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from benchmark.cli.options import Selection, name_broken, selecting, some_cells, tuned_option
from benchmark.errors import UserError
from benchmark.terminal import Examples, print_table, size


@click.command(
    cls=Examples,
    epilog="symbench archive my-levels.yaml\nsymbench merge runs/my-levels.tar.xz --store elsewhere",
)
@some_cells
@click.option(
    "--into", type=click.Path(path_type=Path, dir_okay=False), help="Another file (default: STORE/<suite>.tar.xz)."
)
def archive(selection: Selection, into: Path | None) -> None:
    """Write the finished records of SUITE into one file, which `symbench merge` reads like a store.

    It has all numbers, curves and provenance, so that boards can be made from it, and no roll-outs, checkpoints or
    data. The store stays as it is.
    """
    from results.store import archive as archiving

    loaded, store = selection.load(skip_untuned=True), selection.store
    path = into or store.root / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', loaded.name)}{archiving.SUFFIX}"
    if not path.name.endswith(archiving.SUFFIX):
        raise UserError(f"--into {path}: the name must end in {archiving.SUFFIX}")
    count, broken = archiving.write(store, loaded.cells, path)
    name_broken(broken)
    click.echo(f"wrote {path}: {count} of {len(loaded.cells)} cells, {size(path.stat().st_size)}")


@click.command(cls=Examples, epilog="symbench prune\nsymbench prune my-levels.yaml --yes")
@selecting(click.argument("suite", default=""), tuned_option)
@click.option("--yes", is_flag=True, help="Remove without a question.")
def prune(selection: Selection, yes: bool) -> None:
    """Remove what nothing in the store, or of SUITE, needs any more; first show it, and ask.

    These are checkpoints of finished cells, unless their suite says `keep: checkpoints`; folders of jobs that have
    ended, with their logs, if all of their cells are finished; copies of the code that no job uses; and files that
    killed processes left. Jobs and code of the last hour stay. Records, roll-outs, data and studies always stay.
    """
    from cluster.slurm.submissions import live_folders
    from results.store import prune as pruning

    store, suite = selection.store, selection.load(skip_untuned=True) if selection.suite else None
    if not (store.root / "cells").is_dir():
        raise UserError(f"{store.root}: not a store, it has no folder cells/")
    cells, keeps = (None, None) if suite is None else (suite.cells, suite.keeps_checkpoints)
    wastes = pruning.waste(store, cells, keeps, live_folders(store).__contains__)
    if not wastes:
        click.echo(f"{store.root}: nothing to remove")
        return
    sizes = [waste.size for waste in wastes]
    rows = zip(wastes, sizes, strict=True)
    print_table(
        str(store.root), [{"what": w.kind, "files": files, "size": size(number)} for w, (files, number) in rows]
    )
    total = f"{sum(files for files, _ in sizes)} files, {size(sum(number for _, number in sizes))}"
    if not yes and not sys.stdin.isatty():
        click.echo(f"{total}; nothing is removed without --yes")
        return
    if not yes and not click.confirm(f"Remove {total}?"):
        return
    for waste in wastes:
        waste.remove()
    click.echo(f"removed {total}")


COMMANDS = (archive, prune)
