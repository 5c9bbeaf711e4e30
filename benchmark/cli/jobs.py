"""`symbench status`, `logs`, `cancel` and `doctor`: cells and jobs that run, and the machine."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import (
    Selection,
    complete_suites,
    json_option,
    name_broken,
    selecting,
    site_of,
    site_option,
    some_cells,
    store_option,
    whole_suite,
)
from benchmark.errors import MachineError, UserError
from benchmark.suite import loading as suites
from benchmark.suite.labels import labels_of
from benchmark.terminal import Examples, duration, one_line, print_json, print_table
from results.store.record import read_record

if TYPE_CHECKING:
    from benchmark.suite.suite import Suite
    from benchmark.training.recorder import Status
    from cluster.slurm.in_queue import InQueue
    from results.store.record import Record
    from results.store.store import Store

WATCH_SECONDS = 5.0
QUEUE_SECONDS = 20.0
"""Time between two questions to SLURM's controller, which serves everybody."""
SILENT_SECONDS = 120.0
"""A running cell whose last epoch ended longer ago, and three usual epochs ago, is named in `status`."""


@click.command(cls=Examples, epilog="symbench status quickstart --only level=9\nsymbench status quickstart --watch")
@some_cells
@json_option
@click.option("--watch", is_flag=True, help="Repeat until no cell is queued or running, and none is sent again.")
def status(selection: Selection, as_json: bool, watch: bool) -> None:
    """Show the state of each cell of SUITE, wherever it runs."""
    from cluster.slurm.in_queue import InQueue

    loaded, store = selection.load(skip_untuned=True), selection.existing_store
    while True:
        now = InQueue.now(store)
        rows = _status_rows(loaded, store, now)
        if as_json:
            print_json(rows)
        else:
            if watch and sys.stdout.isatty():
                click.clear()
            print_table(loaded.name, [_for_people(row) for row in rows])
            _print_messages(rows)
            states = [str(row["state"]) for row in rows]
            click.echo(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
        is_stranded = any(row["state"] in ("waiting", "failed", "interrupted") for row in rows)
        if is_stranded and (problem := now.ended_badly(loaded.name)):
            click.echo(f"{problem}; `symbench retry {loaded.argument} --on SITE` goes on", err=True)
        is_moving = any(row["state"] in ("queued", "running", "retrying") for row in rows)
        if not watch or not (is_moving or now.is_collecting(loaded.name)):
            return
        time.sleep(QUEUE_SECONDS if now.submissions or now.broken else WATCH_SECONDS)


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    """Row of a table: the label as the model, the epochs as `3/6`, and no message, which may be long."""
    kept = {key: value for key, value in row.items() if key not in ("label", "settings", "epochs", "message")}
    return {**kept, "model": row["label"], "epoch": f"{row['epoch']}/{row['epochs']}" if row["epochs"] else ""}


def _print_messages(rows: list[dict[str, Any]]) -> None:
    """Each message once, below the table, with the cells that have it."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(one_line(row["message"]), []).append(row["id"])
    for message, (first, *others) in cells.items():
        if message:
            more = f" and {len(others)} more" if others else ""
            click.echo(f"{first}{more}: {message}")


def _status_rows(suite: Suite, store: Store, now: InQueue) -> list[dict[str, Any]]:
    holders = {cell.id: holder for cell in suite.cells if (holder := store.live_holder(cell))}
    held = {key for key, holder in holders.items() if not now.is_waiting(holder)}
    statuses, broken = store.statuses(suite.cells)
    running, _ = store.read([cell for cell in suite.cells if cell.id in held])
    name_broken((*now.broken, *broken))
    finished = sum(status.is_result for status in statuses.values())
    if now.queue is None and finished < len(suite.cells):
        click.echo("squeue does not answer: the state of queued cells is not known", err=True)
    labels = labels_of(suite.cells)
    rows = []
    for cell in suite.cells:
        status = statuses.get(cell.id)
        state: str = status.state if status else "waiting"
        if status is None or not status.is_result:
            if cell.id in held:
                state = "running"
            elif cell.id in now.cells:
                state = "queued"
            elif status is not None and state == "failed" and now.sends_again(cell.id, status.failure):
                state = "retrying"
            elif state == "running":
                state = "interrupted"
        record = running.get(cell.id) if state == "running" else None
        rows.append(
            {
                "id": cell.id,
                "dataset": cell.dataset.name,
                "preset": cell.dataset.preset,
                "grid": cell.dataset.place,
                "level": cell.dataset.level,
                "model": cell.model.name,
                "label": labels[cell.id],
                "settings": cell.model.settings(),
                "seed": cell.seed,
                "state": state,
                "epoch": status.epoch if status and status.epochs else None,
                "epochs": status.epochs if status and status.epochs else None,
                "left": _time_left(record) if record else "",
                "message": _message(status, record) if status else "",
            }
        )
    return rows


def _message(status: Status, record: Record | None) -> str:
    """Failure of a cell, or for how long a running one has not finished an epoch, if that is unusually long."""
    if record is None:
        return ": ".join(filter(None, (status.failure, status.message)))
    silent = time.time() - status.heartbeat
    usual = max((epoch.seconds for epoch in record.history), default=SILENT_SECONDS / 3)
    return f"last epoch {duration(silent)} ago" if silent > max(SILENT_SECONDS, 3 * usual) else ""


def _time_left(record: Record) -> str:
    """Time that is left without early stopping; empty before the first epoch."""
    if not record.history:
        return ""
    each = sum(epoch.seconds for epoch in record.history) / len(record.history)
    return duration(each * (record.status.epochs - len(record.history)))


@click.command(cls=Examples, epilog="symbench doctor\nsymbench doctor --on my-site.yaml")
@site_option
@store_option
@json_option
@click.option("--patience", default=300, show_default=True, help="Seconds to wait for the trial job.")
def doctor(site: str, store_folder: Path, as_json: bool, patience: int) -> None:
    """Check this machine, or a cluster: problems, and their remedies."""
    from cluster.doctor import doctor as examination

    place = site_of(site)
    if place is None:
        findings = examination.examine_here(store_folder)
    else:
        findings = examination.examine_site(place, store_folder, patience)
    shown = []
    for finding in findings:
        shown.append(finding)
        if not as_json:
            color = {"ok": "green", "warning": "yellow", "failed": "red"}[finding.verdict]
            click.echo(f"{click.style(f'{finding.verdict:8}', fg=color)}{finding.check}: {finding.detail}")
            if finding.advice:
                click.echo(f"{'':8}{finding.advice}")
    if as_json:
        print_json([vars(finding) for finding in shown])
    examination.require_ready(shown)


@click.command(cls=Examples, epilog="symbench cancel icml2022-rotation")
@whole_suite
def cancel(selection: Selection) -> None:
    """Cancel the jobs that run or tune SUITE on a cluster, queued and running ones; results stay."""
    from cluster.slurm import commands as slurm
    from cluster.slurm.submissions import Submission, TuningSubmission, live_jobs

    store = selection.store
    name = suites.name_of(selection.suite, selection.store_folder, selection.overrides)
    sent = f"{name}-tuned" if selection.tuned else name
    jobs = live_jobs(store, name, TuningSubmission) + live_jobs(store, sent, Submission)
    if not jobs:
        click.echo(f"{sent}: no jobs in the queue")
        return
    if reason := slurm.cancel(jobs):
        raise MachineError(f"scancel: {reason}")
    click.echo(f"{sent}: {len(jobs)} jobs cancelled; the command that sent them goes on where they were")


def _complete_cells(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    folder = Path(ctx.params.get("store_folder") or os.environ.get("SYMBENCH_STORE", "runs"))
    ids = sorted(path.name for path in (folder / "cells").glob(f"{incomplete}*"))
    return [*complete_suites(ctx, parameter, incomplete), *ids]


@click.command(
    cls=Examples, epilog="symbench logs 4e58\nsymbench logs 4e58 --follow\nsymbench logs quickstart --failed"
)
@click.argument("name", metavar="CELL|SUITE", shell_complete=_complete_cells)
@click.option("--failed", is_flag=True, help="Logs of the cells of SUITE that failed.")
@click.option("--follow", is_flag=True, help="Print further epochs of CELL until it ends.")
@selecting()
def logs(selection: Selection, name: str, failed: bool, follow: bool) -> None:
    """Print the logs of all attempts at CELL, given by its id or the beginning of its id, and its epochs."""
    store = selection.existing_store
    ids = sorted(path.name for path in (store.root / "cells").glob("*"))
    if failed:
        cells = suites.load(name, selection.store_folder, skip_untuned=True).cells
        statuses, broken = store.statuses(cells)
        name_broken(broken)
        chosen = [cell.id for cell in cells if cell.id in statuses and statuses[cell.id].state == "failed"]
        if not chosen:
            click.echo(f"{name}: no cell has failed")
        for cell_id in chosen:
            _print_log(cell_id, ids, store)
        return
    matching = [cell_id for cell_id in ids if cell_id.startswith(name)]
    if len(matching) != 1:
        many = f"{len(matching)} cells have ids that begin so" if matching else "no such cell"
        raise UserError(
            f"cell {name!r}: {many} in store {store.root}; `symbench status SUITE` shows the ids,"
            " and `symbench logs SUITE --failed` the logs of what failed"
        )
    _print_log(matching[0], ids, store)
    shown, record = 0, read_record(store.cell_folder(matching[0]))
    while record is not None:
        runs = follow and store.being_run(record.cell)  # asked first, so that the last epochs are read after its end
        record = read_record(record.folder) or record
        for epoch in record.history[shown:]:
            click.echo(
                f"epoch {epoch.epoch}/{record.status.epochs}: train loss {epoch.train_loss:.4g},"
                f" validation RMSE {epoch.validation_rmse:.4g}, {epoch.seconds:.1f} s"
            )
        shown = len(record.history)
        if not runs:
            return
        time.sleep(WATCH_SECONDS)


def _print_log(cell_id: str, ids: list[str], store: Store) -> None:
    from cluster.slurm.logs import logs_of

    attempts = logs_of(cell_id, frozenset(ids), store)
    if not attempts:
        click.echo(f"cell {cell_id}: no log in {store.root / 'jobs'}", err=True)
    for path, lines in attempts:
        click.echo(click.style(f"== {path}", bold=True), err=True)
        click.echo("\n".join(lines))


COMMANDS = (status, cancel, logs, doctor)
