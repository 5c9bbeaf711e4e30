"""Probes: a few training steps of each kind of cell, timed in a short job where the cells will run, and kept.

`STORE/paces/<key>.json` holds one; the key covers the kind of cell, the ranks, and the machine or what decides the
speed on a site, so that a probe says nothing of another model, another size of data or another place.
"""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit
import torch

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.files import data_folder, write_json, write_text
from benchmark.planning.step_timing import Pace, kind, measure
from benchmark.training.environment import available_cpus
from cluster.jobs import failures
from cluster.jobs.launch import local_job, start, stop, visible_gpus
from cluster.jobs.packing import Shape
from cluster.jobs.worker import lane_of, load
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.executor import cluster_folder, executor_for, submission_errors
from cluster.slurm.submit import job_for
from cluster.slurm.waiting import last_log_line, wait_for, wait_for_files
from results.store.store import Store

SCHEMA_VERSION = 1
MINUTES = 15
"""Time limit of a probe's job, on top of what comes after the signal."""
DISK_SECONDS = 10.0
POLL_SECONDS = 0.5
Say = Callable[[str], None]


@dataclass(frozen=True)
class ProbeResults:
    """The probes of one place, for cells of one shape."""

    folder: Path
    where: Mapping[str, Any]
    shape: Shape

    @classmethod
    def here(cls, store: Store, shape: Shape) -> ProbeResults:
        """Of this machine."""
        device = torch.cuda.get_device_name(0) if shape.device == "cuda" else platform.machine()
        where = {"host": socket.gethostname(), "device": device, "cpus": available_cpus()}
        return cls(store.root / "paces", where, shape)

    @classmethod
    def on_site(cls, store: Store, site: Site, shape: Shape) -> ProbeResults:
        """Of the nodes that `site` asks for."""
        keys = {"partition", "constraint", "gres", "gpus_per_node", "cpus", "setup", "python", "srun"}
        where = {"cluster": slurm.settings().get("ClusterName", ""), **site.model_dump(mode="json", include=keys)}
        return cls(store.root / "paces", where, shape)

    def read(self, cell: Cell) -> Pace | None:
        """What was measured for the kind of `cell`; None where nothing was, or it cannot be read."""
        try:
            document = json.loads(self._path(cell).read_text(encoding="utf-8"))
            return Pace(**document["pace"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, cell: Cell, pace: Pace) -> None:
        write_json(self._path(cell), {**self._document(cell), "pace": asdict(pace), "time": time.time()})

    def key(self, cell: Cell) -> str:
        """16 hex digits: equal for what is equally fast."""
        canonical = json.dumps(self._document(cell), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def open_kinds(self, cells: Sequence[Cell]) -> list[Cell]:
        """One cell of each kind that was not measured yet."""
        return list({self.key(cell): cell for cell in reversed(cells) if self.read(cell) is None}.values())[::-1]

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{self.key(cell)}.json"

    def _document(self, cell: Cell) -> dict[str, Any]:
        return {"schema": SCHEMA_VERSION, "where": dict(self.where), "shape": asdict(self.shape), "kind": kind(cell)}


def probe_here(cells: Sequence[Cell], store: Store, shape: Shape, say: Say) -> None:
    """Measure one cell of each kind of `cells` on this machine, and keep it; `say` is told what could not be measured.

    What was measured before is not measured again. Ctrl-C ends it, and keeps what was measured by then.
    """
    paces = ProbeResults.here(store, shape)
    wanted = paces.open_kinds(cells)
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
        _keep(paces, wanted, job_file.parent, handle.job_id, say)


def probe_on_site(
    cells: Sequence[Cell], store: Store, site: Site, shape: Shape, patience_seconds: float, say: Say
) -> None:
    """The same in one short job on `site`. MachineError: SLURM refuses it, or it is not done in time; it is then
    cancelled, and what it had measured is kept."""
    paces = ProbeResults.on_site(store, site, shape)
    wanted = paces.open_kinds(cells)
    if not wanted:
        return
    folder = cluster_folder(store.root)
    job_file = folder / "job.json"
    write_text(job_file, job_for(store, site, shape, wanted).model_dump_json(indent=1))
    short = site.model_copy(update={"minutes": min(site.minutes, MINUTES + -(-site.signal_seconds // 60))})
    with submission_errors("probe"):
        sent = executor_for(folder, short, shape, "symbench probe").submit(measure_all, str(job_file))
    say(f"probe: job {sent.job_id} times {len(wanted)} {'kind' if len(wanted) == 1 else 'kinds'} of cells")
    state = None
    try:
        state = wait_for(sent.job_id, patience_seconds, lambda state: say(f"probe: job {sent.job_id} is {state}"))
        if state is None:
            wait_for_files(folder, {_answer(cell) for cell in wanted}, DISK_SECONDS)
    finally:
        _keep(paces, wanted, folder, sent.job_id, say if state is None else lambda line: None)
    if state is not None:
        slurm.cancel([sent.job_id])
        raise MachineError(
            f"the probe, job {sent.job_id}, is {state} after {patience_seconds:.0f} s and was cancelled; "
            "wait longer with --patience, or plan without --probe"
        )


def _keep(paces: ProbeResults, wanted: Sequence[Cell], folder: Path, job: str, say: Say) -> None:
    for cell in wanted:
        if not (folder / _answer(cell)).exists():
            words = last_log_line(folder, job)
            reason = f"the job ended before that{': ' + words if words else ''}; its logs are in {folder}"
        else:
            answer = json.loads((folder / _answer(cell)).read_text(encoding="utf-8"))
            if "step" in answer:
                paces.keep(cell, Pace(**answer))
                continue
            reason = answer["reason"]
        say(f"not probed: {cell.model.name} on {cell.dataset.name} ({cell.dataset.preset}): {reason}")


def measure_all(job_file: str) -> None:
    """What runs in the job, on every rank of it; lanes measure side by side, as cells will run, and the first is heard.

    An error ends one measurement; with several ranks it ends the job, since the others may wait in a collective.
    """
    path = Path(job_file)
    job = load(path)
    is_heard = submitit.JobEnvironment().global_rank == 0
    with lane_of(job, path) as (world, _):
        for cell in job.cells:
            try:
                pace = measure(cell, world, data_folder(job.store))
                answer = asdict(pace) if pace is not None else {"reason": "the model cannot run on this task"}
            except Exception as error:
                print(traceback.format_exc(), flush=True)
                answer = {"reason": failures.describe(error)}
                if world.size > 1:
                    if is_heard:
                        write_json(path.with_name(_answer(cell)), answer)
                    raise
            if is_heard:
                write_json(path.with_name(_answer(cell)), answer)


def _answer(cell: Cell) -> str:
    return f"pace-{cell.id}.json"
