"""`symbench status`, `logs`, `cancel` and `doctor`: cells and jobs that run, and the machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import (
    Selection,
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
from benchmark.terminal import Examples, duration, one_line, print_json, print_table, without_repetitions

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

    loaded, store = selection.load(skip_untuned=True), selection.store
    while True:
        now = InQueue.now(store)
        rows = _status_rows(loaded, store, now)
        if as_json:
            print_json(rows)
        else:
            if watch and sys.stdout.isatty():
                click.clear()
            messages = without_repetitions([(row["id"], one_line(row["message"])) for row in rows])
            print_table(loaded.name, [_for_people(row, text) for row, text in zip(rows, messages, strict=True)])
            states = [str(row["state"]) for row in rows]
            click.echo(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
        is_stranded = any(row["state"] in ("waiting", "failed", "interrupted") for row in rows)
        if is_stranded and (problem := now.ended_badly(loaded.name)):
            click.echo(f"{problem}; `symbench retry {selection.suite} --on SITE` goes on", err=True)
        is_moving = any(row["state"] in ("queued", "running", "retrying") for row in rows)
        if not watch or not (is_moving or now.is_collecting(loaded.name)):
            return
        time.sleep(QUEUE_SECONDS if now.submissions or now.broken else WATCH_SECONDS)


def _for_people(row: dict[str, Any], message: str) -> dict[str, Any]:
    """Row of a table: the label as the model, and the epochs as `3/6`."""
    kept = {key: value for key, value in row.items() if key not in ("label", "settings", "epochs")}
    epoch = f"{row['epoch']}/{row['epochs']}" if row["epochs"] else ""
    return {**kept, "model": row["label"], "epoch": epoch, "message": message}


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

    store, name = selection.store, suites.name_of(selection.suite)
    sent = f"{name}-tuned" if selection.tuned else name
    jobs = live_jobs(store, name, TuningSubmission) + live_jobs(store, sent, Submission)
    if not jobs:
        click.echo(f"{sent}: no jobs in the queue")
        return
    if reason := slurm.cancel(jobs):
        raise MachineError(f"scancel: {reason}")
    click.echo(f"{sent}: {len(jobs)} jobs cancelled; the command that sent them goes on where they were")


@click.command(cls=Examples, epilog="symbench logs 4e585936be9a1890\nsymbench logs 4e58")
@click.argument("cell")
@selecting(plugins=False)
def logs(selection: Selection, cell: str) -> None:
    """Print the logs of all attempts at CELL, given by its id or the beginning of its id."""
    from cluster.slurm.logs import logs_of

    store = selection.store
    ids = sorted(path.name for path in (store.root / "cells").glob("*"))
    matching = [cell_id for cell_id in ids if cell_id.startswith(cell)]
    if len(matching) != 1:
        many = f"{len(matching)} cells have ids that begin so" if matching else "no such cell"
        raise UserError(f"cell {cell!r}: {many} in store {store.root}; `symbench status SUITE` shows the ids")
    attempts = logs_of(matching[0], frozenset(ids), store)
    if not attempts:
        raise MachineError(f"cell {matching[0]}: no log in {store.root / 'jobs'}")
    for path, lines in attempts:
        click.echo(click.style(f"== {path}", bold=True), err=True)
        click.echo("\n".join(lines))


COMMANDS = (status, cancel, logs, doctor)
