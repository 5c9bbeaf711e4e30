"""A suite on a cluster: what is sent, what came of it, and what is sent again. Nobody has to stay and watch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import submitit

from benchmark import registry, suites
from benchmark.cell import Cell
from benchmark.data.layout import field_path, require
from benchmark.errors import MachineError, SymbenchError, UserError
from benchmark.files import write_text
from benchmark.suite import Suite
from results.lease import BEAT_SECONDS, STALE_SECONDS
from results.record import Broken
from results.store import Store

from . import estimates, failures, slurm
from .packing import shapes, within
from .site import Site
from .submit import Batch, Submission, arrays_of, batches, read, submissions, submit

POLL_SECONDS = 5.0
ANSWER_SECONDS = 120.0
"""So long the collector goes on asking where SLURM does not answer, or accounting lags behind."""


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
    """`suite` without the open cells that `hours` of all GPUs together, or of all ranks on CPUs, do not pay for.

    Results cost nothing.
    """
    records, _ = store.read(suite.cells)
    left = [cell for cell in suite.cells if not (cell.id in records and records[cell.id].status.is_result)]
    seconds = estimates.seconds_on(suite, left, records, site, store)
    cost = {
        cell.id: seconds[cell.id] * shape.units(site) / shape.lanes
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
        require(field_path(store.data_folder, dataset))
    seconds = estimates.seconds_on(suite, left, records, site, store)
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


def launch(suite: Suite, store: Store, site: Site, work: Work) -> Submission:
    """Send it, and the job that collects. MachineError: SLURM does not answer or refuses."""
    store.make()
    return submit(suite, store, site, work.batches, collect)


def cells_in_hand(store: Store) -> set[str]:
    """Ids of the cells whose jobs wait or run. MachineError where jobs were sent and SLURM does not answer."""
    sent, broken, queue = _sent(store)
    if queue is None:
        raise MachineError("squeue does not answer, and jobs of this store may be in the queue; try again later")
    _require_none_of(broken, queue)
    return _cells_of(sent, queue)


def in_hand(store: Store) -> tuple[set[str], bool]:
    """Ids of the cells whose jobs wait or run, and whether that is known; notes that cannot be read are passed over."""
    sent, _, queue = _sent(store)
    return (set(), False) if queue is None else (_cells_of(sent, queue), True)


def unreadable(store: Store) -> list[Broken]:
    """What was sent by jobs whose note cannot be read."""
    return submissions(store)[1]


def live_jobs(store: Store, suite: Suite) -> list[str]:
    """Jobs of `suite` that wait or run, the collectors included. MachineError where SLURM does not answer."""
    sent, broken, queue = _sent(store)
    if queue is None:
        raise MachineError("squeue does not answer; try again later")
    _require_none_of(broken, queue)
    mine = [one for one in sent if one.suite == suite.name]
    return [job for one in mine for job in (*one.jobs, one.collector) if job in queue]


def _sent(store: Store) -> tuple[list[Submission], list[Broken], dict[str, str] | None]:
    """What was sent, notes that cannot be read, and the queue: SLURM is asked if jobs were ever sent."""
    sent, broken = submissions(store)
    return sent, broken, slurm.queue() if sent or broken else {}


def _cells_of(sent: Iterable[Submission], queue: Mapping[str, str]) -> set[str]:
    return {cell for one in sent for job, cells in one.jobs.items() if job in queue for cell in cells}


def _require_none_of(broken: Iterable[Broken], queue: Mapping[str, str]) -> None:
    """MachineError where jobs are in the queue and their note, which says what they run, cannot be read."""
    waiting = {job.partition("_")[0] for job in queue}
    for note in broken:
        if jobs := sorted(arrays_of(note.folder) & waiting):
            raise MachineError(
                f"{note.folder}: {note.reason}; its jobs are in the queue, and what they run is not known: "
                f"wait for them, or `scancel {' '.join(jobs)}`"
            )


def cancel(jobs: Iterable[str]) -> None:
    """Take them out of the queue. MachineError where SLURM refuses."""
    if reason := slurm.cancel(jobs):
        raise MachineError(f"scancel: {reason}")


def collect(submission_file: str) -> None:
    """What the last job does: name what failed, send again what may go better, and show the rest.

    It may be called at any time after the jobs, and more than once. Without SLURM's commands, as in a container, it
    still names and shows, and says that nothing was sent.
    """
    submission = read(Path(submission_file))
    for plugin in submission.plugins:
        registry.add_plugin(plugin)
    store = Store(submission.store)
    suite = suites.load(str(submission.suite_file), store.root, submission.tuned, partly=True)
    _wait_for_the_dead(suite, store, submission)
    failed = settle(suite, store, submission)
    again = {
        cell_id: failure
        for cell_id, failure in failed.items()
        if submission.sent_again.get(cell_id, {}).get(failure, 0) < failures.POLICIES[failure].retries
    }
    for cell_id, failure in failed.items():
        print(f"{failure}: {cell_id}{'' if cell_id in again else ', which is given up'}", flush=True)
    try:
        if again:
            where = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
            with submitit.helpers.clean_env():  # the jobs are not to inherit what SLURM has set for this one
                os.environ.update(where)
                _send_again(suite, store, submission, again)
    except SymbenchError as error:
        _leave(suite, store, again, str(error))
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
    """Cell id -> class of failure, of all that the jobs left without a result; records that died are marked so.

    Cells of jobs that may yet be in the queue do not stand here.
    """
    states, is_over = _ask(submission)
    by_id = {cell.id: cell for cell in suite.cells}
    failed: dict[str, str] = {}
    for job in filter(is_over, submission.jobs):
        cells = [by_id[cell_id] for cell_id in submission.jobs[job] if cell_id in by_id]
        records, _ = store.read(cells)
        begun = {key for key, record in records.items() if record.status.attempt != submission.seen.get(key, 0)}
        failure = failures.of_job(states.get(job, ""))
        for cell in cells:
            record = records.get(cell.id)
            if (record and record.status.is_result) or store.being_run(cell):
                continue
            if record is None or cell.id not in begun:
                was_going = begun and failure != "cancelled"
                failed[cell.id] = "not_begun" if was_going else failures.of_job(states.get(job, ""), "no_start")
                continue
            told = record.status.failure if record.status.state == "failed" else ""
            if told and not (failure == "cancelled" and told in ("preempted", "time_limit")):
                failed[cell.id] = told if told in failures.POLICIES else "code_error"
                continue
            failed[cell.id] = failure
            store.fail(record, failure, f"job {job} ended: {failures.POLICIES[failure].meaning}")
    return failed


def _ask(submission: Submission) -> tuple[Mapping[str, str], Callable[[str], bool]]:
    """What accounting says of the jobs, and whether one of them is over; SLURM is asked for a while.

    Without squeue it is what accounting says. The collector's own job knows without asking: SLURM starts it when all
    others are over.
    """
    unfinished = slurm.WAITING | slurm.ACTIVE
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        queue, states = slurm.queue(), slurm.accounts(submission.jobs)
        lags = queue is not None and any(states.get(job) in unfinished for job in submission.jobs if job not in queue)
        answers = queue is not None or bool(slurm.missing("squeue"))
        if (answers and not lags) or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    came_after_all = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def is_over(job: str) -> bool:
        if queue is not None:
            return job not in queue
        return came_after_all or (job in states and states[job].split()[0] not in unfinished)

    return states, is_over


def _send_again(suite: Suite, store: Store, submission: Submission, failed: Mapping[str, str]) -> None:
    if missing := slurm.missing("sbatch", "srun", "squeue"):
        raise MachineError(f"{', '.join(missing)} not found where the last job runs, on {socket.gethostname()}")
    work = work_for(suite, store, submission.site, failed)
    ranks = {cell.id: batch.shape.ranks for batch in work.batches for job in batch.jobs for cell in job}
    sent_again, micro_batches = {}, {}
    for cell in work.left:
        failure, before = failed[cell.id], submission.sent_again.get(cell.id, {})
        sent_again[cell.id] = {**before, failure: before.get(failure, 0) + 1}
        if cell.id in submission.micro_batches:
            micro_batches[cell.id] = submission.micro_batches[cell.id]
        if failures.POLICIES[failure].halve:
            whole = cell.train.batch_size // ranks[cell.id]
            micro_batches[cell.id] = max(1, micro_batches.get(cell.id, whole) // 2)
    if work.left:
        submit(suite, store, submission.site, work.batches, collect, sent_again, micro_batches)


def _leave(suite: Suite, store: Store, cell_ids: Iterable[str], reason: str) -> None:
    """Say in the log and in the records why cells that should have been sent again were not."""
    print(f"nothing is sent again: {reason}; `symbench run` on a login node does it", flush=True)
    chosen = set(cell_ids)
    records, _ = store.read([cell for cell in suite.cells if cell.id in chosen])
    for record in records.values():
        if record.status.state == "failed":
            message = record.status.message.partition("; not sent again: ")[0]
            store.fail(record, record.status.failure, f"{message}; not sent again: {reason}")


def show(suite: Suite, store: Store) -> None:
    """Bring MLflow and the report up to date; `STORE/<suite file>.html`."""
    from results import mlflow_view, report  # MLflow and matplotlib take seconds to import
    from results.leaderboard import aggregate

    records, broken = store.read(suite.cells)
    panels = report.panels_of(aggregate(suite.cells, records), records)
    html = report.render(store, suite, records, broken, panels=panels)
    write_text(store.root / f"{_file_name(suite.name)}.html", html)
    mlflow_view.sync(store, suite, report_html=html, panels=panels)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
