"""Probes: a short job that times training steps of each kind of cell, here or on a cluster."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import submitit

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.files import data_folder, write_json, write_text
from benchmark.planning.plan import unmeasured
from benchmark.planning.probe import measure
from benchmark.planning.step_timing import StepTiming
from benchmark.suite.suite import Suite
from cluster.jobs import failures
from cluster.jobs.capacity import shapes_here, visible_gpus
from cluster.jobs.launch import local_job, start, stop
from cluster.jobs.packing import Shape, require_precision, shapes
from cluster.jobs.worker import lane_of, load
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.estimates import timings
from cluster.slurm.probe_results import ProbeResults
from cluster.slurm.sbatch import cluster_folder, executor_for, submission_errors
from cluster.slurm.submit import job_for
from cluster.slurm.waiting import last_log_line, wait_for, wait_for_files
from results.store.record import Record
from results.store.store import Store

MINUTES = 15
"""Time limit of a probe's job, without the time after the signal."""
DISK_SECONDS = 10.0
POLL_SECONDS = 0.5
Report = Callable[[str], None]


def probe_suite_here(
    suite: Suite, cells: Sequence[Cell], records: Mapping[str, Record], store: Store, report: Report
) -> None:
    """Time the kinds of `cells`, a selection from `suite`, that have neither a finished cell nor a probe here."""
    store.make()
    shapes_of = shapes_here(suite, store)
    for resources, part in replace(suite, cells=tuple(cells)).by_resources().items():
        require_precision(part.cells, shapes_of[resources].device)
        wanted = unmeasured(part.cells, timings(records.values(), shapes_of[resources]))
        probe_here(wanted, store, shapes_of[resources], report)


def probe_suite_on_site(
    suite: Suite, records: Mapping[str, Record], store: Store, site: Site, patience_seconds: float, report: Report
) -> None:
    """Time the kinds of cells that have neither a finished cell nor a probe on `site`, in a job for each shape."""
    for shape, members in shapes(suite, suite.cells, site).items():
        wanted = unmeasured(members, timings(records.values(), shape))
        if wanted:
            probe_on_site(wanted, store, site, replace(shape, minutes=None), patience_seconds, report)


def probe_here(cells: Sequence[Cell], store: Store, shape: Shape, report: Report) -> None:
    """Measure one cell of each kind without a result on this machine; call `report` for each failure.

    After Ctrl-C, the results so far are kept.
    """
    results = ProbeResults.here(store, shape)
    wanted = results.unmeasured(cells)
    if not wanted:
        return
    job_file = local_job(store, wanted, shape, ",".join(visible_gpus()) if shape.device == "cuda" else None)
    handle = start(measure_all, job_file, shape.ranks * shape.lanes)
    try:
        while not handle.done():
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        stop([handle])
        raise
    finally:
        _keep(results, wanted, job_file.parent, handle.job_id, report)


def probe_on_site(
    cells: Sequence[Cell], store: Store, site: Site, shape: Shape, patience_seconds: float, report: Report
) -> None:
    """Measure one cell of each kind without a result in one short job on `site`.

    Raises MachineError if SLURM refuses the job or it does not end in time. It is then cancelled, and its results so
    far are kept.
    """
    results = ProbeResults.on_site(store, site, shape)
    wanted = results.unmeasured(cells)
    if not wanted:
        return
    folder = cluster_folder(store.root)
    job_file = folder / "job.json"
    write_text(job_file, job_for(store, site, shape, wanted).model_dump_json(indent=1))
    short = site.model_copy(update={"minutes": min(site.minutes, MINUTES + -(-site.signal_seconds // 60))})
    with submission_errors("probe"):
        sent = executor_for(folder, short, shape, "symbench probe").submit(measure_all, str(job_file))
    report(f"probe: job {sent.job_id} times {len(wanted)} {'kind' if len(wanted) == 1 else 'kinds'} of cells")
    state = None
    try:
        say = lambda state: report(f"probe: job {sent.job_id} is {state}")  # noqa: E731
        state = wait_for(sent.job_id, folder, patience_seconds, site.poll_seconds, say)
        if state is None:
            wait_for_files(folder, {_answer(cell) for cell in wanted}, DISK_SECONDS)
    finally:
        _keep(results, wanted, folder, sent.job_id, report if state is None else lambda line: None)
    if state is not None:
        slurm.cancel([sent.job_id])
        raise MachineError(
            f"the probe, job {sent.job_id}, is {state} after {patience_seconds:.0f} s and was cancelled; "
            "wait longer with --patience, or plan without --probe"
        )


def _keep(results: ProbeResults, wanted: Sequence[Cell], folder: Path, job: str, report: Report) -> None:
    for cell in wanted:
        if not (folder / _answer(cell)).exists():
            line = last_log_line(folder, job)
            reason = f"the job ended before{': ' + line if line else ''}; its logs are in {folder}"
        else:
            answer = json.loads((folder / _answer(cell)).read_text(encoding="utf-8"))
            if "step" in answer:
                results.keep(cell, StepTiming(**answer))
                continue
            reason = answer["reason"]
        report(f"not probed: {cell.model.name} on {cell.dataset.name} ({cell.dataset.preset}): {reason}")


def measure_all(job_file: str) -> None:
    """Entry point of a probe's job on every rank. All lanes measure, as cells run side by side; rank 0 writes results.

    An error ends one measurement. With several ranks it ends the job, since other ranks may wait in a collective
    operation.
    """
    path = Path(job_file)
    job = load(path)
    is_main = submitit.JobEnvironment().global_rank == 0
    with lane_of(job, path) as (world, _):
        for cell in job.cells:
            failure: Exception | None = None
            try:
                timing = measure(cell, world, data_folder(job.store))
                answer = asdict(timing) if timing is not None else {"reason": "the model cannot run on this task"}
            except Exception as error:  # noqa: BLE001 - a model of a plug-in may raise anything
                print(traceback.format_exc(), flush=True)
                failure, answer = error, {"reason": failures.describe(error)}
            if is_main:
                write_json(path.with_name(_answer(cell)), answer)
            if failure is not None and world.size > 1:
                raise failure


def _answer(cell: Cell) -> str:
    return f"timing-{cell.id}.json"
