"""The last job of a submission: names what failed, sends again what may go better, and shows the rest."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import submitit

from benchmark.errors import MachineError, SymbenchError
from benchmark.files import write_text
from benchmark.models import model_registry
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from cluster.jobs import failures
from cluster.slurm import commands as slurm
from cluster.slurm.submissions import Submission, read
from cluster.slurm.submit import submit
from cluster.slurm.work import work_for
from results.store.lease import BEAT_SECONDS, STALE_SECONDS
from results.store.store import Store

POLL_SECONDS = 5.0
ANSWER_SECONDS = 120.0
"""So long the collector goes on asking where SLURM does not answer, or accounting lags behind."""


def collect(submission_file: str) -> None:
    """What the last job does: name what failed, send again what may go better, and show the rest.

    It may be called at any time after the jobs, and more than once. Without SLURM's commands, as in a container, it
    still names and shows, and says that nothing was sent.
    """
    submission = read(Path(submission_file), Submission)
    for plugin in submission.plugins:
        model_registry.add_plugin(plugin)
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
        failure = failures.classify_job_state(states.get(job, ""))
        for cell in cells:
            record = records.get(cell.id)
            if (record and record.status.is_result) or store.being_run(cell):
                continue
            if record is None or cell.id not in begun:
                was_going = begun and failure != "cancelled"
                failed[cell.id] = (
                    "not_begun" if was_going else failures.classify_job_state(states.get(job, ""), "no_start")
                )
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
    for cell in work.cells:
        failure, before = failed[cell.id], submission.sent_again.get(cell.id, {})
        sent_again[cell.id] = {**before, failure: before.get(failure, 0) + 1}
        if cell.id in submission.micro_batches:
            micro_batches[cell.id] = submission.micro_batches[cell.id]
        if failures.POLICIES[failure].halve:
            whole = cell.train.batch_size // ranks[cell.id]
            micro_batches[cell.id] = max(1, micro_batches.get(cell.id, whole) // 2)
    if work.cells:
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
    from results.board.leaderboard import aggregate
    from results.report import report
    from results.tracking import sync as mlflow_sync  # MLflow and matplotlib take seconds to import

    records, broken = store.read(suite.cells)
    panels = report.panels_of(aggregate(suite.cells, records), records)
    html = report.render(store, suite, records, broken, panels=panels)
    write_text(store.root / f"{_file_name(suite.name)}.html", html)
    mlflow_sync.sync(store, suite, report_html=html, panels=panels)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
