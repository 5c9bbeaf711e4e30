"""`symbench run` and `symbench retry`: run cells, here or on a cluster."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.console import Console

from benchmark.cli.options import (
    Selection,
    budget_option,
    live_code_option,
    site_of,
    site_option,
    some_cells,
)
from benchmark.errors import UserError, unknown_name
from benchmark.suite import loading as suites
from benchmark.suite.labels import labels_of
from benchmark.terminal import Examples, duration, one_line
from cluster.jobs.login_node import few_cores

if TYPE_CHECKING:
    from benchmark.cell import Cell
    from benchmark.suite.suite import Suite
    from cluster.site import Site
    from results.store.record import Record
    from results.store.store import Store


@click.command(
    cls=Examples,
    epilog="symbench run quickstart\nsymbench run quickstart --only 'model=convnet,seed=0'\n"
    "symbench run icml2022-rotation --on my-site.yaml --dry-run",
)
@some_cells
@site_option
@budget_option
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    help="On this machine: cells at a time (default: as many as its cores or GPUs, and its memory, allow).",
)
@click.option("--dry-run", is_flag=True, help="Print the sbatch scripts, and submit nothing.")
@click.option(
    "--retrain", is_flag=True, help="First discard the results that were computed with other data or code than today's."
)
@live_code_option
def run(
    selection: Selection,
    site: str,
    hours: float | None,
    parallel: int | None,
    dry_run: bool,
    retrain: bool,
    live_code: bool,
) -> None:
    """Run the open cells of SUITE; after an interruption, the same command continues.

    Finished cells stay as they are. Those that were computed with other data or code are counted, and with --retrain
    trained again.

    On a cluster the jobs are submitted, and this command ends. The last job updates MLflow and the report. The jobs
    import a copy of today's code and plug-ins.
    """
    if parallel is not None and site != "local":
        raise UserError("--parallel: only on this machine; on a cluster set cells_per_gpu in the site's file")
    place = site_of(site, hours, live_code)
    if place is None and dry_run:
        raise UserError("--dry-run: there is no sbatch to show without `--on SITE`; see `symbench plan`")
    if dry_run and retrain:
        raise UserError("--dry-run: changes nothing, and --retrain discards results; use one of them")
    loaded, full_suite = selection.load_with_full_suite()
    _show_outdated(loaded, selection.store, retrain)
    if not dry_run:
        suites.keep(full_suite, selection.store_folder)
    if place is None:
        _run_here(loaded, selection.store, full_suite, parallel)
    else:
        _run_there(loaded, selection.store, place, live_code, dry_run, hours)


def _show_outdated(suite: Suite, store: Store, retrain: bool) -> None:
    """Count the results of other data or code than today's on stderr, or discard them."""
    review = store.review(suite.cells)
    if not retrain:
        for line in review.outdated_lines:
            click.echo(line, err=True)
        return
    for cell in review.cells:
        store.discard(cell)
    click.echo(f"{suite.name}: {len(review.cells)} results of other data or code discarded", err=True)


def _run_here(suite: Suite, store: Store, full_suite: Suite, parallel: int | None = None) -> None:
    from cluster.jobs.display import Display
    from cluster.jobs.launch import run as launch

    try:
        with few_cores(parallel, "symbench run --parallel N"), Display(Console(stderr=True)) as display:
            outcome = launch(suite, store, display, full_suite, parallel)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from the last finished epoch", err=True)
        sys.exit(130)
    click.echo(f"{suite.name}: {outcome.done} cells run, {outcome.skipped} were finished, {len(outcome.failed)} failed")
    for line in store.review(suite.cells).mixed_lines:
        click.echo(line, err=True)
    labels = labels_of(suite.cells)
    causes: dict[str, list[Record]] = {}
    for record in outcome.failed:
        causes.setdefault(f"{record.status.failure}: {one_line(record.status.message)}", []).append(record)
    for cause, (first, *others) in causes.items():
        more = f"; {len(others)} more for the same reason" if others else ""
        click.echo(f"failed: {first.cell.named(labels[first.cell.id])}: {cause}{more}", err=True)
    if outcome.failed:
        sys.exit(1)


def _run_there(
    suite: Suite, store: Store, site: Site, live_code: bool, dry_run: bool = False, hours: float | None = None
) -> None:
    from cluster.jobs import snapshot
    from cluster.slurm.collector import collect
    from cluster.slurm.submit import Cost, Options, script, submit
    from cluster.slurm.work import affordable, work_for

    if hours is not None:
        suite = affordable(suite, store, site, hours)
    work = work_for(suite, store, site)
    earlier = f"{work.finished} finished" + (f", {work.queued} in earlier jobs" if work.queued else "")
    if not work.cells:
        click.echo(f"{suite.name}: nothing to send; {earlier}")
        return
    if dry_run:
        in_job = snapshot.with_code(site, None if live_code else snapshot.planned(store.root))
        for batch in work.batches:
            click.echo(script(suite, store, in_job, batch))
        return
    options = Options(None if live_code else snapshot.take(store.root))
    submission = submit(suite, store, site, work.batches, collect, options)
    longest = Cost.of(work.batches, work.seconds, site).longest_seconds
    count = len(work.cells) - len(submission.unsent)
    click.echo(
        f"{suite.name}: {count} cells in {len(submission.jobs)} jobs ({', '.join(submission.arrays)}), "
        f"the longest about {duration(longest)}; {earlier}\n"
        f"job {submission.collector} collects; `symbench status` shows how far they are"
    )
    if submission.unsent:
        reason = submission.refusal or "more jobs may not be in the queue"
        click.echo(f"{reason}: job {submission.collector} sends {len(submission.unsent)} more cells", err=True)


@click.command(cls=Examples, epilog="symbench retry quickstart\nsymbench retry quickstart --failed host_out_of_memory")
@some_cells
@site_option
@click.option("--failed", "failure", help="Only cells that failed for this reason, as shown by `status`.")
@live_code_option
def retry(selection: Selection, site: str, failure: str | None, live_code: bool) -> None:
    """Run the cells of SUITE again that failed, were interrupted or never began, from their checkpoints."""
    place, loaded, store = site_of(site, live_code=live_code), selection.load(skip_untuned=True), selection.store
    full_suite = replace(selection, only="").load(skip_untuned=True) if selection.only else loaded
    statuses, _ = store.statuses(loaded.cells)
    failed = {key: status.failure for key, status in statuses.items() if status.state == "failed"}
    if failure is not None and not failed:
        click.echo(f"{loaded.name}: no cell has failed")
        return
    if failure is not None and failure not in failed.values():
        raise UserError(f"--failed {failure}: {unknown_name('reason', failure, sorted(set(failed.values())))}")

    def is_wanted(cell: Cell) -> bool:
        if failure is not None:
            return failed.get(cell.id) == failure
        return cell.id not in statuses or not statuses[cell.id].is_result

    again = replace(loaded, cells=tuple(filter(is_wanted, loaded.cells)))
    if not again.cells:
        click.echo(f"{loaded.name}: every cell has a result")
        return
    suites.keep(full_suite, selection.store_folder)
    if place is None:
        _run_here(again, store, full_suite)
    else:
        _run_there(again, store, place, live_code)


COMMANDS = (run, retry)
