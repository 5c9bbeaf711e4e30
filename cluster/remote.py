"""A suite on a cluster: what is sent, what came of it, and what is sent again. Nobody has to stay and watch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import submitit

from benchmark import registry
from benchmark import suite as suites
from benchmark.cell import Cell
from benchmark.data.layout import data_path, require
from benchmark.errors import MachineError, UserError
from benchmark.files import write_text
from benchmark.plan import Speed, Timing, estimates
from benchmark.suite import Suite
from results.lease import BEAT_SECONDS, STALE_SECONDS
from results.store import Record, Store

from . import failures, slurm
from .packing import GFLOPS, shapes, within
from .site import Site
from .submit import Batch, Submission, batches, submissions, submit

POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Work:
    """What a launch would send: `left` are the cells of `batches`; those that earlier jobs have in hand are not."""

    left: tuple[Cell, ...]
    batches: tuple[Batch, ...]
    finished: int
    elsewhere: int
    """Cells that earlier jobs have in hand."""
    seconds: Mapping[str, float]


def affordable(suite: Suite, store: Store, site: Site, hours: float) -> Suite:
    """`suite` without the open cells that `hours` of all ranks together do not pay for; results cost nothing."""
    records, _ = store.read(suite.cells)
    left = [cell for cell in suite.cells if not (cell.id in records and records[cell.id].status.is_result)]
    seconds = expected_seconds(suite, left, records, site)
    cost = {
        cell.id: seconds[cell.id] * shape.ranks
        for shape, members in shapes(suite, left, site).items()
        for cell in members
    }
    paid = {cell.id for cell in within(left, cost, 3600 * hours)}
    if not any(cost[cell_id] for cell_id in paid) and any(cost.values()):
        whole = sum(cost.values()) / 3600
        raise UserError(f"--budget: {hours:g} h do not pay for one seed of all models; the suite takes {whole:.3g} h")
    open_ids = {cell.id for cell in left}
    return replace(suite, cells=tuple(cell for cell in suite.cells if cell.id in paid or cell.id not in open_ids))


def work_for(suite: Suite, store: Store, site: Site, only: Iterable[str] | None = None) -> Work:
    """The cells of `suite` (of `only`, by id) that are not a result and that no job has in hand, divided into jobs.

    MachineError: data are missing. UserError: the site cannot run them.
    """
    records, _ = store.read(suite.cells)
    finished = {key for key, record in records.items() if record.status.is_result}
    in_hand = cells_in_hand(store)
    wanted = set(only) if only is not None else {cell.id for cell in suite.cells}
    open_cells = [cell for cell in suite.cells if cell.id not in finished and cell.id in wanted]
    left = [cell for cell in open_cells if cell.id not in in_hand and not store.being_run(cell)]
    for dataset in dict.fromkeys(cell.dataset for cell in left):
        require(data_path(store.data_folder, dataset.name, dataset.preset, dataset.level))
    seconds = expected_seconds(suite, left, records, site)
    _require_that_they_end(left, seconds, site)
    return Work(
        tuple(left), tuple(batches(suite, left, seconds, site)), len(finished), len(open_cells) - len(left), seconds
    )


def _require_that_they_end(cells: Sequence[Cell], seconds: Mapping[str, float], site: Site) -> None:
    times = failures.POLICIES["time_limit"].retries + 1
    for cell in cells:
        if seconds[cell.id] > 60 * site.minutes * times:
            raise UserError(
                f"{cell}: about {seconds[cell.id] / 3600:.0f} h, and a job has {site.minutes} minutes {times} times; "
                "ask for more ranks or fewer epochs, or for a longer limit in the site file"
            )


def expected_seconds(
    suite: Suite, cells: Sequence[Cell], records: Mapping[str, Record], site: Site
) -> dict[str, float]:
    """Estimates for each cell by id, on the ranks that it will have."""
    speed_of = speeds(suite, cells, site)
    return {key: estimate.seconds for key, estimate in estimates(cells, timings(records), speed_of).items()}


def speeds(suite: Suite, cells: Sequence[Cell], site: Site) -> Speed:
    """How fast a cell of `suite` runs on `site`. UserError where it cannot."""
    by_shape = {
        cell.id: 1e9 * (site.gflops or GFLOPS[shape.device]) * shape.ranks
        for shape, members in shapes(suite, cells, site).items()
        for cell in members
    }
    return lambda cell: by_shape[cell.id]


def timings(records: Mapping[str, Record]) -> list[Timing]:
    """What finished cells took."""
    done = [record for record in records.values() if record.status.state == "done"]
    return [Timing(record.cell, record.metrics["training_seconds"]) for record in done]


def launch(suite: Suite, store: Store, site: Site, work: Work) -> Submission:
    """Send it, and the job that collects. MachineError: SLURM does not answer or refuses."""
    store.make()
    return submit(suite, store, site, work.batches, collect)


def cells_in_hand(store: Store) -> set[str]:
    """Ids of the cells whose jobs wait or run. MachineError where jobs were sent and SLURM does not answer."""
    cells, answered = in_hand(store)
    if not answered:
        raise MachineError("squeue does not answer, and jobs of this store may be in the queue; try again later")
    return cells


def in_hand(store: Store) -> tuple[set[str], bool]:
    """Ids of the cells whose jobs wait or run, and whether that is known: SLURM is asked if jobs were ever sent."""
    sent = submissions(store)
    queue = slurm.queue() if sent else {}
    if queue is None:
        return set(), False
    return {cell for one in sent for job, cells in one.jobs.items() if job in queue for cell in cells}, True


def live_jobs(store: Store, suite: Suite) -> list[str]:
    """Jobs of `suite` that wait or run, the collectors included. MachineError where SLURM does not answer."""
    sent = [one for one in submissions(store) if one.suite == suite.name]
    queue = slurm.queue() if sent else {}
    if queue is None:
        raise MachineError("squeue does not answer; try again later")
    return [job for one in sent for job in (*one.jobs, one.collector) if job in queue]


def cancel(jobs: Iterable[str]) -> None:
    """Take them out of the queue. MachineError where SLURM refuses."""
    if reason := slurm.cancel(jobs):
        raise MachineError(f"scancel: {reason}")


def collect(submission_file: str) -> None:
    """What the last job does: name what failed, send again what may go better, and show the rest.

    It may be called at any time after the jobs, and more than once.
    """
    submission = Submission.model_validate_json(Path(submission_file).read_text(encoding="utf-8"))
    for plugin in submission.plugins:
        registry.add_plugin(plugin)
    suite, store = suites.load(str(submission.suite_file)), Store(submission.store)
    _wait_for_the_dead(suite, store, submission)
    failed = settle(suite, store, submission)
    again = [
        cell_id
        for cell_id, failure in failed.items()
        if submission.attempts.get(cell_id, 0) < failures.POLICIES[failure].retries
    ]
    try:
        if again:
            where = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
            with submitit.helpers.clean_env():  # the jobs are not to inherit what SLURM has set for this one
                os.environ.update(where)
                _send_again(suite, store, submission, {cell_id: failed[cell_id] for cell_id in again})
    finally:
        show(suite, store)


def _wait_for_the_dead(suite: Suite, store: Store, submission: Submission) -> None:
    """Until nobody holds a cell of these jobs any more, or somebody goes on holding it who is alive."""
    sent = {cell_id for cells in submission.jobs.values() for cell_id in cells}
    cells = [cell for cell in suite.cells if cell.id in sent]
    deadline = time.monotonic() + STALE_SECONDS + BEAT_SECONDS
    while any(store.being_run(cell) for cell in cells) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def settle(suite: Suite, store: Store, submission: Submission) -> dict[str, str]:
    """Cell id -> class of failure, of all that the jobs left without a result; records that died are marked so."""
    states = slurm.accounts(submission.jobs)
    queue = slurm.queue() or {}
    by_id = {cell.id: cell for cell in suite.cells}
    failed: dict[str, str] = {}
    for job, cell_ids in submission.jobs.items():
        cells = [by_id[cell_id] for cell_id in cell_ids if cell_id in by_id]
        records, _ = store.read(cells)
        for cell in cells:
            record = records.get(cell.id)
            if (record and record.status.is_result) or job in queue or store.being_run(cell):
                continue
            failure = failures.of_job(states.get(job, ""))
            told = record.status.failure if record is not None and record.status.state == "failed" else ""
            if told and not (failure == "cancelled" and told in ("preempted", "time_limit")):
                failed[cell.id] = told if told in failures.POLICIES else "code_error"
                continue
            failed[cell.id] = failure
            if record is not None:
                store.fail(record, failure, f"job {job} ended: {failures.POLICIES[failure].meaning}")
    return failed


def _send_again(suite: Suite, store: Store, submission: Submission, failed: Mapping[str, str]) -> None:
    work = work_for(suite, store, submission.site, failed)
    micro_batches = {}
    for cell in work.left:
        if failures.POLICIES[failed[cell.id]].halve:
            halved = cell.train.batch_size // 2 ** (submission.attempts.get(cell.id, 0) + 1)
            micro_batches[cell.id] = max(1, halved // max(1, suite.resources.gpus or suite.resources.ranks))
    attempts = {**submission.attempts, **{key: submission.attempts.get(key, 0) + 1 for key in failed}}
    if work.left:
        submit(suite, store, submission.site, work.batches, collect, attempts, micro_batches)


def show(suite: Suite, store: Store) -> None:
    """Bring MLflow and the report up to date; `STORE/<suite file>.html`."""
    from results import mlflow_view, report  # MLflow and matplotlib take seconds to import

    records, broken = store.read(suite.cells)
    html = report.render(store, suite, records, broken)
    write_text(store.root / f"{_file_name(suite.name)}.html", html)
    mlflow_view.sync(store, suite, records, None, html)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
