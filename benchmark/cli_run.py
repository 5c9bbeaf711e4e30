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

from .cli_results import name_broken
from .errors import MachineError, UserError
from .options import (
    json_option,
    only_option,
    plugin_option,
    site_option,
    store_option,
    suite_argument,
    tuned_option,
)
from .terminal import Examples, duration, one_line, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster.site import Site
    from results.record import Record
    from results.store import Store

    from .cell import Cell
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
@tuned_option
@site_option
@budget_option
@click.option("--probe", is_flag=True, help="Time a few steps of each kind of cell first, and keep what that says.")
@click.option("--patience", default=600, show_default=True, help="Seconds to wait for the probe's job on a cluster.")
@store_option
@json_option
@plugin_option
def plan(
    suite: str,
    only: str,
    site: str,
    hours: float | None,
    probe: bool,
    patience: int,
    store_folder: Path,
    as_json: bool,
    tuned: bool,
) -> None:
    """Count the cells of SUITE, what is done, and what the rest will cost, here or on a cluster.

    Estimates come from finished cells of the same kind, from a probe, or from FLOPs. Only --probe changes anything.
    """
    from cluster import estimates
    from cluster import site as sites
    from cluster.submit import Cost, batches
    from cluster.work import affordable
    from results.store import Store

    from . import suites
    from .plan import left_of, make_plan

    loaded = suites.load(suite, store_folder, tuned, only)
    whole = suites.load(suite, store_folder, tuned, partly=True) if only else loaded
    store = Store(store_folder)
    statuses, broken = store.statuses(loaded.cells)
    name_broken(broken)
    place = None if site == "local" else sites.load(site)
    if place is None and hours is not None:
        _require_site(place)
    states = {key: status.state for key, status in statuses.items()}
    records = estimates.siblings(loaded, states, store)
    if probe:
        _probe(whole, left_of(loaded, states), records, store, place, patience)
    if place is not None and hours is not None:
        loaded = affordable(loaded, store, place, hours)
    open_cells = left_of(loaded, states)
    shape = None
    if place is None:
        expected, shape = estimates.here(whole, open_cells, records, store)
    else:
        expected = estimates.on_site(loaded, open_cells, records, place, store)
    seconds = {key: estimate.seconds for key, estimate in expected.items()}
    result = make_plan(loaded, open_cells, expected)
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
    took = shape.job_seconds(open_cells, seconds) if shape is not None else result.estimated_seconds
    told = f"{total} cells: {total - left} finished, {left} left, about {duration(took)}"
    if shape is not None:
        at_once = min(shape.lanes, left)
        summary["at_once"], summary["wall_seconds"] = at_once, round(took, 2)
        told += f" with {at_once} at once" if at_once > 1 else ""
    if place is not None:
        cost = Cost.of(batches(loaded, open_cells, seconds, place), seconds, place)
        summary["jobs"] = cost.jobs
        summary["longest_job_seconds"] = round(cost.longest_seconds, 2)
        summary["gpu_hours"], summary["rank_hours"] = round(cost.gpu_hours, 3), round(cost.rank_hours, 3)
        told += f" in all; {cost}"
    if as_json:
        print_json({**summary, "rows": rows})
        return
    print_table(loaded.name, rows)
    click.echo(told)


def _probe(
    suite: Suite,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    store: Store,
    site: Site | None,
    patience: int,
) -> None:
    """Measure what no finished cell tells; what was measured before is not measured again."""
    from cluster import estimates, pacing
    from cluster.launch import shape_here
    from cluster.packing import require_precision, shapes

    from .plan import unmeasured

    def say(line: str) -> None:
        click.echo(line, err=True)

    if site is None:
        shape = shape_here(suite, suite.cells, store)
        require_precision(cells, shape.device)
        wanted = unmeasured(cells, estimates.timings(records.values(), shape))
        store.make()
        pacing.probe_here(wanted, store, shape, say)
        return
    on_site = estimates.trained_shape(shapes(suite, cells, site))
    if on_site is not None:
        wanted = unmeasured(cells, estimates.timings(records.values(), on_site))
        pacing.probe_on_site(wanted, store, site, on_site, patience, say)


@click.command(
    cls=Examples,
    epilog="symbench run quickstart\nsymbench run quickstart --only 'model=convnet,seed=0'\n"
    "symbench run icml2022-rotation --on my-site.yaml --dry-run",
)
@suite_argument
@only_option
@tuned_option
@site_option
@budget_option
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    help="On this machine: cells side by side; by default what its cores, or GPUs, and its memory have room for.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be given to sbatch, and send nothing.")
@store_option
@plugin_option
def run(
    suite: str,
    only: str,
    site: str,
    hours: float | None,
    parallel: int | None,
    dry_run: bool,
    store_folder: Path,
    tuned: bool,
) -> None:
    """Run every cell of SUITE that is not finished; going on after an interruption is the same command.

    On a cluster the jobs are sent, and this command ends: nobody has to stay. The last job brings MLflow and the
    report up to date.
    """
    from results.store import Store

    from . import suites

    if parallel is not None and site != "local":
        raise UserError("--parallel: is for this machine; there, cells_per_gpu in the site's file says how many")
    loaded = suites.load(suite, store_folder, tuned, only)
    store = Store(store_folder)
    whole = suites.load(suite, store_folder, tuned, partly=True) if only else loaded
    if site == "local":
        if dry_run:
            raise UserError("--dry-run: there is no sbatch to show without `--on SITE`; see `symbench plan`")
        if hours is not None:
            _require_site(None)
        _run_here(loaded, store, parallel, whole)
    else:
        _run_there(loaded, store, site, dry_run, hours)


def _run_here(suite: Suite, store: Store, parallel: int | None = None, whole: Suite | None = None) -> None:
    from cluster.display import Display
    from cluster.launch import run as launch

    try:
        with Display(Console(stderr=True)) as display:
            outcome = launch(suite, store, display, parallel, whole)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from the last finished epoch", err=True)
        sys.exit(130)
    click.echo(f"{suite.name}: {outcome.done} cells run, {outcome.skipped} were finished, {len(outcome.failed)} failed")
    for record in outcome.failed:
        click.echo(f"failed: {record.cell}: {record.status.failure}: {one_line(record.status.message)}", err=True)
    if outcome.failed:
        sys.exit(1)


def _require_site(site: Site | None) -> Site:
    if site is None:
        raise UserError("--budget: is for a cluster, with `--on SITE`; on this machine choose cells with --only")
    return site


def _run_there(suite: Suite, store: Store, site: str, dry_run: bool, hours: float | None = None) -> None:
    from cluster import site as sites
    from cluster.collector import collect
    from cluster.slurm import arrays_of
    from cluster.submit import Cost, script, submit
    from cluster.work import affordable, work_for

    place = sites.load(site)
    if hours is not None:
        suite = affordable(suite, store, place, hours)
    work = work_for(suite, store, place)
    told = f"{work.finished} finished" + (f", {work.elsewhere} in earlier jobs" if work.elsewhere else "")
    if not work.left:
        click.echo(f"{suite.name}: nothing to send; {told}")
        return
    if dry_run:
        for batch in work.batches:
            click.echo(script(suite, store, place, batch))
        return
    submission = submit(suite, store, place, work.batches, collect)
    arrays = arrays_of(submission.jobs)
    longest = Cost.of(work.batches, work.seconds, place).longest_seconds
    click.echo(
        f"{suite.name}: {len(work.left)} cells in {len(submission.jobs)} jobs ({', '.join(arrays)}), the longest about "
        f"{duration(longest)}; {told}\njob {submission.collector} collects; `symbench status` shows how far they are"
    )


@click.command(cls=Examples, epilog="symbench status quickstart --only level=9\nsymbench status quickstart --watch")
@suite_argument
@only_option
@tuned_option
@store_option
@json_option
@plugin_option
@click.option("--watch", is_flag=True, help="Show it again every few seconds, until nothing waits or runs.")
def status(suite: str, only: str, store_folder: Path, as_json: bool, watch: bool, tuned: bool) -> None:
    """Show how far each cell of SUITE is, wherever it runs; changes nothing."""
    from results.store import Store

    from . import suites

    loaded = suites.load(suite, store_folder, tuned, only, partly=True)
    store = Store(store_folder)
    while True:
        rows = _status_rows(loaded, store)
        if as_json:
            print_json(rows)
        else:
            if watch and sys.stdout.isatty():
                click.clear()
            print_table(loaded.name, [{**row, "message": one_line(row["message"])} for row in rows])
            states = [str(row["state"]) for row in rows]
            click.echo(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
        if not watch or not any(row["state"] in ("queued", "running") for row in rows):
            return
        time.sleep(WATCH_SECONDS)


def _status_rows(suite: Suite, store: Store) -> list[dict[str, Any]]:
    from cluster.submissions import cells_in_hand_if_known, unreadable

    queued, answered = cells_in_hand_if_known(store)  # first: it may take long, and cells go on meanwhile
    held = {cell.id for cell in suite.cells if store.being_run(cell)}
    statuses, broken = store.statuses(suite.cells)
    running, _ = store.read([cell for cell in suite.cells if cell.id in held])
    name_broken((*unreadable(store), *broken))
    finished = sum(status.is_result for status in statuses.values())
    if not answered and finished < len(suite.cells):
        click.echo("squeue does not answer: what waits in the queue is not known", err=True)
    rows = []
    for cell in suite.cells:
        status = statuses.get(cell.id)
        state: str = status.state if status else "waiting"
        if status is None or not status.is_result:
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
                "epoch": f"{status.epoch}/{status.epochs}" if status and status.epochs else "",
                "left": _time_left(running[cell.id]) if state == "running" and cell.id in running else "",
                "message": ": ".join(filter(None, (status.failure, status.message))) if status else "",
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
@tuned_option
@store_option
@plugin_option
def cancel(suite: str, store_folder: Path, tuned: bool) -> None:
    """Take the jobs of SUITE, and those that tune it, out of the cluster's queue, also where they run; results stay."""
    from cluster import submissions
    from cluster.submissions import Submission, TuningSubmission
    from results.store import Store

    from . import suites

    store, loaded = Store(store_folder), suites.load(suite)
    jobs = submissions.live_jobs(store, loaded, TuningSubmission)
    try:
        loaded = suites.load(suite, store_folder, tuned, partly=True)
        jobs += submissions.live_jobs(store, loaded, Submission)
    except UserError:  # its cells are not known before it is tuned
        if not jobs:
            raise
    if not jobs:
        click.echo(f"{loaded.name}: no jobs in the queue")
        return
    submissions.cancel(jobs)
    click.echo(f"{loaded.name}: {len(jobs)} jobs cancelled; the command that sent them goes on where they were")


@click.command(cls=Examples, epilog="symbench retry quickstart\nsymbench retry quickstart --failed host_out_of_memory")
@suite_argument
@tuned_option
@store_option
@plugin_option
@site_option
@click.option("--failed", "failure", help="Only the cells that failed for this reason, as `status` shows it.")
def retry(suite: str, store_folder: Path, site: str, failure: str | None, tuned: bool) -> None:
    """Run the cells of SUITE again that failed, whatever the reason; from their checkpoints where they have one."""
    from results.store import Store

    from . import registry, suites

    loaded, store = suites.load(suite, store_folder, tuned, partly=True), Store(store_folder)
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
        _run_here(again, store, whole=loaded)
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
