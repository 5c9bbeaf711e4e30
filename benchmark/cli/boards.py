"""`symbench verify` and `merge`: boards that others can check, and results of several people."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from benchmark.cli.options import Selection, name_broken, selecting
from benchmark.suite import loading as suites
from benchmark.terminal import Examples, duration, one_line

MOST_LINES = 10


@click.command(
    cls=Examples,
    epilog="symbench verify relaxation-rate\nsymbench verify submitted/my-board --cells 5 --plugin my_model.py",
)
@click.argument("board")
@selecting(
    click.option("--cells", default=2, show_default=True, type=click.IntRange(min=1), help="Cells to train again.")
)
def verify(selection: Selection, board: str, cells: int) -> None:
    """Train random cells of BOARD again and compare their numbers with the published ones.

    BOARD is the name of a published board, or a folder with board.json and suite.yaml. Means, letters and identities
    are first computed again from the values of the seeds and from suite.yaml. Data are those of the store, where
    missing ones are simulated; records of the store are not used.

    Numbers must be bit-equal where code, data, versions and machine are those of the board, and otherwise within the
    spread of the seeds. If all agree, verified.json and README.md of the board say so; if not, the exit status is 1.
    """
    from cluster.jobs.retrain import retrain
    from results.report import board_check, publish, verification

    folder = publish.board_folder(board)
    document, suite = publish.read(folder / "board.json"), suites.load(str(folder / "suite.yaml"))
    if problems := board_check.problems(document, suite):
        _fail(problems, "the board does not fit together, and no cell was trained")
    claims = verification.trainable_claims(document, suite)
    drawn = random.SystemRandom().sample(claims, min(cells, len(claims)))
    took = duration(sum(claim.seconds for claim in drawn))
    click.echo(
        f"{document['suite']}: {len(drawn)} cells, drawn from {len(claims)} of {document['cells']} that this code can"
        f" train again; the board's training of them took {took}"
    )
    records = retrain(drawn, suite, selection.store)
    checks = [verification.check(claim, records[claim.cell.id]) for claim in drawn]
    different = [str(check.cell) for check in checks if check.rule is None]
    if not different:  # files before lines: a pipe to `head` ends the command
        path = verification.add_verification(folder, document, checks, records)
        publish.write_page(folder)
    for check in checks:
        click.echo(f"{check.cell} ({check.cell.id}): {check.rule or 'DIFFERS'}: {one_line(check.text)}")
    if different:
        _fail([], f"{len(different)} of {len(checks)} cells do not agree with the board")
    click.echo(f"verified: {len(checks)} of {len(checks)} cells agree; wrote {path} and README.md beside it")


@click.command(
    cls=Examples,
    epilog="symbench merge alice/runs bob/my-levels.tar.xz --store runs\n"
    "symbench leaderboard my-levels.yaml --store runs",
)
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@selecting(plugins=False)
def merge(selection: Selection, stores: tuple[Path, ...]) -> None:
    """Copy the finished records of each STORE, or archive of one, into the store given by --store.

    Records stay as they are, with host, versions, commit, data checksum and model digest. Settings whose seeds have
    different data or code are named, here and on boards. A cell that two stores have is compared: the first record is
    kept, and if the numbers differ, both are named and the exit status is 1. Data files and studies of `tune` are not
    copied.
    """
    from results.store import merge as merging

    merged = merging.merge(stores, selection.store)
    for root in dict.fromkeys(stores):
        click.echo(
            f"{root}: {merged.copied[root]} cells copied, {merged.equal[root]} equal to those in {selection.store.root}"
        )
    for line in merged.mixed:
        click.echo(line, err=True)
    name_broken(merged.broken)
    for cell in merged.running:
        click.echo(f"not copied: {cell}: a process runs it in {selection.store.root}", err=True)
    for conflict in merged.conflicts:
        click.echo(f"DIFFERS: {conflict.text}; the first is kept", err=True)
    if merged.broken or merged.running or merged.conflicts:
        sys.exit(1)


def _fail(problems: Sequence[str], verdict: str) -> NoReturn:
    for line in problems[:MOST_LINES]:
        click.echo(line, err=True)
    if len(problems) > MOST_LINES:
        click.echo(f"and {len(problems) - MOST_LINES} more", err=True)
    click.echo(f"not verified: {verdict}", err=True)
    sys.exit(1)


COMMANDS = (verify, merge)
