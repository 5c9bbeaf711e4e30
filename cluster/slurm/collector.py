"""The last job of a submission: classifies failures, sends cells again, and updates MLflow and the report."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import submitit

from benchmark import discovery
from benchmark.errors import MachineError, SymbenchError
from benchmark.files import write_text
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from cluster.jobs import policies, snapshot
from cluster.jobs.signals import time_limit
from cluster.slurm import commands as slurm
from cluster.slurm.submissions import Submission, read
from cluster.slurm.submit import Options, submit
from cluster.slurm.work import work_for
from results.store.lease import BEAT_SECONDS, STALE_SECONDS
from results.store.record import Record
from results.store.store import Store

LOOK_SECONDS = 5.0
"""Time between two looks at leases, which are files."""
SYNC_SECONDS = 900
"""A server that drips its answers, byte by byte, would never reach the limit of one request."""
ANSWER_SECONDS = 120.0
"""Time for which SLURM is asked again if it does not answer or accounting lags behind."""


def collect(submission_file: str) -> None:
    """Classify failures, send cells again as the policies say, and update MLflow and the report.

    It may be called more than once. Without SLURM's commands, as in a container, it sends nothing, says so, and does
    the rest.
    """
    submission = read(Path(submission_file), Submission)
    snapshot.require(submission.code)
    for plugin in submission.plugins:
        discovery.add_plugin(plugin)
    store = Store(submission.store)
    suite = suites.load(str(submission.suite_file), store.root, submission.tuned, skip_untuned=True)
    _wait_for_leases(suite, store, submission)
    failed = classify(suite, store, submission)
    again = {cell_id: failure for cell_id, failure in failed.items() if submission.sends_again(cell_id, failure)}
    for cell_id, failure in failed.items():
        print(f"{failure}: {cell_id}{'' if cell_id in again else ', not sent again'}", flush=True)
    try:
        if again or submission.unsent:
            kept = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
            with submitit.helpers.clean_env():  # new jobs must not inherit SLURM's variables of this one
                os.environ.update(kept)
                _send_again(suite, store, submission, again)
    except SymbenchError as error:
        _note_not_sent(suite, store, again, str(error))
        if submission.unsent:  # they have no record; `status` names a last job that failed
            raise
    finally:
        show(suite, store)


def _wait_for_leases(suite: Suite, store: Store, submission: Submission) -> None:
    """Wait until no process holds a cell of the jobs, or leases of dead processes must be stale."""
    sent = {cell_id for cells in submission.jobs.values() for cell_id in cells}
    cells = [cell for cell in suite.cells if cell.id in sent]
    deadline = time.monotonic() + STALE_SECONDS + BEAT_SECONDS
    while any(store.being_run(cell) for cell in cells) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def classify(suite: Suite, store: Store, submission: Submission) -> dict[str, str]:
    """Cell id -> class of failure of the unfinished cells of ended jobs; also noted in records that say `running`."""
    states, has_ended = _job_states(submission)
    by_id = {cell.id: cell for cell in suite.cells}
    failed: dict[str, str] = {}
    for job in filter(has_ended, submission.jobs):
        cells = [by_id[cell_id] for cell_id in submission.jobs[job] if cell_id in by_id]
        records, _ = store.read(cells)
        begun = {key for key, record in records.items() if record.status.attempt != submission.seen.get(key, 0)}
        failure = policies.classify_job_state(states.get(job, ""))
        for cell in cells:
            record = records.get(cell.id)
            if (record and record.status.is_result) or store.being_run(cell):
                continue
            if record is None or cell.id not in begun:
                no_start = policies.classify_job_state(states.get(job, ""), "no_start")
                failed[cell.id] = "not_begun" if begun and failure != "cancelled" else no_start
                continue
            cause = _cause(record, failure, submission.epochs.get(cell.id, 0))
            failed[cell.id] = cause
            if cause not in (record.status.failure, "code_error"):  # its message stays where the cell's own class does
                _note(store, record, cause, f"job {job} ended: {policies.POLICIES[cause].meaning}")
    return failed


def _cause(record: Record, failure: str, epochs_before: int) -> str:
    """Class of failure of a cell whose job ended with `failure`: as recorded, unless the job knows better."""
    recorded = record.status.failure if record.status.state == "failed" else ""
    if not recorded:
        hangs = failure == "time_limit" and record.status.epoch <= epochs_before
        return "hang" if hangs else failure
    if recorded == "communication" and failure != "killed":  # a rank lost its peer, and the job knows why
        return failure
    if failure == "cancelled" and recorded in ("preempted", "time_limit"):
        return failure
    return recorded if recorded in policies.POLICIES else "code_error"


def _note(store: Store, record: Record, failure: str, message: str) -> None:
    """Note a failure in the record; a record that cannot be written is named, and stays as it is."""
    try:
        store.fail(record, failure, message)
    except MachineError as error:
        print(error, flush=True)


def _job_states(submission: Submission) -> tuple[Mapping[str, str], Callable[[str], bool]]:
    """States of the jobs according to accounting, and a function that says whether a job has ended.

    The function uses the queue, or without squeue accounting. In a SLURM job all jobs have ended, since SLURM starts
    the collector after them.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        queue, states = slurm.queue(), slurm.accounting_states(submission.jobs)
        lags = queue is not None and any(
            states.get(job) in slurm.UNFINISHED for job in submission.jobs if job not in queue
        )
        answers = queue is not None or bool(slurm.missing("squeue"))
        if (answers and not lags) or time.monotonic() > deadline:
            break
        time.sleep(submission.site.poll_seconds)
    is_slurm_job = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def has_ended(job: str) -> bool:
        if queue is not None:
            return job not in queue
        return is_slurm_job or (job in states and states[job].split()[0] not in slurm.UNFINISHED)

    return states, has_ended


def _send_again(suite: Suite, store: Store, submission: Submission, failed: Mapping[str, str]) -> None:
    if missing := slurm.missing("sbatch", "srun", "squeue"):
        raise MachineError(f"{', '.join(missing)} not found where the last job runs, on {socket.gethostname()}")
    wanted = {*failed, *submission.unsent}
    sent_again = {cell_id: dict(counts) for cell_id, counts in submission.sent_again.items() if cell_id in wanted}
    for cell_id, failure in failed.items():
        counts = sent_again.setdefault(cell_id, {})
        counts[failure] = counts.get(failure, 0) + 1
    # no other cell waits behind one that hangs
    alone = {cell_id for cell_id, counts in sent_again.items() if counts.keys() - {"not_begun", "no_start"}}
    work = work_for(suite, store, submission.site, wanted, alone, submission.collector)
    shapes = {cell.id: batch.shape for batch in work.batches for job in batch.jobs for cell in job}
    neighbours = {cell_id for job in submission.jobs.values() if len(job) > 1 for cell_id in job}
    micro_batches = {key: size for key, size in submission.micro_batches.items() if key in wanted}
    for cell in work.cells:
        if cell.id in failed and policies.POLICIES[failed[cell.id]].halve:
            if shapes[cell.id].lanes > 1 and cell.id in neighbours:  # it may fit where it is alone
                continue
            rank_batch = cell.train.batch_size // shapes[cell.id].ranks
            micro_batches[cell.id] = max(1, micro_batches.get(cell.id, rank_batch) // 2)
    if work.cells:
        options = Options(submission.code, sent_again, micro_batches)
        submit(suite, store, submission.site, work.batches, collect, options)


def _note_not_sent(suite: Suite, store: Store, cell_ids: Iterable[str], reason: str) -> None:
    """Print why cells were not sent again, and note it in their records."""
    print(f"nothing is sent again: {reason}; use `symbench run` on a login node", flush=True)
    chosen = set(cell_ids)
    records, _ = store.read([cell for cell in suite.cells if cell.id in chosen])
    for record in records.values():
        if record.status.state == "failed":
            message = record.status.message.partition("; not sent again: ")[0]
            _note(store, record, record.status.failure, f"{message}; not sent again: {reason}")


def show(suite: Suite, store: Store) -> None:
    """Update MLflow and the report, `STORE/<suite>.html`."""
    from results.report.report import Report
    from results.tracking import sync as mlflow_sync  # MLflow and matplotlib take seconds to import

    report = Report(store, suite, *store.read(suite.cells))
    file_name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in suite.name)
    write_text(store.root / f"{file_name}.html", report.html)
    with time_limit(SYNC_SECONDS, f"MLflow: the sync takes longer than {SYNC_SECONDS} s"):
        mlflow_sync.sync(store, suite, report=report)
