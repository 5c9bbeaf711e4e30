"""The commands that run cells, here or on a cluster, and those that look after what runs."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from .errors import MachineError, UserError
from .options import json_option, only_option, plugin_option, site_option, store_option, suite_argument
from .terminal import Examples, duration, print_json, print_table

if TYPE_CHECKING:
    from cluster.site import Site
    from results.store import Record, Store

    from .suite import Suite

WATCH_SECONDS = 5.0


def _hours(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gpu|rank)?h", value)
    if match is None:
        raise click.BadParameter("must be hours of all ranks together, as 200gpuh")
    return float(match[1])


budget_option = click.option(
    "--budget",
    "hours",
    callback=_hours,
    metavar="200gpuh",
    help="On a cluster: only as many seeds and levels as this pays for, each with all models.",
)


@click.command(cls=Examples, epilog="symbench plan quickstart\nsymbench plan my-suite.yaml --on my-site.yaml --json")
@suite_argument
@only_option
@site_option
@budget_option
@store_option
@json_option
@plugin_option
def plan(suite: str, only: str, site: str, hours: float | None, store_folder: Path, as_json: bool) -> None:
    """Count the cells of SUITE, what is done, and what the rest will cost, here or on a cluster; changes nothing."""
    from cluster import remote
    from cluster import site as sites
    from cluster.submit import batches
    from results.store import Store

    from . import suite as suites
    from .plan import make_plan

    loaded = suites.load(suite)
    loaded = loaded.only(only) if only else loaded
    records, broken = Store(store_folder).read(loaded.cells)
    for item in broken:
        click.echo(f"skipped {item.folder}: {item.reason}", err=True)
    place = None if site == "local" else sites.load(site)
    if hours is not None:
        loaded = remote.affordable(loaded, Store(store_folder), _require_site(place), hours)
    speed = None if place is None else remote.speeds(loaded, loaded.cells, place)
    states = {key: record.status.state for key, record in records.items()}
    result = make_plan(loaded, states, remote.timings(records), speed)
    rows = [
        {
            "dataset": row.dataset,
            "preset": row.preset,
            "level": row.level,
            "model": row.model,
            "cells": row.cells,
            "finished": row.finished,
            "estimated_seconds": round(row.estimated_seconds, 2),
            "estimate": row.basis,
        }
        for row in result.rows
    ]
    total, left = len(loaded.cells), len(result.left)
    summary: dict[str, Any] = {
        "suite": loaded.name,
        "cells": total,
        "finished": total - left,
        "left": left,
        "estimated_seconds": round(result.estimated_seconds, 2),
    }
    told = f"{total} cells: {total - left} finished, {left} left, about {duration(result.estimated_seconds)}"
    if place is not None:
        seconds = remote.expected_seconds(loaded, result.left, records, place)
        work = batches(loaded, result.left, seconds, place)
        jobs = [
            (batch.shape, sum(seconds[cell.id] for cell in job) / batch.shape.lanes)
            for batch in work
            for job in batch.jobs
        ]
        summary["jobs"] = len(jobs)
        summary["longest_job_seconds"] = round(max((each for _, each in jobs), default=0.0), 2)
        summary["rank_hours"] = round(sum(shape.ranks * shape.lanes * each for shape, each in jobs) / 3600, 3)
        told += (
            f" in all; {summary['jobs']} jobs, the longest about {duration(summary['longest_job_seconds'])}; "
            f"{summary['rank_hours']:.3g} {'GPU' if place.gpus_per_node else 'rank'}-hours"
        )
    if as_json:
        print_json({**summary, "rows": rows})
        return
    print_table(loaded.name, rows)
    click.echo(told)


@click.command(
    cls=Examples,
    epilog="symbench run quickstart\nsymbench run quickstart --only 'model=convnet,seed=0'\n"
    "symbench run icml2022-rotation --on my-site.yaml --dry-run",
)
@suite_argument
@only_option
@site_option
@budget_option
@click.option("--dry-run", is_flag=True, help="Print what would be given to sbatch, and send nothing.")
@store_option
@plugin_option
def run(suite: str, only: str, site: str, hours: float | None, dry_run: bool, store_folder: Path) -> None:
    """Run every cell of SUITE that is not finished; going on after an interruption is the same command.

    On a cluster the jobs are sent, and this command ends: nobody has to stay. The last job brings MLflow and the
    report up to date.
    """
    from results.store import Store

    from . import suite as suites

    loaded = suites.load(suite)
    loaded = loaded.only(only) if only else loaded
    store = Store(store_folder)
    if site == "local":
        if dry_run:
            raise UserError("--dry-run: there is no sbatch to show without `--on SITE`; see `symbench plan`")
        if hours is not None:
            _require_site(None)
        _run_here(loaded, store)
    else:
        _run_there(loaded, store, site, dry_run, hours)


def _run_here(suite: Suite, store: Store) -> None:
    from cluster.display import Display
    from cluster.launch import run as launch

    try:
        with Display(Console(stderr=True)) as display:
            outcome = launch(suite, store, display)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from the last finished epoch", err=True)
        sys.exit(130)
    click.echo(f"{suite.name}: {outcome.done} cells run, {outcome.skipped} were finished, {len(outcome.failed)} failed")
    for record in outcome.failed:
        click.echo(f"failed: {record.cell}: {record.status.failure}: {record.status.message}", err=True)
    if outcome.failed:
        sys.exit(1)


def _require_site(site: Site | None) -> Site:
    if site is None:
        raise UserError("--budget: is for a cluster, with `--on SITE`; on this machine choose cells with --only")
    return site


def _run_there(suite: Suite, store: Store, site: str, dry_run: bool, hours: float | None = None) -> None:
    from cluster import remote
    from cluster import site as sites
    from cluster.submit import script

    place = sites.load(site)
    if hours is not None:
        suite = remote.affordable(suite, store, place, hours)
    work = remote.work_for(suite, store, place)
    told = f"{work.finished} finished" + (f", {work.elsewhere} in earlier jobs" if work.elsewhere else "")
    if not work.left:
        click.echo(f"{suite.name}: nothing to send; {told}")
        return
    if dry_run:
        for batch in work.batches:
            click.echo(script(suite, store, place, batch))
        return
    submission = remote.launch(suite, store, place, work)
    arrays = dict.fromkeys(job.partition("_")[0] for job in submission.jobs)
    longest = max(sum(work.seconds[cell.id] for cell in job) for batch in work.batches for job in batch.jobs)
    click.echo(
        f"{suite.name}: {len(work.left)} cells in {len(submission.jobs)} jobs ({', '.join(arrays)}), the longest about "
        f"{duration(longest)}; {told}\njob {submission.collector} collects; `symbench status` shows how far they are"
    )


@click.command(cls=Examples, epilog="symbench status quickstart --only level=9\nsymbench status quickstart --watch")
@suite_argument
@only_option
@store_option
@json_option
@plugin_option
@click.option("--watch", is_flag=True, help="Show it again every few seconds, until nothing waits or runs.")
def status(suite: str, only: str, store_folder: Path, as_json: bool, watch: bool) -> None:
    """Show how far each cell of SUITE is, wherever it runs; changes nothing."""
    from results.store import Store

    from . import suite as suites

    loaded = suites.load(suite)
    loaded = loaded.only(only) if only else loaded
    store = Store(store_folder)
    while True:
        rows = _status_rows(loaded, store)
        if as_json:
            print_json(rows)
        else:
            if watch and sys.stdout.isatty():
                click.clear()
            print_table(loaded.name, rows)
            states = [str(row["state"]) for row in rows]
            click.echo(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
        if not watch or not any(row["state"] in ("queued", "running") for row in rows):
            return
        time.sleep(WATCH_SECONDS)


def _status_rows(suite: Suite, store: Store) -> list[dict[str, Any]]:
    from cluster.remote import in_hand

    queued, answered = in_hand(store)  # first: it may take long, and cells go on meanwhile
    held = {cell.id for cell in suite.cells if store.being_run(cell)}
    records, broken = store.read(suite.cells)
    for item in broken:
        click.echo(f"skipped {item.folder}: {item.reason}", err=True)
    finished = sum(record.status.is_result for record in records.values())
    if not answered and finished < len(suite.cells):
        click.echo("squeue does not answer: what waits in the queue is not known", err=True)
    rows = []
    for cell in suite.cells:
        record = records.get(cell.id)
        state: str = record.status.state if record else "waiting"
        if record is None or not record.status.is_result:
            if cell.id in held:
                state = "running"
            elif cell.id in queued:
                state = "queued"
            elif state == "running":
                state = "interrupted"
        rows.append(
            {
                "id": cell.id,
                "dataset": cell.dataset.name,
                "level": cell.dataset.level,
                "model": cell.model.name,
                "seed": cell.seed,
                "state": state,
                "epoch": f"{record.status.epoch}/{record.status.epochs}" if record and record.status.epochs else "",
                "left": _time_left(record) if record and state == "running" else "",
                "message": ": ".join(filter(None, (record.status.failure, record.status.message))) if record else "",
            }
        )
    return rows


def _time_left(record: Record) -> str:
    """Early stopping left out."""
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
    """Try this machine, or a cluster: what would break there, and what to do about it."""
    from cluster import doctor as examination
    from cluster import site as sites

    if site == "local":
        findings = examination.examine_here(store_folder)
    else:
        findings = examination.examine_site(sites.load(site), store_folder, patience)
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            color = {"ok": "green", "warning": "yellow", "failed": "red"}[finding.verdict]
            click.echo(f"{click.style(f'{finding.verdict:8}', fg=color)}{finding.check}: {finding.detail}")
            if finding.advice:
                click.echo(f"{'':8}{finding.advice}")
    if as_json:
        print_json([vars(finding) for finding in found])
    examination.require_ready(found)


@click.command(cls=Examples, epilog="symbench cancel icml2022-rotation")
@suite_argument
@store_option
@plugin_option
def cancel(suite: str, store_folder: Path) -> None:
    """Take the jobs of SUITE out of the cluster's queue, those that run included; results stay."""
    from cluster import remote
    from results.store import Store

    from . import suite as suites

    loaded = suites.load(suite)
    jobs = remote.live_jobs(Store(store_folder), loaded)
    if not jobs:
        click.echo(f"{loaded.name}: no jobs in the queue")
        return
    remote.cancel(jobs)
    click.echo(f"{loaded.name}: {len(jobs)} jobs cancelled; `symbench run` goes on from the last finished epoch")


@click.command(cls=Examples, epilog="symbench retry quickstart\nsymbench retry quickstart --failed host_out_of_memory")
@suite_argument
@store_option
@plugin_option
@site_option
@click.option("--failed", "failure", help="Only the cells that failed for this reason, as `status` shows it.")
def retry(suite: str, store_folder: Path, site: str, failure: str | None) -> None:
    """Run the cells of SUITE again that failed, whatever the reason; from their checkpoints where they have one."""
    from results.store import Store

    from . import registry
    from . import suite as suites

    loaded, store = suites.load(suite), Store(store_folder)
    records, _ = store.read(loaded.cells)
    failed = {key: record.status.failure for key, record in records.items() if record.status.state == "failed"}
    if failure is not None and failure not in failed.values():
        raise UserError(f"--failed {failure}: {registry.unknown('reason', failure, sorted(set(failed.values())))}")
    wanted = {key for key, reason in failed.items() if failure in (None, reason)}
    if not wanted:
        click.echo(f"{loaded.name}: no cell has failed")
        return
    again = replace(loaded, cells=tuple(cell for cell in loaded.cells if cell.id in wanted))
    if site == "local":
        _run_here(again, store)
    else:
        _run_there(again, store, site, dry_run=False)


@click.command(cls=Examples, epilog="symbench logs 4e585936be9a1890\nsymbench logs 4e58")
@click.argument("cell")
@store_option
def logs(cell: str, store_folder: Path) -> None:
    """Print what the attempts at CELL wrote, by its id or the beginning of it."""
    from cluster.logs import logs_of
    from results.store import Store

    store = Store(store_folder)
    ids = sorted(path.name for path in (store.root / "cells").glob("*"))
    matching = [cell_id for cell_id in ids if cell_id.startswith(cell)]
    if len(matching) != 1:
        many = f"{len(matching)} cells begin so" if matching else "no such cell"
        raise UserError(f"cell {cell!r}: {many} in store {store.root}; `symbench status SUITE` shows the ids")
    found = logs_of(matching[0], frozenset(ids), store)
    if not found:
        raise MachineError(f"cell {matching[0]}: there is no log of it in {store.root / 'jobs'}")
    for log in found:
        click.echo(click.style(f"== {log.path}", bold=True), err=True)
        click.echo("\n".join(log.lines))


COMMANDS = (plan, run, status, retry, cancel, logs, doctor)
